"""An exception between any two bytecodes of ours, on the consumer's thread: nothing hangs, nothing is lost, all is freed."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
import threading
from collections import Counter

import pytest

from worker_adapters import End, Error, Limits, StreamCancelledError, Timeouts, merge
from worker_adapters import loop as loop_module
from worker_adapters.runtime import adapter as adapter_module

from ..products import in_parts
from ..runtime.dialects import adapter, frames, good, request, texts, until
from ..timers import SOON, at_once
from .strikes import PARTS, Strike, at_places, places, shown, strike

WAYS = ("submit", "stream")
SCRIPT = [frames("ta", "tb", "tc"), frames("td"), frames("te", "tf"), frames(".")]
WHOLE = "abcdef"
BLOCKS = [frames("ta", "tb"), 0.001, frames("tc"), 0.0, frames("td", "te", "tf"), frames(".")]


NUMBERS = itertools.count()


class Lines(logging.Handler):
    """The log lines of the streams' ends, by task."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.of = Counter()

    def emit(self, record):
        self.of[getattr(record, "task_id", record.getMessage())] += 1


PATIENT = Timeouts(connect=2 * SOON, probe=2 * SOON)


@pytest.fixture(autouse=True)
def _closes_patiently(monkeypatch):
    """What close() waits for though it need not shows."""
    monkeypatch.setattr(adapter_module, "CLOSE_SECONDS", 2 * SOON)


class Case:
    """One run of a piece of code: it is prepared, struck, and looked at afterwards."""

    collect = False
    ways = WAYS
    steps = SCRIPT
    limits = Limits(max_in_flight=1)
    deadline = None
    told = (1,)  # how often the stream is reported

    def __init__(self, way):
        self.way = way
        self.adapter = adapter(answer=lambda _wire: good_of(self.steps), limits=self.limits, timeouts=PATIENT)
        self.stream = None
        self.strikes = 0
        self.task = f"struck-{next(NUMBERS)}"  # what is reported late is of another case
        self.lines = Lines()
        logging.getLogger("worker_adapters").addHandler(self.lines)

    def open(self):
        return getattr(self.adapter, self.way)(request(task_id=self.task, deadline=self.deadline), collect=self.collect)

    def prepare(self):
        self.stream = self.open()

    def work(self):
        raise NotImplementedError

    def struck(self, place=None):
        """Runs the work, struck there; without a place: where it was."""
        try:
            if place is None:
                return places(self.work)
            strike(self.work, place)
        except Strike:
            self.strikes += 1
        return []

    def afterwards(self):
        """What must hold then, whatever was struck."""

    def is_over(self):
        """Everything is freed, and the adapter works."""
        self.stream = None
        if not patiently(lambda: self.adapter.in_flight == 0, 0.05):
            gc.collect()  # an exception keeps its frames, and they the handle
            assert patiently(lambda: self.adapter.in_flight == 0, 2.0), "a place was never given back"
        if not self.adapter._streams.places.closed:
            assert self.adapter.generate(request()).text == WHOLE
        with at_once():
            self.adapter.close()
        assert not self.adapter._streams.places.held
        assert not self.adapter._streams.places.driven
        # One whose report was struck is reported at the loop's next look.
        patiently(lambda: self.lines.of[self.task] in self.told, 3.0)
        logging.getLogger("worker_adapters").removeHandler(self.lines)
        assert self.lines.of[self.task] in self.told, (
            f"reported {self.lines.of[self.task]} times; in all {self.lines.of}"
        )
        # What was struck before it could tell the loop is forgotten at the loop's next look.
        watched = loop_module.LOOP._watched
        assert patiently(lambda: not any(getattr(one, "_running", None) for one in list(watched)), 3.0), "still watched"


def patiently(condition, seconds):
    try:
        until(condition, seconds)
    except AssertionError:
        return False
    return True


def result_of(stream):
    """Its text, and whether it was cancelled."""
    try:
        return stream.result().text, False
    except StreamCancelledError as exc:
        return exc.partial.text, True


def good_of(steps):
    script = good()
    object.__setattr__(script, "steps", list(steps))
    return script


