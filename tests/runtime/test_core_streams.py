"""Streams as a caller sees them: order, cancel, drop, admission, results, deadlines, and dialects that break the rules."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from worker_adapters import (
    AdapterClosedError,
    AdmissionRejectedError,
    CancelOutcome,
    End,
    ErrorCode,
    FinishReason,
    InvalidRequestError,
    Limits,
    Metrics,
    Phase,
    Reason,
    Retry,
    Started,
    StreamCancelledError,
    Token,
    WorkerError,
)
from worker_adapters.dialect import Fault, Finished, Opened
from worker_adapters.engines import mock
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Hang, Script

from ..transport.servers import Client, Server, chunk, head
from .mocked import adapter_of, busy, end, errors, good, in_thread, kinds, request, sent, tokens, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Event, Stream

WAYS = ("submit", "stream")
both = pytest.mark.parametrize("way", WAYS)


def start(adapter: EngineAdapter, way: str, **options: Any) -> Stream:
    fields = options.pop("fields", {})
    stream: Stream = getattr(adapter, way)(request(**fields), **options)
    return stream


def cancelled(event: Event) -> bool:
    return isinstance(event, End) and event.finish_reason is FinishReason.CANCELLED


# --- the end ------------------------------------------------------------------------------------------------------------


@both
def test_nothing_follows_the_terminal_event(way: str) -> None:
    for script, last in ((good(), "end"), (busy(), "error")):
        with adapter_of(script) as adapter:
            stream = start(adapter, way)
            assert kinds(stream)[-1] == last
            for _ in range(3):
                with pytest.raises(StopIteration):
                    next(stream)


@both
def test_what_comes_with_the_first_read_is_handed_on_at_once(way: str) -> None:
    """Started goes ahead of the Token that came with it, which must not wait for the engine's next one."""
    silent = threading.Event()

    def serve(client: Client) -> None:
        if not client.request().startswith(b"POST"):
            return  # the version is nobody's business here
        client.send(head("Transfer-Encoding: chunked"))
        silent.wait(0.05)  # so that it is a read of its own
        client.send(chunk(tokens(1)))
        silent.wait(10)

    with Server(serve) as server:
        config = AdapterConfig(dialect=mock.DIALECT, url=server.url, retry=Retry(attempts=1))
        with EngineAdapter(config) as adapter, start(adapter, way) as stream:
            assert [stream.get(2).kind, stream.get(2).kind] == ["started", "token"]
        silent.set()


# --- cancel -------------------------------------------------------------------------------------------------------------


def test_a_stream_cancelled_before_its_first_next_sends_nothing() -> None:
    with adapter_of(good()) as adapter:
        stream = adapter.stream(request())
        assert stream.cancel() is CancelOutcome.CLOSED
        events = list(stream)
        assert kinds(events) == ["end"]
        assert cancelled(events[0])
        assert sent(adapter) == 0


@both
def test_a_cancel_after_the_end_changes_nothing(way: str) -> None:
    with adapter_of(good()) as adapter:
        stream = start(adapter, way)
        while not isinstance(event := next(stream), End):
            pass
        assert event.finish_reason is FinishReason.LENGTH
        assert stream.cancel() is CancelOutcome.UNKNOWN
        assert adapter.cancel(stream.task_id) is CancelOutcome.UNKNOWN
        assert list(stream) == []
        assert adapter.cancel("never heard of") is CancelOutcome.UNKNOWN


@both
def test_an_end_that_was_not_read_yet_can_still_be_cancelled(way: str) -> None:
    """Buffered Tokens are dropped, and the End behind them: the caller said that it wants no more."""
    for by in ("stream", "adapter"):
        with adapter_of(good(3)) as adapter:
            stream = start(adapter, way)
            assert isinstance(next(stream), Started)
            assert isinstance(next(stream), Token)
            outcome = stream.cancel() if by == "stream" else adapter.cancel(stream.task_id)
            assert outcome is CancelOutcome.CLOSED
            (last,) = stream
            assert cancelled(last)


