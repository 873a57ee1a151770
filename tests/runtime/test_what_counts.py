"""What keeps a stream alive, what waits for whom, and what a dialect's `Finished` asks for."""

from __future__ import annotations

import itertools
import threading

import attrs
import pytest

from worker_adapters import FinishReason, Timeouts, Token
from worker_adapters.dialect import Finished, Opened, Rest
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Hang, Script, ScriptedTransport

from .dialects import ONCE, TINY, frames, kinds, request

WAYS = pytest.mark.parametrize("way", ["stream", "submit"])


def adapter_of(*scripts, dialect=TINY, **config):
    options = AdapterConfig(dialect=dialect, url="http://engine.test", retry=ONCE, **config)
    return EngineAdapter(options, transport=ScriptedTransport(scripts))


@WAYS
def test_metrics_alone_do_not_keep_a_stream_alive(way):
    """They come for ever, and more often than the timer allows between two contents."""
    steps = itertools.chain([frames("ta")], itertools.cycle([0.02, frames("m")]))
    with adapter_of(Script(steps=steps), timeouts=Timeouts(idle=0.2)) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events)[:2] == ["started", "token"]
    assert "metrics" in kinds(events)
    assert events[-1].reason == "IDLE_TIMEOUT"


@WAYS
def test_tokens_do(way):
    steps = [step for n in range(12) for step in (0.05, frames(f"t{n}"))] + [frames(".")]
    with adapter_of(Script(steps=steps), timeouts=Timeouts(idle=0.3)) as a:
        assert kinds(list(getattr(a, way)(request())))[-1] == "end"


def counting(batches, /, *, request, tally):
    """Ends at once, says that counts follow, and takes each later batch for one, or for a bug."""
    for n, batch in enumerate(batches):
        if batch == [b"bug"]:
            raise KeyError("a bug of the dialect")
        first = [Opened(), Token(index=0, text="a")] if n == 0 else []
        tally.tokens_out = n + 1
        rest = Rest.NOTHING if batch == [b"over"] else Rest.COUNTS
        yield [*first, Finished(finish_reason=FinishReason.STOP, finish_reason_raw=str(n), rest=rest)]


COUNTING = attrs.evolve(TINY, decode=counting)


@WAYS
@pytest.mark.parametrize(
    ("later", "raw"),
    [
        ([], "0"),
        ([frames("x"), frames("over")], "2"),
        ([frames("x"), Hang()], "1"),
        ([frames("x"), frames("bug")], "1"),
    ],
    ids=["nothing", "counts", "silence", "a bug"],
)
def test_the_last_finished_counts_and_nothing_undoes_it(way, later, raw):
    with adapter_of(Script(steps=[frames("first"), *later]), dialect=COUNTING) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events) == ["started", "token", "metrics", "end"]
    assert events[-1].finish_reason_raw == raw


@WAYS
def test_a_cancel_while_counts_are_waited_for_is_one(way):
    hang = Hang()
    with adapter_of(Script(steps=[frames("first"), hang]), dialect=COUNTING) as a:
        stream = getattr(a, way)(request())
        assert kinds([next(stream), next(stream)]) == ["started", "token"]
        stream.cancel()
        (end,) = stream
    assert end.finish_reason == "cancelled"


def test_an_answer_is_made_under_no_lock():
    """One that takes its time does not hold up another stream's."""
    entered, go_on = threading.Event(), threading.Event()

    def answer(wire):
        if b"slow" in wire.body:
            entered.set()
            assert go_on.wait(10)
        return Script(steps=[frames("ta", ".")])

    config = AdapterConfig(dialect=TINY, url="http://engine.test", retry=ONCE)
    with EngineAdapter(config, transport=ScriptedTransport(answer=answer)) as a:
        slow = threading.Thread(target=lambda: list(a.stream(request(prompt="slow"))))
        slow.start()
        assert entered.wait(10)
        assert kinds(list(a.stream(request(prompt="quick"))))[-1] == "end"
        go_on.set()
        slow.join(10)
