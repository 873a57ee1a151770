"""What the command line shows: tokens as they come, then a table of what they were."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

from worker_adapters import End, Error, Metrics, Started, Stream, Token

__all__ = ["give_up_output", "is_unicode", "prepare_console", "read_input", "say", "show_stream", "show_table"]


def prepare_console() -> None:
    """What a console has no characters for is shown as ?, and never raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_unicode() -> bool:
    """Whether standard output can show every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def read_input() -> str:
    """Standard input, whole; bytes that are no text become U+FFFD."""
    if sys.stdin is None:
        return ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin.read()


def give_up_output() -> None:
    """Nothing more goes to standard output: the interpreter must not complain of it at its exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # there is none
        return


def say(text: str, *, error: bool = False) -> None:
    """One line, at once."""
    if error:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)
        return
    _write(f"{text}\n")


def _write(text: str) -> None:
    if sys.stdout is None:  # it was closed before we began (>&-)
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


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
            _write(event.text)
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
