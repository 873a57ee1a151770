"""Adapters over memory that speak the mock's wire, and its events written out."""

from __future__ import annotations

import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

from worker_adapters import Error, GenerateRequest, Reason, Retry, Token
from worker_adapters.engines import mock
from worker_adapters.engines.mock.server import event_bytes, refusal
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Script, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from worker_adapters import Event
    from worker_adapters.transport.scripted import Scripted, Step

__all__ = [
    "adapter_of",
    "busy",
    "end",
    "error_event",
    "errors",
    "good",
    "in_child",
    "in_thread",
    "kinds",
    "request",
    "sent",
    "text_of",
    "tokens",
    "transport_of",
    "waiting",
]


PATIENCE = 20.0


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "hello", "max_tokens": 4, "seed": 1, **fields})


def tokens(count: int, first: int = 0) -> bytes:
    """Events of that many Tokens: t0, t1, …"""
    return b"".join(event_bytes({"t": f"t{n}", "n": n + 1, "in": 5}) for n in range(first, first + count))


def end(count: int) -> bytes:
    return event_bytes({"end": "length", "n": count, "in": 5})


def error_event(kind: Reason) -> bytes:
    return event_bytes({"error": {"kind": kind, "message": "said inside the stream"}})


def good(count: int = 3) -> Script:
    """An answer of so many Tokens, in one read."""
    return Script(steps=[tokens(count) + end(count)])


def busy(headers: dict[str, str] | None = None) -> Scripted:
    """A refusal that is retried."""
    return refusal(429, Reason.OVERLOADED, "the queue is full", headers)


def waiting(steps: Iterable[Step], reached: threading.Event) -> Iterator[Step]:
    """The steps; sets `reached` when the one after the last is asked for."""
    yield from steps
    reached.set()


def transport_of(*scripts: Scripted, probes: bool = False) -> ScriptedTransport:
    return ScriptedTransport(scripts, reply=mock.reply) if probes else ScriptedTransport(scripts)


def adapter_of(*scripts: Scripted, probes: bool = False, dialect: Any = mock.DIALECT, **config: Any) -> EngineAdapter:
    """An adapter that gets these answers, in this order; one attempt, unless `retry` says more."""
    config = {"retry": Retry(attempts=1), **config}
    return EngineAdapter(
        AdapterConfig(dialect=dialect, url="http://x.test", **config), transport=transport_of(*scripts, probes=probes)
    )


def sent(adapter: EngineAdapter) -> int:
    """How many requests went out."""
    transport = adapter._transport
    assert isinstance(transport, ScriptedTransport)
    return len(transport.requests)


def kinds(events: Iterable[Event]) -> list[str]:
    return [event.kind for event in events]


def text_of(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


def errors(events: Iterable[Event]) -> list[Error]:
    return [event for event in events if isinstance(event, Error)]


def in_thread(work: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def in_child(work: Callable[[], None]) -> None:
    """Fork, run it there; raises what it raised. The child leaves without pytest's own end."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  -- told to the parent
            os.write(write, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(write)
    killer = threading.Timer(PATIENCE, os.kill, (child, 9))
    killer.start()
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    killer.join()
    assert os.waitstatus_to_exitcode(status) == 0, told or "the child hung"
