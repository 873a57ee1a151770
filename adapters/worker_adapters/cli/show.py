"""What the command line shows: tokens as they come, then a table of what they were."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from typing import Any

from worker_adapters import End, Error, Metrics, Started, Stream, Token

__all__ = ["as_json", "say", "show_stream", "show_table", "writable"]


def writable() -> bool:
    """Whether there is a standard output; what it and stderr can't show is replaced from now on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return sys.stdout is not None


def as_json(value: object) -> str:
    """As people read it where the console can show everything; else in ASCII, which loses nothing."""
    return json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf"))


def say(text: str, *, error: bool = False) -> None:
    """One line, at once."""
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


def show_table(rows: Mapping[str, Any]) -> None:
    """Two columns; what is unknown shows as -."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        say(f"  {name:<{width}}  {'-' if value is None else value}")


def show_stream(stream: Stream, *, cancel_after: int | None = None) -> int:
    """Print tokens as they come and a closing table; 1 if the stream ended in an Error. Blocks to the end."""
    started: Started | None = None
    metrics: Mapping[str, float | int | str] = {}
    tokens = 0
    for event in stream:
        if isinstance(event, Token):
            sys.stdout.write(event.text)
            sys.stdout.flush()
            tokens += 1
            if tokens == cancel_after:
                stream.cancel()
        elif isinstance(event, Started):
            started = event
        elif isinstance(event, Metrics):
            metrics = event.values
        elif isinstance(event, Error):
            say(f"\n\n{event.code}/{event.reason} in phase {event.phase}: {event.message}", error=True)
            if event.upstream is not None:
                say(f"the engine said ({event.upstream.status}): {event.upstream.message}", error=True)
            return 1
        else:
            say("\n")
            show_table(_summary(started, metrics, event))
    return 0


def _summary(started: Started | None, metrics: Mapping[str, float | int | str], end: End) -> dict[str, Any]:
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