class Opening(Case):
    """submit() and stream() themselves."""

    told = (0, 1)  # it may never have begun

    def prepare(self):
        pass

    def work(self):
        self.stream = self.open()

    def afterwards(self):
        if self.stream is not None:
            assert texts(self.stream) == WHOLE


class Iterating(Case):
    """`for` over the stream, begun again after an exception."""

    def prepare(self):
        super().prepare()
        self.events = []

    def work(self):
        for event in self.stream:
            self.events.append(event)

    def afterwards(self):
        while self.strikes and not (self.events and isinstance(self.events[-1], End | Error)):
            before = len(self.events)
            self.events += self.stream
            assert len(self.events) > before, "no end"
        told(self.events, whole=self.way == "submit")
        assert list(self.stream) == []


class Nexting(Iterating):
    """`next`, again and again."""

    def work(self):
        while (event := next(self.stream, None)) is not None:
            self.events.append(event)


class Getting(Iterating):
    """`get`, with a limit."""

    def work(self):
        while (event := self.stream.get(5.0)) is not None:
            self.events.append(event)


class GettingMany(Iterating):
    """`get_many`, with a limit."""

    def work(self):
        while run := self.stream.get_many(5.0):
            self.events += run


class Keeping(Nexting):
    """`next` of a stream that is collected, too; the result is whole."""

    collect = True

    def afterwards(self):
        super().afterwards()
        text, cancelled = result_of(self.stream)
        # What had come, where it was cancelled, received or not.
        assert text.startswith(texts(self.events)) if cancelled else text == WHOLE
        assert not cancelled or self.way == "stream"


class Blocking(Iterating):
    steps = BLOCKS


class Full:
    """Of a stream that waits for room in its hand-over: who makes some may be struck before it could tell."""

    ways = ("submit",)
    steps = BLOCKS
    limits = Limits(max_in_flight=1, hand_over=1)
    deadline = SOON  # at which it would be left

    def prepare(self):
        super().prepare()
        until(lambda: self.stream._source.channel.parked)


class Parked(Full, Iterating):
    pass


class Merging(Parked):
    """The same, merged."""

    def prepare(self):
        super().prepare()
        self.merged = merge([self.stream])

    def work(self):
        for _, event in self.merged:
            self.events.append(event)

    def afterwards(self):
        while self.strikes and not (self.events and isinstance(self.events[-1], End | Error)):
            before = len(self.events)
            self.events += [event for _, event in self.merged]
            assert len(self.events) > before, "no end"
        told(self.events, whole=True)
        self.merged = None


class Resulting(Case):
    def work(self):
        self.stream.result()

    def afterwards(self):
        text, cancelled = result_of(self.stream)
        if not cancelled:
            assert text == WHOLE
        else:
            assert self.strikes
            assert self.way == "stream", "a strike has cancelled what the loop drives"
            assert WHOLE.startswith(text)


class ParkedResulting(Full, Resulting):
    pass


class Generating(Case):
    told = (0, 1)

    def prepare(self):
        pass

    def work(self):
        assert self.adapter.generate(request(task_id=self.task)).text == WHOLE

    def afterwards(self):
        with at_once():  # it waits for no answer that nobody asks for
            self.adapter.engine_version()  # the first stream has had it asked, on a helper


class Closing(Case):
    """The end of the with block, after the first event."""

    steps = [frames("ta"), float("inf")]

    def prepare(self):
        super().prepare()
        next(self.stream)
        next(self.stream)

    def work(self):
        self.stream.__exit__(None, None, None)

    def is_over(self):
        self.steps = SCRIPT
        super().is_over()


class Cancelling(Closing):
    def work(self):
        self.stream.cancel()

    def afterwards(self):
        self.stream.cancel()
        (event,) = list(self.stream)
        assert event.finish_reason == "cancelled"


class ClosingTheAdapter(Closing):
    def work(self):
        self.adapter.close()

    def afterwards(self):
        self.adapter.close()
        assert self.stream.done()


class Dropping(Closing):
    def work(self):
        self.stream = None


