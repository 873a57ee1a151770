"""A client of the example orchestrator: requests by hand, so that what is on the wire is what is asserted."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import attrs
from examples.orchestrator.serving import running
from examples.orchestrator.settings import ReplicaSettings, Settings
from examples.orchestrator.tasks import Tasks

from worker_adapters import Event, Token, parse_events

from ..runtime.dialects import until as state

__all__ = ["Answer", "Client", "text_of", "until"]

until = partial(state, seconds=30.0)  # many threads of several servers share the machine with other tests


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Event]:
        assert self.headers["content-type"].startswith("text/event-stream"), self
        return list(parse_events([self.body]))


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if type(event) is Token)


@attrs.define(eq=False)
class Client:
    """`tasks`: the orchestrator's own, for what can't be seen from outside."""

    address: tuple[str, int]
    tasks: Tasks

    @classmethod
    def of(cls, stack: ExitStack, workers: Sequence[Any], *, slots: int, **settings: Any) -> Client:
        """`workers`: simulated ones, or (engine, url), or (engine, url, model)."""
        replicas = []
        for n, worker in enumerate(workers):
            engine, url, model = (
                (*worker, None)[:3] if isinstance(worker, tuple) else (worker.engine, worker.url, worker.model)
            )
            replicas.append(ReplicaSettings(id=f"r{n}", engine=engine, url=url, model=model, slots=slots, pool="p"))
        url, tasks = stack.enter_context(running(Settings(replicas=tuple(replicas), **settings)))
        where = urlsplit(url)
        return cls((where.hostname or "", where.port or 0), tasks)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        with closing(http.client.HTTPConnection(*self.address, timeout=30)) as connection:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())

    def submit(self, headers: dict[str, str] | None = None, **request: Any) -> str:
        answer = self.ask("POST", "/v1/tasks", {"prompt": "x", "max_tokens": 64, **request}, headers)
        assert answer.status == 202, answer
        return answer.json["task_id"]

    def stream(self, task_id: str, last: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        more = {} if last is None else {"Last-Event-ID": last}
        return self.ask("GET", f"/v1/tasks/{task_id}/stream", headers={**(headers or {}), **more})

    def hurry(self, task_id: str) -> None:
        """A short grace for this task from now on: from its start, it may be over before its client is there."""
        (task,) = self.tasks._of(task_id, "")
        task.recording._grace = 0.2

    def cancel(self, task_id: str, headers: dict[str, str] | None = None) -> int:
        return self.ask("POST", f"/v1/tasks/{task_id}/cancel", headers=headers).status

    @contextmanager
    def listen(
        self, task_id: str, last: str | None = None, receive_buffer: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The body's chunks as they come, on a connection that is dropped when the block is left."""
        with socket.socket() as sock:
            sock.settimeout(30)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect(self.address)
            more = "" if last is None else f"Last-Event-ID: {last}\r\n"
            sock.sendall(f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
            with closing(sock.makefile("rb", 256)) as file:
                yield _unchunked(file)

    def metrics(self) -> dict[str, float]:
        text = self.ask("GET", "/metrics").body.decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def _unchunked(file: BinaryIO) -> Iterator[bytes]:
    assert b" 200 " in file.readline()
    while file.readline() not in (b"\r\n", b""):
        pass
    while size := int(file.readline() or b"0", 16):
        yield file.read(size)
        file.readline()
