"""Where a stream meets what traces it, if anything does: it costs one look at an attribute where nothing does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..api.address import Origin
from ..api.errors import invalid
from ..dialect import Fault
from ..helpers import HELPERS, imported
from ..loop import LOOP
from ..waiting import Steps
from .recorder import Attempt

if TYPE_CHECKING:
    from .origin import AdapterConfig
    from .otel import OpenTelemetryRecorder
    from .running import Running

__all__ = ["carried_with", "telemetry_of"]

CONTEXT = frozenset({"traceparent", "tracestate"})


def telemetry_of(config: AdapterConfig) -> OpenTelemetryRecorder | None:
    """What traces an adapter's streams. Raises InvalidRequestError where the extra is not installed."""
    if config.telemetry is None:
        return None
    try:
        made = imported(_otel)
    except ImportError:
        raise invalid("telemetry needs OpenTelemetry: pip install worker-adapters[otel]") from None
    try:
        origin = Origin.of(config.url)
        server = (origin.socket or origin.host, None if origin.socket else origin.port)
    except ValueError:  # no network: a transport of its own
        server = (config.dialect.name, None)
    labels = {"pool_id": config.pool_id, "replica_id": config.replica_id or ""}
    try:
        return made(config.telemetry, engine=config.dialect.name, server=server, labels=labels)
    except Exception as exc:  # noqa: BLE001  -- an application's providers
        raise invalid(f"telemetry can't be set up ({type(exc).__name__})") from None


def _otel() -> type[OpenTelemetryRecorder]:
    from .otel import OpenTelemetryRecorder  # noqa: PLC0415  -- loaded only where telemetry is on

    return OpenTelemetryRecorder


def carried_with(running: Running, one: Attempt, headers: Mapping[str, str]) -> Steps[Mapping[str, str]]:
    """The headers with the attempt's trace context; what the caller sends of that itself counts. Raises Interrupted."""
    traced = running.trace
    begin = partial(traced.attempt, one)
    if traced.is_prepared or not LOOP.is_current():
        context = begin()
    else:
        try:
            context = yield from HELPERS.call(("trace", id(running.worker)), begin, running.lifetime)
        except Fault:  # out of threads: the stream goes on without
            context = {}
    given = {name.lower() for name in headers}
    if given & CONTEXT:
        return headers
    return {**headers, **{name: value for name, value in context.items() if name.lower() not in given}}
