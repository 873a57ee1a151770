"""A stream on the terminal: its text as it comes, then what it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker_adapters import End, Error, Metrics, Started, Stream, Token, event_to_dict

from .exits import Exit
from .output import emit, emit_json, note, note_record

__all__ = ["show_events", "show_stream"]

Closing = Callable[[Mapping[str, Any]], None]


def show_stream(stream: Stream, *, cancel_after: int | None = None, closing: Closing = note_record) -> Exit:
    """Text to standard output as it comes; `closing` is given the facts. FAILED for an Error. Blocks to the end."""
    started: Started | None = None
    metrics: Mapping[str, float | int | str] = {}
    tokens = 0
    for event in stream:
        if isinstance(event, Token):
            emit(event.text)
            tokens += 1
            if tokens == cancel_after:
                stream.cancel()
        elif isinstance(event, Started):
            started = event
        elif isinstance(event, Metrics):
            metrics = event.values
        elif isinstance(event, Error):
            if tokens:
                emit("\n")
            note(f"worker-adapters: {event.code}/{event.reason} in phase {event.phase}: {event.message}")
            if event.upstream is not None:
                note(f"the engine said ({event.upstream.status}): {event.upstream.message}")
            return Exit.FAILED
        else:
            emit("\n")
            closing(_facts(started, metrics, event))
    return Exit.OK


def show_events(stream: Stream, *, cancel_after: int | None = None) -> Exit:
    """All events as JSON lines. FAILED for an Error. Blocks to the end."""
    status = Exit.OK
    for event in stream:
        emit_json(event_to_dict(event))
        if isinstance(event, Token) and event.index + 1 == cancel_after:
            stream.cancel()
        if isinstance(event, Error):
            status = Exit.FAILED
    return status


def _facts(started: Started | None, metrics: Mapping[str, float | int | str], end: End) -> dict[str, Any]:
    first = metrics.get("latency_first_token_ms")
    return {
        "engine": None if started is None else started.engine,
        "version": None if started is None else started.engine_version,
        "model": None if started is None else started.model,
        "seed": None if started is None else started.seed,
        "tokens": f"{end.tokens_out} out, {'-' if end.tokens_in is None else end.tokens_in} in ({end.usage_source})",
        "first token ms": None if first is None else f"{first:.1f}",
        "decode ms": f"{end.decode_time_ms:.1f}",
        "finish reason": f"{end.finish_reason} ({end.finish_reason_raw or end.finish_reason_source})",
    }
