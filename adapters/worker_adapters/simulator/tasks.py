"""What a slot does: a task, its steps, and its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Run", "Step", "Task"]


@attrs.frozen(kw_only=True)
class Step:
    """What one token has brought about.

    `events` are payloads of the body, a chunk each. `opening` goes in front of them unless it would be the very first
    payload of the body, as llama-server does with its marker of a task's begin. The `last` step of a task frees its
    slot before a byte of it is sent; `result` is what a whole answer is made from. After one with `again` the job goes
    on with that task, which waits for a slot behind all who wait by then.
    """

    events: tuple[bytes, ...] = ()
    opening: bytes = b""
    last: bool = False
    result: Any = None
    again: Task | None = None


@attrs.frozen(kw_only=True)
class Task:
    """One prompt for one slot.

    `steps` runs in the slot: its first `next()` is the admission (no token, no delay), each further one is a token. It
    may raise RefusedError. `slot` asks for a certain slot; `page` is the engine's own, for its page about slots.
    """

    prompt: tuple[int, ...]
    steps: Callable[[Run], Iterator[Step]]
    slot: int | None = None
    cache: bool = True
    page: Any = None


@attrs.define(kw_only=True, eq=False)
class Run:
    """One task in its slot. Written by the connection's thread only; others read it for pages, one field at a time.

    But for `width`, how many ran at once at most while it did, and `cancels`, how many of those were cancelled: the slots'.
    """

    slot: int
    number: int
    task: Task
    cached: int
    clock: Callable[[], float]
    started: float
    first_token: float | None = None
    decoded: int = 0
    generated: list[int] = attrs.field(factory=list)
    new_line: bool = False
    exhausted: bool = False
    width: int = 1
    cancels: int = 0

    @property
    def size(self) -> int:
        """Tokens of the prompt and the answer so far."""
        return len(self.task.prompt) + self.decoded
