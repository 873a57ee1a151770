"""What a stream came to: collected from its start, asked for by anybody, raised where there is none."""

from __future__ import annotations

import copy
import pickle
import threading
from functools import partial

import pytest

from worker_adapters import (
    CancelOutcome,
    ErrorCode,
    FinishReason,
    Limits,
    Reason,
    StreamCancelledError,
    Token,
    WorkerError,
    as_completed,
)
from worker_adapters.dialect import Fault
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.runtime import adapter as adapter_module
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON, at_once
from ..transport.servers import Server, head
from .beside import Consumer, in_thread
from .dialects import (
    PHASES,
    TINY,
    adapter,
    busy,
    counted,
    endless,
    frames,
    good,
    kinds,
    request,
    status,
    texts,
    tokens,
    until,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


@both
def test_result_collects_from_the_start(way: str) -> None:
    with adapter(counted(3)) as a:
        stream = getattr(a, way)(request(seed=1))
        completion = stream.result()
        assert completion.text == "t0t1t2"
        assert completion.finish_reason == "length"
        assert (completion.tokens_out, completion.seed) == (3, 1)
        assert completion.metrics["tokens_out"] == 3
        assert stream.result() == completion  # it is kept


@both
def test_result_after_iteration_needs_collect(way: str) -> None:
    with adapter(counted(3), counted(3)) as a:
        stream = getattr(a, way)(request())
        next(stream)
        with pytest.raises(RuntimeError, match="collect=True"):
            stream.result()
        stream.close()
        collecting = getattr(a, way)(request(), collect=True)
        next(collecting)
        next(collecting)
        assert collecting.result().text == "t0t1t2"


@both
def test_result_of_a_cancelled_stream_says_so(way: str) -> None:
    with adapter(Script(steps=[tokens(2), Hang()])) as a:
        stream = getattr(a, way)(request(), collect=True)
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
    with adapter(Script(steps=[tokens(2), dropped]), counted(2), busy()) as a:
        with pytest.raises(WorkerError) as raised:
            a.generate(request())
        assert raised.value.error.code is ErrorCode.WORKER_RESET
        assert raised.value.partial.text == "t0t1"
        assert raised.value.partial.started is not None
        assert raised.value.partial.end is None
        assert a.generate(request()).text == "t0t1"
        with pytest.raises(WorkerError) as raised:
            a.generate(request())
        assert raised.value.partial.text == ""
        assert raised.value.partial.started is None
        assert a.in_flight == 0


@both
@pytest.mark.parametrize("phase", PHASES)
def test_a_result_that_is_not_there_in_time_may_be_asked_for_again(way, phase):
    hang = Hang()
    with adapter(PHASES[phase](hang)) as a:
        stream = getattr(a, way)(request())
        for timeout in (0.0, 0.02):
            with pytest.raises(TimeoutError):
                stream.result(timeout)
            with pytest.raises(TimeoutError):
                stream.exception(timeout)
        assert not stream.done()
        while not hang.reached.is_set():  # by who asks, where that drives it
            with pytest.raises(TimeoutError):
                stream.result(0.01)
        hang.release()
        completion = stream.result(5)
        assert completion.text == ("aab" if phase == "decode" else "ab")
        assert stream.done()
        assert stream.result(0) == completion
        assert stream.exception(0) is None


@both
def test_an_exception_is_what_result_raises(way):
    with adapter(status(401), Script(steps=[frames("ta"), Hang()])) as a:
        failed = getattr(a, way)(request())
        error = failed.exception()
        assert isinstance(error, WorkerError)
        assert error.reason == "UPSTREAM_AUTH"
        with pytest.raises(WorkerError) as caught:
            failed.result()
        assert caught.value.error == error.error
        stream = getattr(a, way)(request(), collect=True)
        assert [stream.get(5).kind, stream.get(5).kind] == ["started", "token"]
        stream.cancel()
        error = stream.exception()
        assert isinstance(error, StreamCancelledError)
        assert (error.partial.text, error.partial.finish_reason) == ("a", "cancelled")
        assert stream.done()


def test_generate_that_another_thread_ends_raises_with_what_had_come(monkeypatch):
    for by in ("cancel", "close"):
        hang = Hang()
        with adapter(Script(steps=[frames("ta", "tb"), hang])) as a:
            raised = []

            def run(a=a, raised=raised):
                with pytest.raises(StreamCancelledError) as caught:
                    a.generate(request(task_id="id"))
                raised.append(caught.value)

            thread = threading.Thread(target=run)
            thread.start()
            assert hang.reached.wait(5)
            if by == "cancel":
                a.cancel("id")
            else:
                monkeypatch.setattr(adapter_module, "CLOSE_SECONDS", 2 * SOON)
                with at_once():  # it waits for the stream, not for its patience to end
                    a.close()
            thread.join(5)
            partial = raised[0].partial
            assert (partial.text, partial.finish_reason, partial.started.task_id) == ("ab", "cancelled", "id")
            assert a.in_flight == 0


def test_a_collected_stream_needs_no_reader_however_small_the_hand_over():
    with adapter(Script(steps=[frames("tx")] * 200 + [frames(".")]), limits=Limits(hand_over=2)) as a:
        stream = a.submit(request(), collect=True)
        until(stream.done)
        assert a.in_flight == 0
        assert stream.result().text == "x" * 200


@both
def test_what_is_collected_is_bounded(way):
    """By the text that it keeps; what a reader takes for itself is its own."""
    limits = Limits(max_collected=100, hand_over=4)
    with adapter(*[Script(steps=endless(frames("txxxxxxxxxx"))) for _ in range(2)], limits=limits) as a:
        stream = getattr(a, way)(request(), collect=True)
        with pytest.raises(WorkerError) as caught:
            stream.result(5)
        assert (caught.value.code, caught.value.reason) == ("INTERNAL", "EVENT_TOO_LARGE")
        assert "100 characters" in str(caught.value)
        assert 100 <= len(caught.value.partial.text) <= 130
        assert a.in_flight == 0
        with getattr(a, way)(request()) as read_:
            assert len([next(read_) for _ in range(30)]) == 30


@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("ask", ["result", "as_completed", "generate", "collect=True"])
def test_how_much_is_collected_does_not_depend_on_when_it_was_asked_for(ask, length):
    """A text that was there before somebody asked is bounded as well, though it ended well for who reads it."""
    with adapter(good("tabc", f"t{'d' * (length - 3)}", "."), limits=Limits(max_collected=6)) as a:
        if ask == "generate":
            told = partial(a.generate, request())
        else:
            stream = a.submit(request(), collect=ask == "collect=True")
            until(stream.done)
            told = next(as_completed([stream])).result if ask == "as_completed" else stream.result
        if length <= 6:
            assert told().text == "abcddd"
            return
        for _ in range(2 if ask != "generate" else 1):
            with pytest.raises(WorkerError) as caught:
                told()
            assert (caught.value.code, caught.value.reason) == ("INTERNAL", "EVENT_TOO_LARGE")
            assert caught.value.partial.text == "abcdddd"


def test_a_collected_stream_may_be_read_as_well():
    with adapter(good("ta", "tb", "tc", ".")) as a:
        stream = a.submit(request(), collect=True)
        events = [next(stream), next(stream)]
        assert stream.result().text == "abc"
        assert kinds(events) == ["started", "token"]


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_who_gives_up_waiting_for_the_result_leaves_it_to_another_thread(way):
    hang, texts = Hang(), []
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")])) as a:
        stream = getattr(a, way)(request())
        with pytest.raises(TimeoutError):
            stream.result(0.02)
        other = threading.Thread(target=lambda: texts.append(stream.result(10).text))
        other.start()
        assert hang.reached.wait(5)
        hang.release()
        other.join(5)
        assert texts == ["ab"]
        assert stream.result().text == "ab"


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_the_result_of_a_stream_that_another_thread_iterates_is_not_taken_from_it(way):
    """Who asks for it waits, as for any future; who iterates has it all."""
    hang, asked = Hang(), []
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")])) as a:
        stream = getattr(a, way)(request(), collect=True)
        assert next(stream).kind == "started"

        def ask():
            with pytest.raises(TimeoutError):
                stream.result(0.02)
            asked.append("too early")
            asked.append(stream.result(10).text)

        other = threading.Thread(target=ask)
        other.start()
        until(lambda: asked == ["too early"])
        hang.release()
        assert kinds(stream) == ["token", "token", "metrics", "end"]
        other.join(5)
        assert asked == ["too early", "ab"]


@both
def test_a_result_leaves_a_collected_stream_to_whoever_iterates_it_afterwards(way):
    with adapter(good("ta", "tb", "."), good("ta", "tb", ".")) as a:
        stream = getattr(a, way)(request(), collect=True)
        assert stream.result().text == "ab"
        consumer = Consumer(stream)
        assert kinds(consumer.join()) == ["started", "token", "token", "metrics", "end"]
        with getattr(a, way)(request(), collect=True) as left:
            assert left.result().text == "ab"
        assert left.result().text == "ab"  # it was whole when it was left


@both
@pytest.mark.parametrize("had", [0, 1, 2])
def test_a_result_takes_nothing_from_whoever_goes_on_iterating(way, had):
    """Of a stream() it took the rest."""
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", "tc"), frames(".")])) as a:
        stream = getattr(a, way)(request(), collect=True)
        events = [next(stream) for _ in range(had)]
        for _ in range(2):
            with pytest.raises(TimeoutError):
                stream.result(0.02)
        if had < 2:  # what came before the hang
            events.append(next(stream))
        hang.release()
        assert stream.result(SOON).text == "abc"
        assert texts([*events, *stream]) == "abc"


@both
def test_a_cancel_takes_back_what_a_result_has_left(way):
    with adapter(Script(steps=[frames("ta"), Hang()])) as a:
        stream = getattr(a, way)(request(), collect=True)
        with pytest.raises(TimeoutError):
            stream.result(0.05)
        stream.cancel()
        assert kinds(stream) == ["end"]


@both
def test_another_thread_iterates_what_was_collected_in_vain_by_the_first(way):
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")])) as a:
        stream = getattr(a, way)(request(), collect=True)
        with pytest.raises(TimeoutError):
            stream.result(0.05)
        consumer = Consumer(stream)
        hang.release()
        assert texts(consumer.join()) == "ab"


@both
@pytest.mark.parametrize("phase", PHASES)
def test_another_thread_iterates_what_is_being_collected(way, phase):
    """Whoever asked for its result first takes nothing from who iterates, nor waits for less."""
    hang, results = Hang(), []
    with adapter(PHASES[phase](hang)) as a:
        stream = getattr(a, way)(request(), collect=True)
        others = [in_thread(lambda: results.append(stream.result(SOON).text)) for _ in range(2)]
        assert hang.reached.wait(5)
        consumer = Consumer(stream)
        if way == "stream":
            until(lambda: stream._handed._readers.get("by") == consumer.thread.ident)
        hang.release()
        events = consumer.join()
        whole = "aab" if phase == "decode" else "ab"
        assert (kinds(events)[0], texts(events), kinds(events)[-1]) == ("started", whole, "end")
        for other in others:
            other.join(SOON)
        assert results == [whole] * 2
        with pytest.raises(RuntimeError, match="one thread"):
            next(stream)


def test_over_a_socket_another_thread_iterates_what_is_being_collected():
    """Where the thread that is to leave driving to it waits in C."""
    go_on = threading.Event()

    def serve(client):
        if client.request().startswith(b"GET"):
            client.send(head("Content-Length: 2", "Connection: close"), b"v9")
            return
        client.send(head("Connection: close"), frames("ta"))
        go_on.wait(SOON)
        client.send(frames("tb", "."))

    with Server(serve) as server, EngineAdapter(AdapterConfig(dialect=TINY, url=server.url)) as a:
        stream, results = a.stream(request(), collect=True), []
        other = in_thread(lambda: results.append(stream.result(SOON).text))
        until(lambda: stream._running.tokens_seen == 1)
        consumer = Consumer(stream)
        until(lambda: len(consumer.events) == 2)
        go_on.set()
        assert texts(consumer.join()) == "ab"
        other.join(SOON)
        assert results == ["ab"]


@both
def test_a_copy_of_a_handle_is_the_handle(way):
    """The first of two that was dropped cancelled what the other read."""
    hang = Hang()
    with adapter(Script(steps=[frames("ta"), hang, frames("tb", ".")])) as a:
        stream = getattr(a, way)(request())
        assert copy.copy(stream) is stream
        for make in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="its events can"):
                make(stream)
        hang.release()
        assert texts(stream) == "ab"


