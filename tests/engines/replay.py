"""Recorded responses through the real runtime: codec, dialect and layers, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_adapters import End, Error, GenerateRequest, Retry
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Script, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_adapters import Event
    from worker_adapters.dialect import Dialect, Fault


def head_of(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case."""
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


def stream(
    dialect: Dialect, head: bytes, chunks: list[bytes], *, then: Fault | None = None, **request: object
) -> list[Event]:
    """The events of one attempt that gets this response."""
    status, headers = head_of(head)
    script = Script(status=status, headers=headers, steps=[*chunks, then] if then else chunks)
    config = AdapterConfig(dialect=dialect, url="http://engine.test", retry=Retry(attempts=1))
    with EngineAdapter(config, transport=ScriptedTransport([script])) as adapter:
        return list(adapter.stream(GenerateRequest(**{"prompt": "p", **request})))  # type: ignore[arg-type]


def without_times(events: list[Event]) -> Iterator[object]:
    """Events as comparable values, without clocks and task ids."""
    for event in events:
        if isinstance(event, End):
            yield (
                event.finish_reason,
                event.finish_reason_raw,
                event.stop_text,
                event.tokens_out,
                event.token_ids_tail,
            )
        elif isinstance(event, Error):
            yield (event.code, event.reason, event.retriable, event.phase, event.message)
        elif event.kind == "token":
            yield event
        else:
            yield event.kind
