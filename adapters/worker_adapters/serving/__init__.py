"""Events out: an orchestrator's own stream of server-sent events, made of a Stream and read back; a log to resume from."""

from __future__ import annotations

from .outgoing import HEARTBEAT, Framer, event_stream
from .parse import EventReader, begin_stream, parse_events
from .recording import Recording
from .replay import ReplayLog

__all__ = [
    "HEARTBEAT",
    "EventReader",
    "Framer",
    "Recording",
    "ReplayLog",
    "begin_stream",
    "event_stream",
    "parse_events",
]