def test_a_full_hand_over_is_cancelled() -> None:
    reached = threading.Event()
    steps = waiting([tokens(1, n) for n in range(4)], reached)
    with adapter_of(Script(steps=itertools.chain(steps, [Hang()])), limits=Limits(hand_over=8)) as adapter:
        stream = adapter.submit(request())
        assert reached.wait(10)
        stream.cancel()
        assert [cancelled(e) for e in stream] == [True]
    endless = (tokens(1, n) for n in itertools.count())
    with adapter_of(Script(steps=endless), limits=Limits(hand_over=2, max_in_flight=1)) as adapter:
        stream = adapter.submit(request())
        assert isinstance(next(stream), Started)
        adapter.cancel(stream.task_id)
        assert [cancelled(e) for e in stream] == [True]
        with pytest.raises(StopIteration):
            next(stream)


def test_a_cancel_does_not_wait_for_a_worker_thread_that_is_stuck() -> None:
    """A look-up can't be interrupted: the consumer goes at once."""
    stuck, go_on = threading.Event(), threading.Event()

    def steps() -> Iterator[bytes]:
        stuck.set()
        go_on.wait(10)
        yield tokens(1)

    with adapter_of(Script(steps=steps())) as adapter:
        stream = adapter.submit(request())
        assert stuck.wait(10)
        events: list[Event] = []
        reader = in_thread(lambda: events.extend(stream))
        stream.cancel()
        reader.join(5)
        alive = reader.is_alive()
        go_on.set()
        assert not alive
        assert [cancelled(e) for e in events] == [True]


# --- dropped, left, closed ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_dropped_stream_frees_its_place(way: str, begun: bool, in_a_cycle: bool) -> None:
    hang = Hang()
    # A stream that has not begun on its own thread sends nothing, on a worker thread perhaps.
    scripts = {"answer": lambda wire: Script(steps=[tokens(2), hang]) if b"drop" in wire.body else good()}
    with adapter_of(limits=Limits(max_in_flight=1)) as adapter:
        adapter._transport._answer = scripts["answer"]
        holder: list[Any] = [start(adapter, way, fields={"prompt": "drop"})]
        if begun:
            assert isinstance(next(holder[0]), Started)
        if in_a_cycle:
            holder.append(holder)
        del holder
        gc.collect()
        again = start(adapter, way, block=True, fields={"deadline": 30.0})
        assert kinds(again)[-1] == "end"
        assert adapter.in_flight == 0


@both
def test_a_dropped_adapter_does_not_cut_its_streams(way: str) -> None:
    stream = start(adapter_of(good(3)), way)
    gc.collect()
    assert kinds(stream)[-1] == "end"


@both
def test_a_loop_over_a_temporary_stream_runs_to_its_end(way: str) -> None:
    with adapter_of(Script(steps=[tokens(1), tokens(1, 1), end(2)])) as adapter:
        events = [event for event in start(adapter, way)]  # noqa: C416  -- a for loop is the subject
        assert isinstance(events[-1], End)
        assert not cancelled(events[-1])


@both
def test_leaving_the_with_block_cancels(way: str) -> None:
    script = Script(steps=[tokens(2), Hang()])
    with adapter_of(script, good(), limits=Limits(max_in_flight=1)) as adapter:
        with start(adapter, way) as stream:
            assert isinstance(next(stream), Started)
        assert [cancelled(e) for e in stream] == [True]
        assert kinds(start(adapter, way, block=True, fields={"deadline": 30.0}))[-1] == "end"
        stream.close()  # harmless


@both
def test_close_ends_what_runs_and_refuses_what_comes(way: str) -> None:
    hang = Hang()
    adapter = adapter_of(Script(steps=[tokens(1), hang]), limits=Limits(max_in_flight=1))
    stream = start(adapter, way)
    events: list[Event] = []
    reader = in_thread(lambda: events.extend(stream))
    assert hang.reached.wait(10)
    refused: list[BaseException] = []

    def wait_for_a_place() -> None:
        with pytest.raises(AdapterClosedError) as raised:
            adapter.submit(request(), block=True)
        refused.append(raised.value)

    waiter = in_thread(wait_for_a_place)
    adapter.close()
    adapter.close()
    for thread in (reader, waiter):
        thread.join(10)
        assert not thread.is_alive()
    assert cancelled(events[-1])
    assert len(refused) == 1
    for use in (
        lambda: adapter.submit(request()),
        lambda: adapter.stream(request()),
        lambda: adapter.generate(request()),
        adapter.properties,
        adapter.engine_version,
        adapter.health,
    ):
        with pytest.raises(AdapterClosedError) as raised:
            use()
        assert raised.value.error.reason is Reason.ADAPTER_CLOSED
    assert adapter.cancel(stream.task_id) is CancelOutcome.UNKNOWN


