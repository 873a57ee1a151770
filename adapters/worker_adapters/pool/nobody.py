"""The worker of a stream that has none."""

from __future__ import annotations

from ..runtime import AdapterConfig
from ..runtime.adapter import recorder_of
from ..runtime.origin import OnDemand
from ..runtime.worker import Worker

__all__ = ["nobody"]


def nobody(like: AdapterConfig) -> Worker:
    """In whose name it is told what becomes of a stream that has no worker. It is never asked for anything."""
    return Worker(
        dialect=like.dialect,
        transport=OnDemand(like),
        url=like.url,
        pool_id=like.pool_id,
        replica_id=None,
        model=None,
        credentials=None,
        timeouts=like.timeouts,
        retry=like.retry,
        limits=like.limits,
        identity=like.identity,
        recorder=recorder_of(like),
    )
