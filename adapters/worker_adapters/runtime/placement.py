"""What finds a stream its worker, where there is a choice: a pool's (worker_adapters.pool)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ..dialect import Dialect, Fault, Payload, Run
from ..waiting import Steps

if TYPE_CHECKING:
    from .running import Running

__all__ = ["Placement"]


class Placement(Protocol):
    """Of one stream, whose `worker` it sets; its driver's."""

    @property
    def against_strict(self) -> tuple[str, ...]:
        """Why `strict` can't be granted to it."""
        ...

    def decoded(self, dialect: Dialect, batches: Iterator[Sequence[Payload]], running: Running) -> Iterator[Run]:
        """The runs of an attempt, as the dialect decodes them, or what they are in a stream that goes on elsewhere."""
        ...

    def settled(self, running: Running) -> Steps[None]:
        """Before the first attempt: wait until it has a worker. Raises Fault (NO_WORKER), Interrupted."""
        ...

    def again(self, failed: Fault, running: Running) -> Steps[None]:
        """After one that failed: wait for the next, there or elsewhere. Afterwards `running.finished` is there if nothing is
        left to ask for. Raises the failure where it is the answer, NO_WORKER where no worker is left, and Interrupted.
        """
        ...
