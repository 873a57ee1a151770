"""`/v1/completions` in the manner of a row of openai-completions: how a body ends, comments, counts, errors, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Setup, Slots, Task, Wire, Wording
from .manners import MANNERS, Errors, Manner
from .text import DONE, Answer, dump, event, failed

__all__ = ["build"]

JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream"),)
BUSY = "The server is busy: too many requests. Please try again later."


@attrs.frozen(kw_only=True)
class Server:
    """One simulated server."""

    setup: Setup
    manner: Manner
    max_queued: int | None

    def refusal(self, status: int, message: str) -> Reply:
        """A reply that is no stream."""
        return Reply(status=status, headers=JSON, body=dump(self.manner, failed(self.manner.errors, status, message)))

    def failure(self, message: str) -> RefusedError:
        """An error of the engine, as a reply or in a stream. A server without one in streams breaks off."""
        manner = self.manner
        if manner.failing is None:
            said = b""
        elif manner.failing is Errors.WORDS:
            said = event(manner, message.encode())
        else:
            said = event(manner, dump(manner, failed(manner.failing, 500, message)))
        return RefusedError(self.refusal(500, message), said)


def build(setup: Setup, *, row: str = "", max_queued: int | None = None, ping: float | None = None) -> Wire:
    """A server as `Simulator` runs it.

    `row`: whose manner it has, by its name in the table (mlx, dynamo, …); empty: what most do. `max_queued`: how many may
    wait before others are refused. `ping`: seconds of silence after which it sends its comment, if it has one.
    """
    if row not in MANNERS:
        raise ValueError(f"there is no row {row!r}; there are {', '.join(filter(None, MANNERS))}")
    manner = MANNERS[row]
    server = Server(setup=setup, manner=manner, max_queued=max_queued)
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots, ping),
        head=lambda head: _head(manner, head),
        bad_request=lambda status: attrs.evolve(server.refusal(status, "Invalid HTTP request received."), close=True),
        exhausted=lambda: server.failure("Out of KV cache blocks: the kv cache is full"),
        wording=Wording(
            generates=lambda request: request.path == "/v1/completions",
            loading=server.refusal(503, "The model is still loading"),
            overloaded=server.refusal(503, BUSY),
            failure=server.failure,
            broken="The engine has failed",
            comment=(manner.ping or b":") + manner.newline * 2,
            end_sign=manner.end_sign,
        ),
        keep_alive_max=1_000_000,
        chunked=manner.framed,
    )


def _head(manner: Manner, head: Head) -> bytes:
    version = "1.1" if manner.framed else "1.0"
    length = "transfer-encoding: chunked" if head.length is None else f"content-length: {head.length}"
    lines = [
        f"HTTP/{version} {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        *manner.head,
        *(f"{name}: {value}" for name, value in head.reply.headers),
        *([length] if manner.framed else []),
        *(["connection: close"] if head.close and manner.framed else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _answer(server: Server, request: Request, slots: Slots, ping: float | None) -> Reply | Job:
    key = server.setup.api_key
    if key is not None and request.headers.get("authorization") != f"Bearer {key}":
        return server.refusal(401, "Invalid API key")
    match request.method, request.path:
        case "POST", "/v1/completions":
            return _completion(server, request, slots, ping)
        case "GET", "/v1/models":
            card = {"id": server.setup.model, "object": "model", "created": 1795766400}
            return Reply(status=200, headers=JSON, body=dump(server.manner, {"object": "list", "data": [card]}))
        case "GET", "/health" if server.manner.health:
            status = "loading" if slots.loading else "ok"
            return Reply(
                status=503 if slots.loading else 200, headers=JSON, body=dump(server.manner, {"status": status})
            )
        case "GET", "/version" if server.manner.version:
            return Reply(status=200, headers=JSON, body=dump(server.manner, {"version": server.manner.version}))
    return server.refusal(404, "Not Found")


def _completion(server: Server, request: Request, slots: Slots, ping: float | None) -> Reply | Job:
    if slots.loading:
        return server.refusal(503, "The model is still loading")
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return server.refusal(400, "Invalid JSON in request body")
    prompt = body.get("prompt")
    ids = tuple(server.setup.source.vocabulary.encode(prompt)) if isinstance(prompt, str) else tuple(prompt or ())
    if refused := _refused(server, body, ids):
        return refused
    if server.max_queued is not None and slots.state.queued >= server.max_queued:
        return server.refusal(503, BUSY)
    manner = server.manner
    answer = Answer(setup=server.setup, manner=manner, body=body)
    return Job(
        groups=((Task(prompt=ids, steps=answer.steps),),),
        head=Reply(status=200, headers=SSE) if body.get("stream") else None,
        collect=lambda results: _collected(manner, results),
        ping=manner.ping + manner.newline * 2 if manner.ping else b"",
        ping_interval=ping if manner.ping else None,
        farewell=event(manner, DONE) if manner.done and manner.done_after_errors else b"",
        eager=True,
    )


def _refused(server: Server, body: Mapping[str, Any], ids: Sequence[int]) -> Reply | None:
    """What is refused before a request is scheduled."""
    manner, ctx = server.manner, server.setup.ctx
    if manner.refuses is not None and (unknown := sorted(set(body) - manner.fields)):
        return server.refusal(manner.refuses, f"Unsupported parameter(s): {', '.join(unknown)}")
    if not manner.any_model and body.get("model") not in (None, server.setup.model):
        return server.refusal(404, f"The model `{body['model']}` does not exist")
    if not isinstance(body.get("prompt"), str) and not (manner.prompt_ids and ids):
        return server.refusal(400, "prompt must be a string")
    for name in ("max_tokens", "temperature", "top_p"):
        if type(body.get(name)) not in (int, float, type(None)):
            return server.refusal(400, f"{name} must be a number")
    if len(ids) >= ctx:
        return server.refusal(400, f"This model's maximum context length is {ctx} tokens; the prompt has {len(ids)}")
    return None


def _collected(manner: Manner, results: Sequence[Any]) -> Reply:
    return Reply(status=200, headers=JSON, body=dump(manner, results[0]))
