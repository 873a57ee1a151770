"""What finds a stream its worker, where there is a choice: a pool's (worker_adapters.pool)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..dialect import Fault
from ..waiting import Steps

if TYPE_CHECKING:
    from .running import Running

__all__ = ["Placement"]


class Placement(Protocol):
    """Of one stream, whose `worker` it sets; its driver's."""

    def settled(self, running: Running) -> Steps[None]:
        """Before the first attempt: wait until it has a worker. Raises Fault (NO_WORKER), Interrupted."""
        ...

    def again(self, failed: Fault, running: Running) -> Steps[None]:
        """After one that failed: wait for the next, there or elsewhere. Raises the failure where it is the answer,
        Fault (NO_WORKER) where it is so because no other worker is left, and Interrupted.
        """
        ...
