"""The mock's faults: the grammar of `worker_adapters.faults`, acted out in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import attrs

from ...api import Reason
from ...dialect import Fault
from ...faults import FaultSpec, Place
from .server import Answer, Step, event_bytes, refusal

__all__ = ["spoil"]

RESET = Fault(Reason.DISCONNECTED, "the mock reset the connection")
CUT = Fault(Reason.TRUNCATED, "the mock closed the connection in the middle of the body")


def spoil(answer: Answer, faults: Iterable[FaultSpec]) -> Answer:
    """The answer as these faults make it. 1xx heads (`interim`) have no meaning without a socket and change nothing."""
    for fault in faults:
        answer = _spoil(answer, fault)
    return answer


def _spoil(answer: Answer, fault: FaultSpec) -> Answer:
    if fault.kind in _INSTEAD:
        return _INSTEAD[fault.kind](fault)
    if fault.kind == "gzip":
        return attrs.evolve(answer, headers={**answer.headers, "content-encoding": "gzip"})
    if fault.place in (Place.ACCEPT, Place.HEAD):
        return _before_the_head(answer, fault)
    return attrs.evolve(answer, steps=_in_the_body(answer.steps, fault))


def _before_the_head(answer: Answer, fault: FaultSpec) -> Answer:
    match fault.kind:
        case "stall" if fault.place is Place.ACCEPT:
            return attrs.evolve(answer, connect=_seconds(fault))
        case "stall":
            return attrs.evolve(answer, queue=_seconds(fault))
        case "reset" | "close":
            return attrs.evolve(answer, queue=RESET)
        case "garbage":
            return attrs.evolve(answer, queue=Fault(Reason.PROTOCOL, "the mock does not answer in HTTP"))
        case "error":
            return refusal(500, Reason.ENGINE_ERROR, str(fault.value or "an error, as asked for"))
        case _:
            return answer


def _seconds(fault: FaultSpec) -> float:
    return float(fault.value) if isinstance(fault.value, float | int) else math.inf


_INSTEAD: dict[str, Callable[[FaultSpec], Answer]] = {
    "loading": lambda _: refusal(503, Reason.LOADING, "the model is loading"),
    "overloaded": lambda _: refusal(429, Reason.OVERLOADED, "the queue is full"),
    "busy": lambda fault: refusal(429, Reason.OVERLOADED, "busy", _retry_after(fault)),
    "redirect": lambda fault: Answer(status=307, headers={"location": str(fault.value)}),
    "html": lambda fault: _page(200, str(fault.value or "<html>hello</html>")),
    "status": lambda fault: _page(*fault.value) if isinstance(fault.value, tuple) else Answer(status=500),
}


def _retry_after(fault: FaultSpec) -> dict[str, str]:
    value = str(fault.value or "")
    if value.startswith("ms="):
        return {"retry-after-ms": value.removeprefix("ms=")}
    return {"retry-after": value} if value else {}


def _page(status: int, body: str) -> Answer:
    return Answer(status=status, headers={"content-type": "text/html"}, steps=[body.encode()])


# --- in the body ------------------------------------------------------------------------------------------------------


def _in_the_body(steps: Iterable[Step], fault: FaultSpec) -> Iterator[Step]:
    """Steps up to the place, then what the fault makes of the rest."""
    rest = iter(steps)
    if fault.place is Place.BYTE:
        before, after = _at_byte(rest, fault.at)
        yield from before
        yield from _act(fault, after)
        return
    seen = 0
    held: list[Step] = []
    for step in rest:
        if isinstance(step, bytes):
            last = b'"end"' in step
            if (fault.place is Place.END and last) or (fault.place is Place.TOKEN and (seen == fault.at or last)):
                yield from held
                yield from _act(fault, itertools.chain([step], rest))
                return
            seen += 1
        yield from held
        held = []
        if isinstance(step, bytes):
            yield step
        else:
            held = [step]


def _at_byte(steps: Iterator[Step], at: int) -> tuple[list[Step], Iterator[Step]]:
    before: list[Step] = []
    for step in steps:
        if isinstance(step, bytes):
            if at < len(step):
                return [*before, step[:at]] if at else before, itertools.chain([step[at:]], steps)
            at -= len(step)
        before.append(step)
    return before, iter(())


Act = Callable[[FaultSpec, Iterator[Step]], Iterable[Step]]


def _act(fault: FaultSpec, rest: Iterator[Step]) -> Iterable[Step]:
    return _ACTS[fault.kind](fault, rest)


def _comments(fault: FaultSpec) -> Iterator[Step]:
    while True:
        yield b":\n\n"
        yield _seconds(fault)


def _more_after_the_end(fault: FaultSpec, rest: Iterator[Step]) -> Iterator[Step]:
    end = next(rest, b"")
    yield end
    for _ in range(fault.value if isinstance(fault.value, int) else 1):
        yield end if fault.kind == "dup-end" else event_bytes({"t": " late", "n": 1})


def _error_event(fault: FaultSpec) -> bytes:
    return event_bytes(
        {"error": {"kind": Reason.ENGINE_ERROR, "message": str(fault.value or "an error, as asked for")}}
    )


def _trickled(steps: Iterator[Step], seconds: float) -> Iterator[Step]:
    for step in steps:
        if not isinstance(step, bytes):
            yield step
            continue
        for byte in step:
            yield seconds
            yield bytes([byte])


def _half(step: Step, where: Callable[[bytes], int]) -> Iterator[Step]:
    if isinstance(step, bytes):
        yield step[: where(step)]
    yield CUT


def _inside_a_character(data: bytes) -> int:
    """After the first byte of the first character that has several; in the middle, where all have one."""
    return next((i + 1 for i, byte in enumerate(data) if byte >= 0xC2), len(data) // 2)


_ACTS: dict[str, Act] = {
    "stall": lambda fault, rest: itertools.chain([_seconds(fault)], rest),
    "trickle": lambda fault, rest: _trickled(rest, _seconds(fault)),
    "reset": lambda _fault, _rest: [RESET],
    "close": lambda _fault, _rest: [CUT],
    "eof": lambda _fault, _rest: [],
    "cut": lambda _fault, rest: _half(next(rest, b""), lambda data: len(data) // 2),
    "half-char": lambda _fault, rest: _half(next(rest, b""), _inside_a_character),
    "error": lambda fault, _rest: [_error_event(fault)],
    "garbage": lambda fault, _rest: [str(fault.value or "this is no event").encode()],
    "not-json": lambda fault, rest: itertools.chain([f"data: {fault.value}\n\n".encode()], rest),
    "comments": lambda fault, _rest: _comments(fault),
    "huge": lambda fault, rest: itertools.chain([event_bytes({"t": "x" * int(str(fault.value))})], rest),
    "dup-end": _more_after_the_end,
    "after-end": _more_after_the_end,
}
