"""The wire of each dialect, as far as a test has to write it: a worker over a socket that sends what the test says."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import GenerateRequest, Retry, Timeouts, connect

from ..transport.servers import Client, Server, chunk, head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters import Adapter, Event

__all__ = ["WIRES", "Wire", "adapter_of", "data", "events_of", "served", "texts_of"]

CHUNKED = head("Transfer-Encoding: chunked")
LONG = Timeouts(connect=20.0, first_token=20.0, idle=20.0, probe=20.0)
TRITON = {
    "triton-vllm": ["text_input", "stream", "sampling_parameters", "return_finish_reason", "return_logprobs"],
    "triton-llmapi": ["text_input", "sampling_param_max_tokens", "return_finish_reason", "stop"],
    "triton-trtllm": ["text_input", "max_tokens", "stream", "return_log_probs"],
}


def data(fields: Any) -> bytes:
    """One event; a str or bytes as it stands."""
    said = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return b"data: " + said + b"\n\n"


@attrs.frozen
class Wire:
    """What a dialect's worker sends. `piece` is an event of text, `end` the sign of the end, `after` what follows it."""

    name: str
    piece: Callable[..., dict[str, Any]]
    end: Callable[..., dict[str, Any] | None]
    after: tuple[Any, ...] = ()
    request: dict[str, Any] = attrs.field(factory=dict)

    @property
    def engine(self) -> str:
        return self.name if self.name == "openai-completions" else self.name.partition("-")[0]

    def stream(self, *texts: str, **fields: Any) -> list[bytes]:
        """A good stream."""
        return [*(data(self.piece(text, **fields)) for text in texts), *self.ending("".join(texts))]

    def ending(self, text: str) -> list[bytes]:
        """What comes after the pieces, which were this text."""
        end = self.end(text=text)
        return [*([] if end is None else [data(end)]), *map(data, self.after)]


def _choice(text: str, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason, **fields}], "model": "m"}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "model": "m"}
OPENAI: dict[str, Any] = {
    "piece": _choice,
    "end": lambda text: _choice("", "stop"),  # TGI's says it all again
    "after": (USAGE, b"[DONE]"),
}


def _token(text: str, **fields: Any) -> dict[str, Any]:
    token = {"id": 7, "text": text, "logprob": -0.5, "special": False, **fields}
    return {"index": 1, "token": token, "generated_text": None, "details": None}


def _tgi_end(text: str) -> dict[str, Any]:
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": 1}
    return {**_token("</s>", special=True), "generated_text": text, "details": details}


def _growth(text: str, reason: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """What is new: texts of a test know nothing of those before. Its ids say so, none of which is a first one."""
    meta = {"id": "r", "finish_reason": reason, "prompt_tokens": 3, **fields}
    return {"text": text, "meta_info": meta}


def _output(text: str, **fields: Any) -> dict[str, Any]:
    return {"text_output": text, "model_name": "m", "model_version": "1", **fields}


def _reasoned(text: str, **fields: Any) -> dict[str, Any]:
    return _output(text, finish_reason="None", **fields)


WIRES = {
    wire.name: wire
    for wire in (
        Wire("vllm", **OPENAI),
        Wire("trtllm", **OPENAI),
        Wire("openai-completions", **OPENAI),
        Wire("sglang", _growth, lambda text: _growth("", {"type": "stop", "matched": 2}), after=(b"[DONE]",)),
        Wire(
            "llamacpp",
            lambda text, **fields: {
                "content": text,
                "stop": False,
                "tokens_predicted": 1,
                "tokens_evaluated": 3,
                **fields,
            },
            lambda text: {
                "content": "",
                "stop": True,
                "stop_type": "eos",
                "tokens_predicted": 2,
                "timings": {"a": 1.0},
            },
        ),
        Wire("tgi", _token, _tgi_end),
        Wire("triton-vllm", _reasoned, lambda text: _output("", finish_reason="stop")),
        Wire(
            "triton-llmapi",
            _reasoned,
            lambda text: _output("", finish_reason="stop"),
            request={"engine_options": {"text": "delta"}},
        ),
        Wire("triton-trtllm", _output, lambda text: None),  # the body's end is all it has
    )
}


def page(body: Any, status: str = "200 OK", *fields: str) -> bytes:
    """A reply that is not a stream."""
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(said)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + said


def _probed(name: str, target: str) -> bytes:
    if target == "/v2/models/m" and name in TRITON:
        return page({"name": "m", "inputs": [{"name": one} for one in TRITON[name]]})
    if target == "/v2/models/m/config":
        return page({"parameters": {}})
    return page({"version": "2.51.0"}) if target == "/v2" else page({"error": "nothing there"}, "404 Not Found")


@contextmanager
def served(
    wire: Wire, answer: Callable[[Client], None], probed: Callable[[str], bytes] | None = None
) -> Iterator[Server]:
    """A worker that answers each request to generate with `answer(client)`, and each probe as its engine would."""

    def serve(client: Client) -> None:
        while asked := client.request():
            server.requests.append(asked)
            method, target, _ = asked.split(b" ", 2)
            if method == b"GET" or b'"stop":true' in asked:
                client.send((probed or (lambda one: _probed(wire.name, one)))(target.decode()))
            else:
                answer(client)

    with Server(serve) as server:
        yield server


def adapter_of(wire: Wire, url: str, timeouts: Timeouts = LONG, **options: Any) -> Adapter:
    """Of that worker, whose one model is called m."""
    return connect(wire.engine, url, **{"model": "m", "retry": Retry(attempts=1), "timeouts": timeouts, **options})


def events_of(
    wire: Wire,
    events: list[bytes],
    *,
    way: str = "stream",
    framing: str = "chunked",
    timeouts: Timeouts = LONG,
    **request: Any,
) -> list[Event]:
    """What a stream comes to whose worker sends these. `framing`: chunked, open (the body does not end), or closed."""

    def answer(client: Client) -> None:
        if framing == "closed":
            client.send(head("Connection: close"), *events)
            client.sock.close()
            return
        client.send(CHUNKED, *(chunk(one) for one in events))
        if framing == "open":
            client.until_gone()
        else:
            client.send(b"0\r\n\r\n")

    with served(wire, answer) as server, adapter_of(wire, server.url, timeouts) as adapter:
        return list(getattr(adapter, way)(GenerateRequest(**{"prompt": "p", **wire.request, **request})))


def texts_of(events: list[Event]) -> list[str]:
    """The text of each Token."""
    return [event.text for event in events if event.kind == "token"]
