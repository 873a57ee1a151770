"""What determinism a stream is granted, and what stands against more."""

from __future__ import annotations

import attrs

from ..api import DeterminismLevel, OnDegraded, Reason
from ..dialect import Fault
from ..lifetime import Lifetime
from ..waiting import Steps
from .running import Running
from .worker import Worker

__all__ = ["Grade"]


@attrs.frozen
class Grade:
    """The level for `Started`, and why it is lower than asked for."""

    level: DeterminismLevel
    reasons: tuple[str, ...] = ()

    @staticmethod
    def of(worker: Worker, running: Running, lifetime: Lifetime) -> Steps[Grade]:
        """Judge a request against the worker, whose properties are waited for if `strict` is asked for.

        Raises Fault (VALIDATION) where strict can't be granted and the request says refuse; Interrupted.
        """
        request = running.request
        if request.determinism is not DeterminismLevel.STRICT:
            return BEST_EFFORT
        reasons = worker.dialect.against_strict(request)
        if running.placement is not None:
            reasons += running.placement.against_strict
        try:
            reasons += (yield from worker.facts_steps(lifetime)).against_strict
        except Fault as fault:
            if request.on_degraded is OnDegraded.REFUSE:
                raise
            reasons += (f"the worker's properties can't be read: {worker.redactor.clean(fault.message)}",)
        if not reasons:
            return Grade(DeterminismLevel.STRICT)
        if request.on_degraded is OnDegraded.REFUSE:
            raise Fault(
                Reason.VALIDATION, f"determinism strict can't be granted (on_degraded=refuse): {'; '.join(reasons)}"
            )
        return Grade(DeterminismLevel.BEST_EFFORT, reasons)


BEST_EFFORT = Grade(DeterminismLevel.BEST_EFFORT)  # one for all who ask for no more
