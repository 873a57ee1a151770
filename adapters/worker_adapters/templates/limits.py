"""What a template may use up: turns and calls are counted, and every value is paid for before it is made.

A value's extent is about the length of its text, written out in full: a list that holds another one twice counts it twice,
so that few steps can't build what takes for ever to print, compare or hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import attrs

from ..api import InvalidRequestError
from ..api.errors import invalid

__all__ = ["BUDGET", "Budget", "TemplateError", "TemplateLimits", "failed"]

WORK = 8  # times the size of the longest prompt: what a template may make in all
MAX_BITS = 4096  # of an integer
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
        self._known: dict[int, tuple[object, int]] = {}  # extents by id, with what keeps the id from being used again

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
        """A value that has been put together from others that were paid for."""
        if isinstance(value, list | tuple | Mapping | set | frozenset):
            self.spend(self.extent(value), len(value))  # it refers to its parts
        return value

    def extent(self, value: Any) -> int:
        """About how many characters the value's text has. Raises TemplateError above the limit."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            return value.bit_length() // 3 + 1
        if isinstance(value, list | tuple | Mapping | set | frozenset):
            known = self._known.get(id(value))
            if known is None:
                known = self._known[id(value)] = (value, self._written_out(value))
            return known[1]
        return OTHER

    def _written_out(self, value: Iterable[Any]) -> int:
        parts = (part for pair in value.items() for part in pair) if isinstance(value, Mapping) else iter(value)
        size = 2
        for part in parts:
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
