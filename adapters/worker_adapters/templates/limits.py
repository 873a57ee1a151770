"""What a template may use up: every operation is paid for, by what it takes and what it gives, before it is done.

A value's extent is about the length of its text, written out in full: a list that holds another one twice counts it twice,
so that few steps can't build what takes for ever to print, compare or hash. Work is counted in units of some ten
nanoseconds: a template and its messages always use up the same, on any machine. What is not known to cost less is paid in
full.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from typing import Any

import attrs

from ..api import InvalidRequestError
from ..api.errors import invalid

__all__ = ["BUDGET", "Budget", "TemplateError", "TemplateLimits", "failed"]

WORK = 8  # units for each character of the longest prompt: all that a template may do
MAX_BITS = 4096  # of an integer
PART = 8  # the extent of each part of a list or dict beside its own, and what it costs to copy it
PAIR = 4  # a pair of a dict takes as much as so many parts of a list
VISIT = 50  # units for each part of a value whose extent is found out
FOUND = 500  # units to remember it
LOOK = 0.25  # units for each character of what is compared, searched or hashed
COPY = 1 / 32  # units for each character of a string that is copied
TURN, CALL, LITTLE = 40, 250, 60  # units for a turn, a call of any kind, and what is done beside a value
KEPT = 100_000  # parts of values whose extents are remembered: what keeps them alive
HEAVY = 256  # characters that count as a part there
OTHER = 64  # the extent of what is no plain value: its repr has its type, and no contents
MOST_SAID = 500  # characters of a template's own message
_address = re.compile(r" at 0x[0-9a-fA-F]+")


class TemplateError(InvalidRequestError):
    """A chat template can't be read, refuses the messages, fails on them, or goes beyond its limits."""


def failed(message: str) -> TemplateError:
    """The error to raise."""
    return TemplateError(invalid(message[:MOST_SAID]).error)


def _at_least_one(_: Any, attribute: attrs.Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} must be an integer of at least 1, got {value!r}")


@attrs.frozen(kw_only=True)
class TemplateLimits:
    """Bounds of one rendering: turns of loops and calls, and characters of the prompt and of each value on the way.

    The work that may be done in all goes with `characters`.
    """

    steps: int = attrs.field(default=1_000_000, validator=_at_least_one)
    characters: int = attrs.field(default=16 * 1024 * 1024, validator=_at_least_one)


@attrs.frozen
class _Known:
    """What was found out of a value: `strange` is the type of a part whose text has an address, if there is one."""

    value: Any  # kept, so that its id is not used again
    extent: int
    strange: str
    parts: int = 0


class Budget:
    """What is left of the limits during one rendering."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._work: float = WORK * limits.characters
        self._known: OrderedDict[int, _Known] = OrderedDict()  # whose first one is found at once, unlike a dict's
        self._kept = 0

    @property
    def used(self) -> int:
        """Units of work so far."""
        return int(WORK * self._limits.characters - self._work)

    def charge(self, units: float) -> None:
        """Work that is about to be done. Raises TemplateError."""
        self._work -= units
        if self._work < 0:
            raise failed(f"the template does more than {WORK * self._limits.characters} units of work: does it end?")

    def step(self, units: float = CALL) -> None:
        """One more turn or call. Raises TemplateError."""
        self._steps -= 1
        if self._steps < 0:
            raise failed(f"the template takes more than {self._limits.steps} steps: does it end?")
        self.charge(units)

    def turns(self, items: Iterable[Any], body: int = 0) -> Iterator[Any]:
        """The items of a loop, each counted; `body`: units for what is done with it, whatever it is."""
        units = TURN + body
        for item in items:
            self.step(units)
            yield item

    def spend(self, size: int, units: float | None = None) -> None:
        """Something of that many characters is about to be made, for a unit each if no other cost is given."""
        if size > self._limits.characters:
            raise failed(f"the template makes a value of more than {self._limits.characters} characters")
        self.charge(size if units is None else units)

    def made(self, value: Any) -> Any:
        """A value that has been put together from others that were paid for: it refers to its parts."""
        if isinstance(value, str | bytes):
            self.spend(len(value), LITTLE + len(value) * COPY)
        elif isinstance(value, Collection):
            self.charge(LITTLE + (PART * PAIR if isinstance(value, Mapping) else PART) * len(value))
            self.spend(self.extent(value), 0)
        return value

    def looked_at(self, value: Any) -> Any:
        """A value that is compared, searched, or handed to a function."""
        extent = self.extent(value)
        self.spend(extent if extent > OTHER else 0, LITTLE + extent * LOOK)
        return value

    def text(self, value: Any) -> int:
        """The extent of what becomes text. Raises TemplateError where that would have an address, another one each time."""
        if isinstance(value, str):
            return len(value)
        known = self._find_out(value)
        if known.strange:
            raise failed(f"the template writes a {known.strange}: its text has an address in it, another one each time")
        return known.extent

    def extent(self, value: Any) -> int:
        """About how many characters the value's text has. Raises TemplateError above the limit."""
        return len(value) if isinstance(value, str) else self._find_out(value).extent

    def _find_out(self, value: Any) -> _Known:
        if isinstance(value, str | bytes):
            return _Known(None, len(value), "")
        if isinstance(value, int):
            return _Known(None, value.bit_length() // 3 + 1, "")
        if value is None or isinstance(value, float):
            return _Known(None, len("None"), "")
        if isinstance(value, range):
            return _Known(None, PART * len(value), "")
        known = self._known.get(id(value))
        if known is not None:
            return known
        if isinstance(value, list | tuple | Mapping | set | frozenset | KeysView | ValuesView | ItemsView):
            return self._remembered(value, *self._written_out(value), len(value))
        return self._remembered(value, OTHER, _strange(value), 1)

    def _remembered(self, value: Any, extent: int, strange: str, parts: int) -> _Known:
        """What is remembered for longest is forgotten first; to find it out once more is paid for."""
        self.charge(FOUND)
        known = self._known[id(value)] = _Known(value, extent, strange, parts)
        self._kept += parts + extent // HEAVY
        while self._kept > KEPT and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._kept -= oldest.parts + oldest.extent // HEAVY
        return known

    def _written_out(self, value: Iterable[Any]) -> tuple[int, str]:
        pairs = value.items() if isinstance(value, Mapping) else value if isinstance(value, ItemsView) else None
        parts = iter(value) if pairs is None else (part for pair in pairs for part in pair)
        size, strange = 2, ""
        for part in parts:
            self.charge(VISIT)
            if isinstance(part, str):
                size += PART + len(part)
            elif type(part) is int:
                size += PART + part.bit_length() // 3 + 1
            else:
                known = self._find_out(part)
                size, strange = size + PART + known.extent, strange or known.strange
            if size > self._limits.characters:
                self.spend(size)
        return size, strange


def _strange(value: Any) -> str:
    """The type of what is no plain value if its text has an address: a generator, a function, a method not called."""
    return type(value).__name__ if _address.search(str(value)) else ""


def whole_number(value: int) -> int:
    """An integer that can be worked with. Raises TemplateError."""
    if value.bit_length() > MAX_BITS:
        raise failed(f"the template makes an integer of more than {MAX_BITS} bits")
    return value


BUDGET: ContextVar[Budget] = ContextVar("worker_adapters.templates.budget")
