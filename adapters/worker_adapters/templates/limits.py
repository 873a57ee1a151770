"""What a template may use up: turns and calls are counted, and every value is paid for before it is made.

A value's extent is about the length of its text, written out in full: a list that holds another one twice counts it twice,
so that few steps can't build what takes for ever to print, compare or hash.
"""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from typing import Any

import attrs

from ..api import InvalidRequestError
from ..api.errors import invalid

__all__ = ["BUDGET", "Budget", "TemplateError", "TemplateLimits", "failed"]

WORK = 8  # times the size of the longest prompt: what a template may make in all
MAX_BITS = 4096  # of an integer
PART = 8  # what each part of a list or dict costs: a reference, and often an object of its own
PAIR = 4  # a pair of a dict takes as much as so many parts of a list
LOOK = 1 / 16  # of its extent is what it costs to compare a value, or to look for something in it
KEPT = 100_000  # parts of values whose extents are remembered: what keeps them alive
OTHER = 64  # the extent of what is no plain value: its repr has its type, and no contents
MOST_SAID = 500  # characters of a template's own message


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
    """Bounds of one rendering: turns of loops and calls, and characters of the prompt and of each value on the way."""

    steps: int = attrs.field(default=1_000_000, validator=_at_least_one)
    characters: int = attrs.field(default=16 * 1024 * 1024, validator=_at_least_one)


class Budget:
    """What is left of the limits during one rendering."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._work = WORK * limits.characters
        self._known: dict[int, tuple[Any, int]] = {}  # extents by id, with what keeps the id from being used again
        self._kept = 0

    def step(self) -> None:
        """One more turn or call. Raises TemplateError."""
        self._steps -= 1
        if self._steps < 0:
            raise failed(f"the template takes more than {self._limits.steps} steps: does it end?")

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop, each counted."""
        for item in items:
            self.step()
            yield item

    def spend(self, size: int, cost: int | None = None) -> None:
        """Something of that many characters is about to be made, which costs as much, or less. Raises TemplateError."""
        if size > self._limits.characters:
            raise failed(f"the template makes a value of more than {self._limits.characters} characters")
        self._work -= size if cost is None else cost
        if self._work < 0:
            raise failed(f"the template makes more than {WORK * self._limits.characters} characters in all")

    def made(self, value: Any) -> Any:
        """A value that has been put together from others that were paid for: it refers to its parts."""
        if isinstance(value, Collection) and not isinstance(value, str | bytes):
            each = PART * PAIR if isinstance(value, Mapping) else PART
            self.spend(self.extent(value), each * len(value))
        return value

    def looked_at(self, value: Any) -> Any:
        """A value that is compared, searched, or handed to a function."""
        extent = self.extent(value)
        if extent > OTHER:
            self.spend(extent, int(extent * LOOK))
        return value

    def extent(self, value: Any) -> int:
        """About how many characters the value's text has. Raises TemplateError above the limit."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            return value.bit_length() // 3 + 1
        if value is None:
            return len("None")
        if isinstance(value, range):
            return PART * len(value)
        if isinstance(value, list | tuple | Mapping | set | frozenset | KeysView | ValuesView | ItemsView):
            known = self._known.get(id(value))
            return self._remembered(value, self._written_out(value)) if known is None else known[1]
        return OTHER

    def _remembered(self, value: Collection[Any], extent: int) -> int:
        """What is remembered for longest is forgotten first; to find it out once more is paid for."""
        self._known[id(value)] = value, extent
        self._kept += len(value)
        while self._kept > KEPT and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._kept -= len(self._known.pop(oldest)[0])
        return extent

    def _written_out(self, value: Iterable[Any]) -> int:
        parts = (part for pair in value.items() for part in pair) if isinstance(value, Mapping) else iter(value)
        size = 2
        for part in parts:
            self._work -= 1
            size += 2 + self.extent(part)
            if size > self._limits.characters:
                self.spend(size)
        return size


def whole_number(value: int) -> int:
    """An integer that can be worked with. Raises TemplateError."""
    if value.bit_length() > MAX_BITS:
        raise failed(f"the template makes an integer of more than {MAX_BITS} bits")
    return value


BUDGET: ContextVar[Budget] = ContextVar("worker_adapters.templates.budget")