# --- results ------------------------------------------------------------------------------------------------------------


@both
def test_result_collects_from_the_start(way: str) -> None:
    with adapter_of(good(3), probes=True) as adapter:
        stream = start(adapter, way)
        completion = stream.result()
        assert completion.text == "t0t1t2"
        assert completion.finish_reason == "length"
        assert (completion.tokens_out, completion.seed) == (3, 1)
        assert completion.metrics["tokens_out"] == 3
        assert stream.result() == completion  # it is kept


@both
def test_result_after_iteration_needs_collect(way: str) -> None:
    with adapter_of(good(3), good(3)) as adapter:
        stream = start(adapter, way)
        next(stream)
        with pytest.raises(RuntimeError, match="collect=True"):
            stream.result()
        stream.close()
        collecting = start(adapter, way, collect=True)
        next(collecting)
        next(collecting)
        assert collecting.result().text == "t0t1t2"


@both
def test_result_of_a_cancelled_stream_says_so(way: str) -> None:
    with adapter_of(Script(steps=[tokens(2), Hang()])) as adapter:
        stream = start(adapter, way, collect=True)
        next(stream)
        assert isinstance(next(stream), Token)
        stream.cancel()
        with pytest.raises(StreamCancelledError) as raised:
            stream.result()
        assert raised.value.partial.text == "t0t1"  # what had come, whatever its reader has taken
        assert raised.value.partial.end.tokens_out == 2
        assert raised.value.partial.finish_reason is FinishReason.CANCELLED


def test_generate_raises_with_what_had_come() -> None:
    dropped = Fault(Reason.DISCONNECTED, "dropped")
    with adapter_of(Script(steps=[tokens(2), dropped]), good(2), busy()) as adapter:
        with pytest.raises(WorkerError) as raised:
            adapter.generate(request())
        assert raised.value.error.code is ErrorCode.WORKER_RESET
        assert raised.value.partial.text == "t0t1"
        assert raised.value.partial.started is not None
        assert raised.value.partial.end is None
        assert adapter.generate(request()).text == "t0t1"
        with pytest.raises(WorkerError) as raised:
            adapter.generate(request())
        assert raised.value.partial.text == ""
        assert raised.value.partial.started is None
        assert adapter.in_flight == 0


# --- admission ----------------------------------------------------------------------------------------------------------


@both
def test_the_limit_of_streams_in_flight(way: str) -> None:
    scripts = (Script(steps=[tokens(1), Hang()]), good()) if way == "submit" else (good(),)
    with adapter_of(*scripts, limits=Limits(max_in_flight=1)) as adapter:
        first = start(adapter, way)
        if way == "submit":
            next(first)  # it has its script
        with pytest.raises(AdmissionRejectedError) as raised:
            start(adapter, way)
        error = raised.value.error
        assert (error.code, error.reason, error.retriable) == (ErrorCode.ADMISSION_REJECT, Reason.LOCAL_LIMIT, True)
        assert error.phase is Phase.PREPARE
        with pytest.raises(AdmissionRejectedError):  # waits, until its deadline
            start(adapter, way, block=True, fields={"deadline": 0.02})
        events: list[Event] = []
        waiter = in_thread(lambda: events.extend(start(adapter, way, block=True)))
        first.close()
        waiter.join(10)
        assert kinds(events)[-1] == "end"


@both
def test_a_task_id_is_in_flight_once(way: str) -> None:
    with adapter_of(Script(steps=[Hang()]), good()) as adapter:
        first = start(adapter, way, fields={"task_id": "one"})
        with pytest.raises(InvalidRequestError) as raised:
            start(adapter, way, fields={"task_id": "one"})
        assert raised.value.error.code is ErrorCode.INVALID_PARAMS
        assert isinstance(raised.value, ValueError)
        first.close()
        again = start(adapter, way, fields={"task_id": "one"})
        again.close()


# --- time ---------------------------------------------------------------------------------------------------------------


