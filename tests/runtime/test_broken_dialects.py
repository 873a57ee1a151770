"""Dialects with bugs: an error that says where and not what, and harm to no other stream."""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from worker_adapters import (
    ErrorCode,
    FinishReason,
    Metrics,
    Reason,
    Token,
    WorkerError,
)
from worker_adapters.dialect import Finished, Opened
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON
from .dialects import (
    GOOD,
    TINY,
    adapter,
    errors,
    events_of,
    frames,
    good,
    kinds,
    request,
    run_both,
    status,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Event

both = pytest.mark.parametrize("way", ["stream", "submit"])


def decoding(*runs: Any) -> Any:
    """A dialect with a decoder that yields these runs, or raises them."""

    def decode(batches: Any, /, *, request: Any, tally: Any) -> Iterator[Any]:
        for _batch, run in zip(batches, runs, strict=False):
            if isinstance(run, BaseException):
                raise run
            yield list(run)

    return attrs.evolve(TINY, decode=decode)


OPENED = Opened(tokens_in=1)
FINISHED = Finished(finish_reason=FinishReason.STOP, finish_reason_raw="stop")
EARLY = Metrics(values={"early": 1})
LATE = Metrics(values={"late": 1})


def token(index: int) -> Token:
    return Token(index=index, text=f"t{index}")


def run_of(*runs: Any, way: str = "stream") -> list[Event]:
    script = Script(steps=[tokens(1) for _ in runs])
    with adapter(script, dialect=decoding(*runs)) as a:
        return list(getattr(a, way)(request()))


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


@pytest.mark.parametrize("middle", ["lone tokens", "runs of two"])
@pytest.mark.parametrize(
    "run", [5, (token(3),), "t3", {3: token(3)}, object(), iter([token(3)]), [None], [[token(3)]], [3]]
)
def test_what_is_no_run_of_items_is_a_bug_and_nothing_is_raised(run: Any, middle: str) -> None:
    """A dialect that nobody has checked the types of, well into its stream."""
    each = 1 if middle == "lone tokens" else 2

    def decode(batches: Any, /, *, request: Any, tally: Any) -> Iterator[Any]:
        for n, _batch in enumerate(batches):
            yield run if n == 3 else [OPENED] * (n == 0) + [token(n * each + m) for m in range(each)]

    events = run_both(Script(steps=[tokens(1)] * 6), dialect=attrs.evolve(TINY, decode=decode))
    assert kinds(events) == ["started", *["token"] * 3 * each, "error"]
    assert events[-1].reason is Reason.BUG


@pytest.mark.parametrize("collect", [False, True])
@both
def test_a_decoder_that_goes_on_for_ever_when_there_is_nothing_more_ends_at_the_deadline(
    way: str, collect: bool
) -> None:
    def decode(batches: Any, /, *, request: Any, tally: Any) -> Iterator[Any]:
        next(batches)
        yield [OPENED]
        for n in itertools.count():
            yield [token(n)]

    with adapter(good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        stream = getattr(a, way)(request(deadline=0.1), collect=collect)
        error = stream.exception(SOON)
    assert isinstance(error, WorkerError)
    assert error.error.reason is Reason.DEADLINE


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


@pytest.mark.parametrize(
    ("dialect", "script"),
    [
        (TINY, good("ta", "b")),
        (TINY, good("ta", "g", "tb", ".")),
        (attrs.evolve(TINY, decode=lambda batches, request, tally: ([object()] for _ in batches)), good()),
        (attrs.evolve(TINY, encode=lambda request, attempt: {}["x"]), good()),
        (attrs.evolve(TINY, parse_error=lambda reply: None), status(500)),
    ],
)
def test_a_bug_of_a_dialect_is_an_error_event_that_says_where_and_not_what(dialect, script, caplog):
    events = run_both(script, dialect=dialect)
    assert kinds(events)[-1] == "error"
    error = events[-1]
    assert (error.code, error.reason, error.retriable) == ("INTERNAL", "BUG", False)
    assert "needle" not in error.message + caplog.text


def test_the_place_of_a_bug_is_told():
    assert "KeyError at dialects.py:" in events_of(good("ta", "b"))[-1].message


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_whatever_a_decoder_raises_on_the_loop_ends_its_own_stream_and_no_other(raised):
    """A dialect's `decode` is the one piece of foreign code that runs there."""

    def decode(batches, /, *, request, tally):
        if request.prompt == "bad":
            raise raised
        return TINY.decode(batches, request=request, tally=tally)

    hang = Hang()
    with adapter(Script(steps=[hang, GOOD]), good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        other = a.submit(request())
        assert hang.reached.wait(5)
        error = list(a.submit(request(prompt="bad")))[-1]
        assert (error.code, error.reason) == ("INTERNAL", "BUG")
        hang.release()
        assert kinds(other)[-1] == "end"
        assert a.in_flight == 0


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1])
def test_what_ends_the_thread_that_drives_a_stream_is_not_kept_from_it(raised, at):
    """There Ctrl-C, and the exit of a signal handler, strike in the middle of `decode`, too: nobody can tell them apart."""
    scripts = [Script(steps=[frames("ta")] * 2) for _ in range(2)]
    with adapter(*scripts, dialect=decoding(*[[OPENED], raised()][1 - at :])) as a:
        stream = a.stream(request())
        with pytest.raises(raised):
            list(stream)
        assert a.in_flight == 0
        assert [(end.kind, end.finish_reason) for end in stream] == [("end", "cancelled")]
        with pytest.raises(raised):
            a.generate(request())
        assert a.in_flight == 0


def test_a_decode_that_holds_up_the_loop_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr("worker_adapters.runtime.report._told_slow", set())

    def decode(batches, /, *, request, tally):
        for run in TINY.decode(batches, request=request, tally=tally):
            time.sleep(0.06)
            yield run

    with adapter(good(), good(), dialect=attrs.evolve(TINY, decode=decode)) as a:
        for _ in range(2):
            assert kinds(list(a.submit(request())))[-1] == "end"
        assert a.drain(5)
    assert [record.getMessage().split(" took ")[0] for record in caplog.records if "decode slow" in record.msg] == [
        "a step of a stream of tiny"
    ]
