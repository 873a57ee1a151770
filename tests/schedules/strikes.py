"""One exception between two bytecodes of the library, as a signal handler raises it; or a collection. At each, in turn.

`places` runs a piece of code once and notes where it was; `strike` runs it again with the exception at one of these places.
Only the calling thread is struck, as signals are.

Where CPython looks for signals: when a function begins or a generator goes on (the innermost one, not those that
`yield from` it), on the way back in a loop, and after a call of anything in C. Not between two other bytecodes (no lock is
lost between taking it and the block that gives it back), and not after a call of a Python function: between its return and
what becomes of the value there is no look. Elsewhere nothing is struck.
"""

from __future__ import annotations

import dis
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import worker_adapters

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = ["PARTS", "Place", "Strike", "at_places", "places", "shown", "strike"]

PACKAGE = str(Path(worker_adapters.__file__).parent)
PARTS = 8  # of the places of a case: make test strikes in one of them, make matrix in all
AFTER_YIELD_FROM = 2  # what RESUME is told in a generator that only passes on; there, it does not look for signals
TWICE = 2  # what is done for the second time is often done in another state; a third time shows nothing new

Place = tuple["CodeType", int, int]
"""A code object, an offset in it, and the how manieth time that it is there."""


class Strike(BaseException):
    """As KeyboardInterrupt: nobody expects it."""


@cache
def _possible(code: CodeType) -> tuple[frozenset[int], frozenset[int]]:
    """Where a function begins, goes on or goes back, and where a call has been made."""
    found, called = set(), set()
    before, looks = "", True
    for one in dis.get_instructions(code):
        if one.opname == "RESUME":
            looks = (one.arg or 0) & 3 < AFTER_YIELD_FROM
        if ("RESUME" in (one.opname, before) and looks) or (
            "JUMP_BACKWARD" in one.opname and "NO_INTERRUPT" not in one.opname
        ):
            found.add(one.offset)
        if before.startswith("CALL"):
            called.add(one.offset)
        before = one.opname
    return frozenset(found), frozenset(called)


def _is_inlined(code: CodeType) -> bool:
    """Whether the interpreter calls it without C between: nothing behind an operator or a class, and no generator."""
    return not code.co_name.startswith("__") and not code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE)


def _traced(act: Callable[[Place], None]) -> Callable[[FrameType, str, object], object]:
    counts: dict[tuple[CodeType, int], int] = {}
    in_python: set[FrameType] = set()  # whose last call was of a Python function

    def local(frame: FrameType, event: str, _arg: object) -> object:
        if event == "opcode":
            code, offset = frame.f_code, frame.f_lasti
            found, called = _possible(code)
            if offset in called:
                is_possible = frame not in in_python
                in_python.discard(frame)
            else:
                is_possible = offset in found
            if is_possible:
                counts[code, offset] = count = counts.get((code, offset), 0) + 1
                if count <= TWICE:
                    act((code, offset, count))
        elif event == "return":  # also of one that has read a property: nothing lives on for being looked at
            in_python.discard(frame)
        return local

    def begin(frame: FrameType, _event: str, _arg: object) -> object:
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename.startswith(PACKAGE) and _is_inlined(frame.f_code):
            in_python.add(caller)
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    return begin


def _under(trace: Callable[[FrameType, str, object], object], work: Callable[[], object]) -> None:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def places(work: Callable[[], object]) -> list[Place]:
    """Where it was, in this order."""
    found: list[Place] = []
    _under(_traced(found.append), work)
    return found


def strike(work: Callable[[], object], place: Place) -> None:
    """Run it, struck there once, if it comes there. Whatever it raises is raised."""

    def act(where: Place) -> None:
        if where == place:
            sys.settrace(None)
            raise Strike

    _under(_traced(act), work)


def at_places(work: Callable[[], object], act: Callable[[], None], every: int = 1) -> int:
    """Run it, with something done within at every so manieth place; how often."""
    count = 0

    def count_and_act(_where: Place) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            act()

    _under(_traced(count_and_act), work)
    return count // every


def shown(place: Place) -> str:
    """For a message."""
    code, offset, count = place
    line = next((at for start, stop, at in code.co_lines() if start <= offset < stop), None)
    done = next(one for one in dis.get_instructions(code) if one.offset == offset)
    times = "" if count == 1 else f", the {count}. time"
    return f"{Path(code.co_filename).name}:{line} {code.co_qualname} before {done.opname} at {offset}{times}"
