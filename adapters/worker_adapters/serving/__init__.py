"""Events out: an orchestrator's own stream of server-sent events, made of a Stream and read back; a log to resume from."""

from __future__ import annotations

from .outgoing import HEARTBEAT, Framer, event_stream
from .parse import EventReader, parse_events

__all__ = ["HEARTBEAT", "EventReader", "Framer", "event_stream", "parse_events"]
