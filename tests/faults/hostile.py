"""A server that answers as a test says, over a socket, and adapters of every dialect bound to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from worker_adapters import Retry, Timeouts, connect, engine_names

from ..transport.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters import Adapter

    from ..transport.servers import Client

__all__ = ["ENGINES", "NETWORKED", "answering", "bound", "reply"]

ENGINES = tuple(name for name in engine_names() if not name.startswith("openai-completions-"))  # rows of one table
NETWORKED = tuple(name for name in ENGINES if name != "mock")


def reply(body: bytes, *lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """The URL of a server that sends what `answer` makes of each request, whole, and keeps its connections."""

    def serve(client: Client) -> None:
        while request := client.request():
            client.send(answer(request))

    with Server(serve) as server:
        yield server.url


def bound(engine: str, url: str, **config: Any) -> Adapter:
    """One attempt, and timers that end a test that hangs."""
    timeouts = Timeouts(connect=10, first_token=20, idle=20, probe=20)
    config = {"retry": Retry(attempts=1), "timeouts": timeouts, "model": "m", "metrics_url": f"{url}/metrics", **config}
    return connect(engine, url, **config)
