"""However a stream is run and read, it gives the same events: what was recorded of each dialect, whole and with faults.

Over memory, a read per frame and one that would block between them; what a fault comes to is the matrix's to say.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import Adapter, Limits, Metrics, Reason, Retry, Timeouts, as_completed, merge
from worker_adapters.dialect import Fault
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing.blocked import Blocks, _frames
from worker_adapters.testing.ways import comparable, script_of
from worker_adapters.transport.scripted import Hang, Script, ScriptedTransport, Step

from ..products import product
from .subjects import RECORDED, Subject
from .test_every_byte import reply_of, request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters import Event, GenerateRequest, Stream

LONG = Timeouts(connect=30.0, first_token=30.0, idle=30.0)
QUIET = attrs.evolve(LONG, idle=0.1)  # seconds; where the timer is the subject


# --- ways to run and read a stream ------------------------------------------------------------------------------------


def stream(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return list(adapter.stream(request))


def submit(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return list(adapter.submit(request))


def merged(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return [event for _, event in merge([adapter.submit(request)])]


def merged_lazily(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    """Where the only place is taken, the next one waits for it."""
    pairs = list(merge(adapter.submit(one, block=True) for one in (request, attrs.evolve(request, task_id="other"))))
    assert {one.task_id for one, _ in pairs} == {request.task_id, "other"}
    return [event for one, event in pairs if one.task_id == request.task_id]


def collected(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    """The result is told from what is read afterwards."""
    one = adapter.submit(request, collect=True)
    failed = one.exception(30)
    events = list(one)
    if failed is None:
        assert one.result().text == "".join(event.text for event in events if event.kind == "token")
    return events


def completed(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    (one,) = as_completed([adapter.submit(request, collect=True)])
    return list(one)


def _by_and_by(one: Stream, ask: Callable[[Stream], list[Event] | None]) -> Iterator[Event]:
    while True:
        try:
            events = ask(one)
        except TimeoutError:
            continue
        if not events:
            return
        yield from events


def _get(one: Stream) -> list[Event] | None:
    event = one.get(0.001)
    return None if event is None else [event]


def streamed_by_get(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return list(_by_and_by(adapter.stream(request), _get))


def submitted_by_get(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return list(_by_and_by(adapter.submit(request), _get))


def submitted_by_run(adapter: Adapter, request: GenerateRequest) -> list[Event]:
    return list(_by_and_by(adapter.submit(request), lambda one: one.get_many(0.001)))


WAYS = (
    submit, merged, merged_lazily, collected, completed, streamed_by_get, submitted_by_get, submitted_by_run,
)  # fmt: skip


# --- what the engine does -----------------------------------------------------------------------------------------------


def whole(frames: list[bytes]) -> list[Step]:
    return [*frames]


def broken_off(frames: list[bytes]) -> list[Step]:
    return [*frames[: len(frames) // 2], Fault(Reason.DISCONNECTED, "the connection was reset")]


def cut(frames: list[bytes]) -> list[Step]:
    return [*frames[: len(frames) // 2], frames[len(frames) // 2][:-3]]


def garbled(frames: list[bytes]) -> list[Step]:
    return [*frames[: len(frames) // 2], b"data: {garbage\n\n"]


def silent(frames: list[bytes]) -> list[Step]:
    return [*frames[: len(frames) // 2], b": still here\n\n", Hang()]


def empty(_frames: list[bytes]) -> list[Step]:
    return []


FAULTS = (whole, broken_off, cut, garbled, silent, empty)


@attrs.frozen
class Case:
    """A recorded stream, perhaps with something done to it."""

    subject: Subject
    recorded: str
    fault: Callable[[list[bytes]], list[Step]] = whole

    @property
    def name(self) -> str:
        return f"{self.subject.name}: {self.recorded}, {self.fault.__name__}"

    def script(self) -> Script:
        recorded = self.subject.transcripts.recorded(self.recorded)
        steps: list[Step] = []
        for step in self.fault(_frames(recorded.body)):
            steps += [step, Blocks()]
        return script_of(recorded, steps)


CASES = [
    *(Case(s, name) for s in RECORDED for name in s.transcripts.streams),
    *(Case(s, s.good, fault) for s in RECORDED for fault in FAULTS[1:]),
]


def events_of(case: Case, way: Callable[[Adapter, GenerateRequest], list[Event]]) -> list[object]:
    """What is to be compared of them."""
    subject = case.subject
    transport = ScriptedTransport(answer=lambda _wire: case.script(), reply=reply_of(subject))
    config = AdapterConfig(
        dialect=subject.dialect,
        url="http://engine.test",
        model=subject.model,
        retry=Retry(attempts=2, base=0.0),
        timeouts=QUIET if case.fault is silent else LONG,
        limits=Limits(max_in_flight=1, hand_over=2),
    )
    with EngineAdapter(config, transport=transport) as adapter:
        events = way(adapter, attrs.evolve(request_of(subject, case.recorded), task_id="this"))
        assert adapter.in_flight == 0
    assert [event.kind in ("end", "error") for event in events].index(True) == len(events) - 1
    told = comparable(event for event in events if not isinstance(event, Metrics))
    measured = [(at, sorted(e.values)) for at, e in enumerate(events) if isinstance(e, Metrics)]
    return [*told, *measured]


@cache
def on_the_calling_thread(case: Case) -> list[object]:
    return events_of(case, stream)


@product("case, way", [(case, way) for case in CASES for way in WAYS])
def test_each_way_gives_what_the_calling_thread_gets(case: Case, way: Any) -> None:
    assert events_of(case, way) == on_the_calling_thread(case)