class Calling(Closing):
    """A callback for the end, then the end."""

    def work(self):
        self.stream.add_done_callback(lambda _stream: None)
        self.stream.cancel()

    def afterwards(self):
        self.stream.cancel()  # nobody drops it: the callback holds it


def told(events, *, whole):
    """Never a silent hole: whole, or cancelled after the beginning of it."""
    text, last = texts(events), events[-1]
    assert [e.index for e in events if e.kind == "token"] == list(range(len(text))), text
    assert WHOLE.startswith(text)
    assert isinstance(last, End), last
    assert sum(isinstance(event, End | Error) for event in events) == 1
    if whole or last.finish_reason != "cancelled":
        assert text == WHOLE, f"{text}, and then {last.finish_reason}"


class Asking(Case):
    """A fact, which others would wait for."""

    told = (0,)

    def prepare(self):
        pass

    def work(self):
        self.adapter.properties()

    def afterwards(self):
        assert self.adapter.properties().slots_total == 1
        assert self.adapter.engine_version() == "1"


CASES = (
    Opening, Iterating, Nexting, Getting, GettingMany, Keeping, Blocking, Parked, Merging, Resulting, ParkedResulting,
    Generating, Closing, Cancelling, ClosingTheAdapter, Dropping, Calling, Asking,
)  # fmt: skip


@pytest.fixture(autouse=True)
def frozen():
    """What was there before is not collected again and again; what strikes a finalizer is only printed, by Python."""
    gc.collect()
    gc.freeze()
    logger = logging.getLogger("worker_adapters")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    hook, sys.unraisablehook = sys.unraisablehook, lambda _args: None
    yield
    sys.unraisablehook = hook
    logger.setLevel(level)
    logger.propagate = propagate
    gc.unfreeze()


def once(kind, way, place=None):
    case = kind(way)
    case.prepare()
    found = case.struck(place)
    case.afterwards()
    case.is_over()
    return found, case.strikes


@in_parts("kind, way", [(kind, way) for kind in CASES for way in kind.ways], PARTS)
def test_a_strike_between_any_two_bytecodes_loses_nothing(kind, way, part, capsys):
    found: dict = {}
    for _ in range(3):  # the loop's thread is not always as fast
        found |= dict.fromkeys(once(kind, way)[0])
    struck, wrong = 0, []
    for place in [*found][part::PARTS]:
        try:
            struck += once(kind, way, place)[1]
        except Exception as exc:  # noqa: BLE001  -- all of them are told
            wrong.append(f"{shown(place)}: {type(exc).__name__}: {exc}")
    with capsys.disabled():
        sys.stdout.write(f"\n  {kind.__name__}, {way}: {len(found)} places, {struck} strikes ")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}:", *wrong[:40]])
    assert threading.active_count() < 10


# --- collections ------------------------------------------------------------------------------------------------------


class Box:
    """In a cycle, with a handle: nothing but a collection drops it."""

    def __init__(self, stream):
        self.stream, self.itself = stream, self


@pytest.mark.parametrize("dropped", WAYS)
@pytest.mark.parametrize("way", WAYS)
def test_a_handle_may_be_collected_between_any_two_bytecodes_of_another_stream(way, dropped, capsys):
    """Its finalizer runs within whatever the thread is just doing, whichever locks it holds."""
    limits = Limits(max_in_flight=1000)
    left = adapter(answer=lambda _wire: good_of(Closing.steps), limits=limits)
    made = []

    def collect_one():
        Box(getattr(left, dropped)(request()))
        made.append(gc.collect(0))

    gc.disable()
    try:
        with adapter(answer=lambda _wire: good_of(SCRIPT), limits=limits) as used, left:
            work_of_used = lambda: texts(getattr(used, way)(request()))  # noqa: E731
            count = at_places(work_of_used, collect_one)
            assert patiently(lambda: left.in_flight == 0, 5.0), "a handle was collected, and its place is kept"
            assert used.in_flight == 0
            assert work_of_used() == WHOLE
    finally:
        gc.enable()
    with capsys.disabled():
        sys.stdout.write(f"\n  {way}, {dropped} is dropped: {count} collections ")
    assert count > 20
