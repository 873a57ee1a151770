"""Verifications of simulated workers, for tests."""

from __future__ import annotations

from contextlib import ExitStack

from worker_adapters import Limits, connect, registry
from worker_adapters.verify import Plan, Recording, Verification
from worker_adapters.verify.tapping import Tap


def recorded(engine: str, *urls: str, **plan) -> Recording:
    """What a run over these workers records."""
    tap = Tap()
    dialect = tap.on(registry.dialect(engine))
    limits = Limits(hand_over=2)
    with ExitStack() as stack:
        adapters = [stack.enter_context(connect(dialect, url, limits=limits)) for url in urls]
        return Verification(adapters, tap, Plan(**plan)).record()