def test_a_deadline_frees_the_worker_though_nobody_reads() -> None:
    endless = (tokens(1, n) for n in itertools.count())
    with adapter_of(Script(steps=endless), good(), limits=Limits(max_in_flight=1, hand_over=3)) as adapter:
        stream = adapter.submit(request(deadline=0.05))
        assert kinds(adapter.submit(request(deadline=30.0), block=True))[-1] == "end"  # freed, and not a next() yet
        events = list(stream)
        assert kinds(events) == ["started", "token", "token", "error"]  # what was handed over is kept
        (error,) = errors(events)
        assert (error.code, error.reason) == (ErrorCode.DEADLINE_UNMET, Reason.DEADLINE)
        assert not error.retriable
        assert "0.05" in error.message


# --- dialects that break the rules ----------------------------------------------------------------------------------------


def decoding(*runs: Any) -> Any:
    """The mock's dialect, with a decoder that yields these runs, or raises them."""

    def decode(batches: Any, /, *, request: Any, tally: Any) -> Iterator[Any]:
        for _batch, run in zip(batches, runs, strict=False):
            if isinstance(run, BaseException):
                raise run
            yield list(run)

    return attrs.evolve(mock.DIALECT, decode=decode)


OPENED = Opened(tokens_in=1)
FINISHED = Finished(finish_reason=FinishReason.STOP, finish_reason_raw="stop")
EARLY = Metrics(values={"early": 1})
LATE = Metrics(values={"late": 1})


def token(index: int) -> Token:
    return Token(index=index, text=f"t{index}")


def run_of(*runs: Any, way: str = "stream") -> list[Event]:
    script = Script(steps=[tokens(1) for _ in runs])
    with adapter_of(script, dialect=decoding(*runs)) as adapter:
        return list(start(adapter, way))


@both
def test_a_decoder_that_raises_is_a_bug_and_is_logged(way: str, caplog: pytest.LogCaptureFixture) -> None:
    events = run_of([OPENED, token(0)], ValueError("what the user said"), way=way)
    assert kinds(events) == ["started", "token", "error"]
    (error,) = errors(events)
    assert (error.code, error.reason, error.retriable) == (ErrorCode.INTERNAL, Reason.BUG, False)
    bugs = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(bugs) == 1
    assert "ValueError" in bugs[0].getMessage()
    for shown in (error.message, caplog.text):
        assert "what the user said" not in shown  # decoders quote what they decode


@pytest.mark.parametrize(
    "runs",
    [
        ([token(0)], [FINISHED]),
        ([FINISHED],),
        ([EARLY, OPENED, token(0)], [FINISHED]),
        ([OPENED, token(1)], [FINISHED]),
        ([OPENED, token(0), token(2)], [FINISHED]),
        ([OPENED, token(0)], [token(2)], [FINISHED]),
        ([OPENED, token(0)], [token(0)], [FINISHED]),
        ([OPENED, token(0), LATE, token(2)], [FINISHED]),
        ([OPENED, token(0), FINISHED, FINISHED],),
        ([OPENED, FINISHED, token(0)], [FINISHED]),
        ([OPENED, token(0)], [OPENED, token(1)], [FINISHED]),
        ([OPENED, token(0)], [OPENED], [FINISHED]),
        ([OPENED, token(0), None, token(2)], [FINISHED]),
        ([OPENED, token(0), LATE, EARLY, token(3)], [FINISHED]),
    ],
)
def test_a_dialect_that_breaks_the_grammar_is_a_bug(runs: Any) -> None:
    events = run_of(*runs)
    (error,) = errors(events)
    assert error is events[-1]
    assert (error.code, error.reason) == (ErrorCode.INTERNAL, Reason.BUG)
    good_kinds = kinds(events)[:-1]
    assert good_kinds in ([], ["started"], ["started", "token"])


def test_what_follows_finished_is_never_read() -> None:
    events = run_of([OPENED, token(0)], [FINISHED], [FINISHED])
    assert kinds(events) == ["started", "token", "metrics", "end"]


def test_metrics_before_the_first_token_are_dropped() -> None:
    events = run_of([OPENED, EARLY], [EARLY], [EARLY, token(0), LATE], [LATE, token(1)], [FINISHED])
    assert kinds(events) == ["started", "token", "metrics", "metrics", "token", "metrics", "end"]
    assert EARLY not in events
    events = run_of([OPENED, token(0), LATE, token(1), token(2)], [FINISHED])  # in the middle of a run, too
    assert kinds(events) == ["started", "token", "metrics", "token", "token", "metrics", "end"]
    events = run_of([OPENED, EARLY], [FINISHED])
    assert kinds(events) == ["started", "end"]