@pytest.mark.parametrize("way", ["submit", "stream"])
@pytest.mark.parametrize("collect", [False, True])
def test_a_callback_and_any_thread_may_ask_for_the_result(way, collect):
    """As of any future; only who iterates a stream has it for itself."""
    texts, called = [], threading.Event()

    def done(stream):
        texts.append(stream.result().text)
        called.set()

    hang = Hang()
    with adapter(Script(steps=[frames("ta", "tb"), hang, frames("tc", ".")])) as a:
        stream = getattr(a, way)(request(), collect=collect)
        stream.add_done_callback(done)
        others = [threading.Thread(target=lambda: texts.append(stream.result(10).text)) for _ in range(4)]
        for other in others:
            other.start()
        assert hang.reached.wait(5)
        with pytest.raises(TimeoutError):
            stream.result(0.02)
        hang.release()
        assert stream.result(10).text == "abc"
        assert called.wait(5)
        for other in others:
            other.join(5)
        assert texts == ["abc"] * 5
        assert stream.result().text == "abc"


@both
def test_a_callback_has_the_result_at_once_of_what_another_thread_iterates(way):
    """However far that is with it, and it loses nothing."""
    got = []
    with adapter(good("ta", "tb", "tc", ".")) as a:
        stream = getattr(a, way)(request(), collect=True)
        stream.add_done_callback(lambda stream: got.append(stream.result(0).text))
        events = [next(stream)]
        while way == "stream" and not stream.done():  # which its reader drives
            events.append(next(stream))
        until(lambda: got == ["abc"])
        assert kinds([*events, *stream]) == ["started", "token", "token", "token", "metrics", "end"]
        assert (stream.result().text, stream.cancel()) == ("abc", CancelOutcome.UNKNOWN)


@both
def test_a_callback_of_a_collected_stream_that_is_cancelled_has_what_had_come(way):
    hang, got = Hang(), []
    with adapter(Script(steps=[frames("ta"), hang])) as a:
        stream = getattr(a, way)(request(), collect=True)
        stream.add_done_callback(lambda stream: got.append(stream.exception(0)))
        events = [next(stream), next(stream)]
        stream.cancel()
        assert kinds([*events, *stream]) == ["started", "token", "end"]
        assert a.drain(5)
        assert [(type(one), one.partial.text) for one in got] == [(StreamCancelledError, "a")]
