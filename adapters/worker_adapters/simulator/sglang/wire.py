"""SGLang on the wire: from the source of its wheel (0.5.23), no real one has been recorded (docs/engines/sglang.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Setup, Slots, Task, Wire, Wording
from .text import Answer, dump, event

__all__ = ["build"]

JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream; charset=utf-8"),)
TEXT = (("content-type", "text/plain; charset=utf-8"),)
DONE = b"data: [DONE]\n\n"
VERSION = "0.5.23"
FULL: Mapping[str, Any] = {"type": "abort", "status_code": 503, "message": "The request queue is full."}
_KNOWN = (
    "max_new_tokens stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty presence_penalty"
    " repetition_penalty min_new_tokens n beam_width json_schema regex ebnf structural_tag ignore_eos skip_special_tokens"
    " spaces_between_special_tokens no_stop_trim stream_interval logit_bias sampling_seed custom_params watermark"
)
SAMPLING = frozenset(_KNOWN.split())


@attrs.frozen(kw_only=True)
class Server:
    """One simulated SGLang. `running`: the requests that an abort may name, by their ids."""

    setup: Setup
    incremental: bool
    deterministic: bool
    max_queued: int | None
    running: dict[str, Answer] = attrs.field(factory=dict)


def build(
    setup: Setup, *, incremental: bool = False, deterministic: bool = False, max_queued: int | None = None
) -> Wire:
    """An SGLang as `Simulator` runs it.

    `incremental`: --incremental-streaming-output, `deterministic`: --enable-deterministic-inference, `max_queued`:
    --max-queued-requests.
    """
    server = Server(setup=setup, incremental=incremental, deterministic=deterministic, max_queued=max_queued)
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(
            status=status, headers=TEXT, body=b"Invalid HTTP request received.", close=True
        ),
        exhausted=lambda: _aborted(500, "Out of memory even after retracting all other requests in the decode batch."),
        wording=Wording(
            generates=lambda request: request.path == "/generate",
            loading=Reply(status=503),
            overloaded=Reply(status=200, headers=SSE, body=_abort_event(FULL) + DONE, chunked=True),
            failure=lambda message: _aborted(500, message),
            broken="Scheduler hit an exception",
            end_sign=2,
        ),
        keep_alive_max=1_000_000,
    )


def _head(head: Head) -> bytes:
    lines = [
        f"HTTP/1.1 {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        "date: Fri, 27 Nov 2026 08:00:00 GMT",
        "server: uvicorn",
        *(f"{name}: {value}" for name, value in head.reply.headers),
        "transfer-encoding: chunked" if head.length is None else f"content-length: {head.length}",
        *(["connection: close"] if head.close else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=JSON, body=dump(value))


def _refused(message: str, status: int = 400) -> Reply:
    return Reply(status=status, headers=JSON, body=dump({"error": {"message": message}}))


def _abort_event(reason: Mapping[str, Any], text: str = "") -> bytes:
    meta = {"id": "0", "finish_reason": reason, "weight_version": "default", "e2e_latency": 0.1, "completion_tokens": 0}
    return event({"text": text, "output_ids": [], "meta_info": meta})


def _aborted(status: int, message: str) -> RefusedError:
    flat = {"object": "error", "message": message, "type": str(status), "param": None, "code": status}
    reason = {"type": "abort", "status_code": status, "message": message, "err_type": None}
    return RefusedError(Reply(status=status, headers=JSON, body=dump(flat)), _abort_event(reason) + DONE)


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    if request.path in ("/health", "/health_generate", "/ready"):
        return Reply(status=503 if slots.loading else 200)
    key = server.setup.api_key
    if key is not None and request.headers.get("authorization") != f"Bearer {key}":
        return Reply(status=401, headers=JSON, body=dump({"error": "Unauthorized"}))
    if request.method == "POST":
        return _post(server, request, slots)
    page = _pages(server, slots).get(request.path)
    return Reply(status=404, headers=JSON, body=dump({"detail": "Not Found"})) if page is None else page


def _pages(server: Server, slots: Slots) -> Mapping[str, Reply]:
    setup, state = server.setup, slots.state
    known = {"model_path": f"/models/{setup.model}", "served_model_name": setup.model}
    load = {
        "dp_rank": 0,
        "num_running_reqs": state.active,
        "num_waiting_reqs": state.queued,
        "max_running_requests": setup.slots,
        "token_usage": round(state.active / setup.slots, 4),
    }
    card = {"id": setup.model, "object": "model", "owned_by": "sglang", "root": setup.model, "max_model_len": setup.ctx}
    info: dict[str, Any] = {
        **known,
        "context_length": None,
        "max_running_requests": setup.slots,
        "enable_deterministic_inference": server.deterministic,
        "incremental_streaming_output": server.incremental,
        "speculative_algorithm": None,
        "internal_states": [{}],
        "version": VERSION,
        "frontend": "python",
    }
    metrics = f"sglang:num_running_reqs {state.active}\nsglang:num_queue_reqs {state.queued}\nsglang:token_usage 0.0\n"
    return {
        "/model_info": _ok({**known, "is_generation": True, "weight_version": "default"}),
        "/server_info": _ok(info),
        "/v1/loads": _ok({"version": VERSION, "loads": [load]}),
        "/v1/models": _ok({"object": "list", "data": [card]}),
        "/metrics": Reply(status=200, headers=TEXT, body=metrics.encode()),
    }


def _post(server: Server, request: Request, slots: Slots) -> Reply | Job:
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        flat = {"object": "error", "message": "[{'type': 'json_invalid'}]", "type": "Bad Request", "param": None}
        return Reply(status=400, headers=JSON, body=dump({**flat, "code": 400}))
    vocabulary = server.setup.source.vocabulary
    match request.path:
        case "/generate":
            return _generate(server, body, slots)
        case "/abort_request":
            _abort(server, str(body.get("rid") or ""))
            return Reply(status=200)
        case "/tokenize":
            ids = vocabulary.encode(str(body.get("prompt")))
            return _ok({"tokens": ids, "count": len(ids), "max_model_len": server.setup.ctx})
        case "/detokenize":
            return _ok({"text": vocabulary.decode(body.get("tokens") or []).decode("utf-8", "replace")})
    return Reply(status=404, headers=JSON, body=dump({"detail": "Not Found"}))


def _abort(server: Server, rid: str) -> None:
    """Of every request whose id begins with this one; an empty id is ignored."""
    for name, answer in list(server.running.items()):
        if rid and name.startswith(rid):
            answer.aborted = True


def _generate(server: Server, body: Mapping[str, Any], slots: Slots) -> Reply | Job:
    streamed, sampling = bool(body.get("stream")), body.get("sampling_params") or {}
    text, ids = body.get("text"), body.get("input_ids")
    prompt = tuple(server.setup.source.vocabulary.encode(text)) if isinstance(text, str) else tuple(ids or ())
    if refused := _refusal(server, prompt, sampling, body):
        if not streamed:
            return _refused(refused)
        error = {"message": refused, "type": "invalid_request_error", "code": 400, "retryable": False}
        return Reply(status=200, headers=SSE, body=event({"error": error}) + DONE, chunked=True)
    if server.max_queued is not None and slots.state.queued >= server.max_queued:
        if streamed:
            return Reply(status=200, headers=SSE, body=_abort_event(FULL) + DONE, chunked=True)
        flat = {"object": "error", "message": FULL["message"], "type": "503", "param": None, "code": 503}
        return Reply(status=503, headers=JSON, body=dump(flat))
    answer = Answer(server.setup, body, prompt, incremental=server.incremental, running=server.running)
    task = Task(prompt=prompt, steps=answer.steps, cache=not body.get("cache_salt"))
    head = Reply(status=200, headers=SSE) if streamed else None
    return Job(groups=((task,),), head=head, collect=_collect, farewell=DONE, eager=True)


def _refusal(server: Server, prompt: Sequence[int], sampling: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
    """What is raised as a ValueError before a request is scheduled."""
    if unknown := sorted(set(sampling) - SAMPLING):
        return f"Unexpected keyword argument '{unknown[0]}'"
    if body.get("text") is None and body.get("input_ids") is None:
        return "Either text, input_ids or input_embeds should be provided."
    if body.get("rid") in server.running:
        return f"Duplicate request ID detected: {body['rid']}"
    ctx = server.setup.ctx
    if len(prompt) >= ctx:
        return f"The input ({len(prompt)} tokens) is longer than the model's context length ({ctx} tokens)."
    limit = sampling.get("max_new_tokens", 128)
    if limit is not None and limit + len(prompt) > ctx:
        return (
            f"Requested token count exceeds the model's maximum context length of {ctx} tokens. You requested a total of"
            f" {limit + len(prompt)} tokens."
        )
    if not 0 < sampling.get("top_p", 1.0) <= 1:
        return f"top_p must be in (0, 1], got {sampling['top_p']}."
    return None


def _collect(results: Sequence[Any]) -> Reply:
    return _ok(results[0])
