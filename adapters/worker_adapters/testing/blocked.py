"""The cases of the suite in which reads would block: whoever drives the stream waits, and nothing else shows it."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator

import attrs
import pytest

from ..api import Error, Limits, Phase, Reason, Retry, Started, Timeouts
from ..dialect import Fault
from ..lifetime import Lifetime
from ..transport.scripted import Hang, Script, Step
from ..waiting import Steps
from .ways import SHORT, Ways, comparable, script_of, text_of

__all__ = ["Blocks", "ReadsThatBlock"]


class Blocks(Hang):
    """A read that would block, so often in a row, though there is no time to wait. Notes how far the stream was."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times
        self.phases: list[Phase] = []

    def wait(self, lifetime: Lifetime) -> Steps[None]:
        """See Hang."""
        for _ in range(self.times):
            self.phases.append(lifetime.phase)
            yield from lifetime.wait(until=lifetime.clock())


class _Refuses(Blocks):
    """And then nobody is there."""

    def wait(self, lifetime: Lifetime) -> Steps[None]:
        """See Hang."""
        yield from super().wait(lifetime)
        raise Fault(Reason.CONNECT, "nobody is there")


class ReadsThatBlock(Ways):
    """Over memory; driven by the loop and by the calling thread."""

    def test_a_read_that_would_block_shows_nowhere(self) -> None:
        """Before, between and after all batches, and in the smallest stream at each place alone: the same events."""
        smallest = self.transcripts.good()
        for name, recorded, expected in self._streams():
            frames = _frames(recorded.body)
            request = {"task_id": "same", **expected.request}
            whole = comparable(self.events(script_of(recorded, frames), request=request))
            places = [range(len(frames) + 1)]
            if name == smallest:
                places += [range(at, at + 1) for at in range(len(frames) + 1)]
            for at, times, way in itertools.product(places, (1, 3), ("submit", "stream")):
                blocks = [Blocks(times) for _ in at]
                steps: list[Step] = [*frames]
                for place, block in reversed(list(zip(at, blocks, strict=True))):
                    steps.insert(place, block)
                events = self.events(script_of(recorded, steps), request=request, ways=(way,))
                assert comparable(events) == whole, f"{name}: {at} by {way}"
                assert text_of(events) == expected.text, f"{name}: {at} by {way}"
                assert isinstance(events[-1], Error) == (expected.error is not None), f"{name}: {at} by {way}"
                if at[0] == 0:
                    assert set(blocks[0].phases) == {Phase.FIRST_TOKEN}, f"{name}: it was taken for a frame"

    def test_who_reads_late_has_all_that_was_decoded(self) -> None:
        """The decoder was far ahead: each run was a list of its own."""
        good, expected = self._good()
        over = threading.Event()
        with self.adapter(script_of(good, _frames(good.body)), limits=Limits(hand_over=10**6)) as adapter:
            stream = adapter.submit(self.request(**expected.request))
            stream.add_done_callback(lambda _: over.set())
            assert over.wait(30)
            assert text_of(stream) == expected.text

    def test_what_would_block_before_the_body_shows_nowhere(self) -> None:
        """Asking what it speaks and what it grants, an attempt that fails, a pause, connecting, waiting for the head."""
        good, expected = self._good()
        request = {"task_id": "same", "determinism": "strict", **expected.request}
        again = Retry(attempts=2, base=0.001)
        for way in ("submit", "stream"):
            at_once = Script(connect=_Refuses(0)), script_of(good)
            whole = comparable(self.events(*at_once, request=request, ways=(way,), retry=again))
            for times in (1, 3):
                first, connect, queue = _Refuses(times), Blocks(times), Blocks(times)
                scripts = Script(connect=first), script_of(good, connect=connect, queue=queue)
                events = self.events(*scripts, request=request, ways=(way,), retry=again)
                assert comparable(events) == whole, f"{times} by {way}"
                assert [set(one.phases) for one in (first, connect, queue)] == [{Phase.CONNECT}] * 2 + [{Phase.QUEUE}]

    def test_a_read_that_would_block_begins_no_stream(self) -> None:
        """Started comes with the first frame, and not with a read that gave none."""
        good, expected = self._good()
        for way in ("submit", "stream"):
            hang = Hang()
            with (
                self.adapter(script_of(good, [Blocks(3), hang])) as adapter,
                getattr(adapter, way)(self.request(**expected.request)) as stream,
            ):
                give_up = time.monotonic() + 30.0
                while not hang.reached.is_set():  # who asks drives it, one way
                    with pytest.raises(TimeoutError):
                        stream.get(SHORT)
                    assert time.monotonic() < give_up
                with pytest.raises(TimeoutError):
                    stream.get(0.0)

    def test_a_read_that_would_block_is_no_sign_of_life(self) -> None:
        """For ever, before the first frame and after some: the timers run out as if nothing had been read."""
        good, expected = self._good()
        long = Timeouts(connect=30.0, first_token=30.0, idle=30.0)
        some = self.begun(good)
        for way, (before, timer, reason) in itertools.product(
            ("submit", "stream"),
            (([], "first_token", Reason.FIRST_TOKEN_TIMEOUT), ([some], "idle", Reason.IDLE_TIMEOUT)),
        ):
            timeouts = attrs.evolve(long, **{timer: SHORT})
            steps: Iterator[Step] = itertools.chain(before, (Blocks() for _ in itertools.count()))
            events = self.events(
                script_of(good, steps), request={**expected.request, "deadline": 20.0}, ways=(way,), timeouts=timeouts
            )
            error = events[-1]
            assert isinstance(error, Error), way
            assert error.reason is reason, f"{error.reason} by {way}"
            assert isinstance(events[0], Started) == bool(before), way


def _frames(body: bytes) -> list[bytes]:
    """A read per frame, and what is left after the last."""
    ends = [0, *(m.end() for m in re.finditer(rb"\r?\n\r?\n", body)), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(ends) if b > a]
