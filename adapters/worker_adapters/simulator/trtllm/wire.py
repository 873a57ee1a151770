"""trtllm-serve on the wire, `/v1/completions`: from its sources, no real one has been recorded (docs/engines/trtllm.md)."""

from __future__ import annotations

import json
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Run, Setup, Slots, Step, Task, Wire, Wording
from ..source import Ask

__all__ = ["build"]

JSON = (("content-type", "application/json"),)
TEXT = (("content-type", "text/plain; charset=utf-8"),)
SSE = (("content-type", "text/event-stream; charset=utf-8"),)
DONE = b"data: [DONE]\n\n"
VERSION = "1.2.0rc4"
KNOBS = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
FIELDS = frozenset(
    {
        *(
            "model",
            "prompt",
            "max_tokens",
            "seed",
            "temperature",
            "stop",
            "ignore_eos",
            "stream",
            "stream_options",
            "n",
        ),
        *("best_of", "echo", "logit_bias", "logprobs", "suffix", "user", "min_tokens", "use_beam_search", "detokenize"),
        *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens"),
        *(
            "stop_token_ids",
            "length_penalty",
            "early_stopping",
            "truncate_prompt_tokens",
            "response_format",
            "priority",
        ),
        *KNOBS,
    }
)


@attrs.frozen(kw_only=True)
class Server:
    """One simulated trtllm-serve. `null`: its executor is dead, and every request is answered with that."""

    setup: Setup
    null: bool


def build(setup: Setup, *, executor_died: bool = False) -> Wire:
    """A trtllm-serve as `Simulator` runs it. `executor_died`: it answers 200 with the body `null`, as it then does."""
    server = Server(setup=setup, null=executor_died)
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(
            status=status, headers=TEXT, body=b"Invalid HTTP request received.", close=True
        ),
        exhausted=lambda: _failure("Generation failed: no free blocks"),
        wording=Wording(
            generates=lambda request: request.path == "/v1/completions",
            loading=Reply(status=503, headers=TEXT, body=UNAVAILABLE),
            overloaded=None,
            failure=_failure,
            broken="Generation failed: the executor has failed",
            end_sign=3,
        ),
        keep_alive_max=1_000_000,
    )


def _head(head: Head) -> bytes:
    lines = [
        f"HTTP/1.1 {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        "date: Wed, 25 Nov 2026 08:00:00 GMT",
        "server: uvicorn",
        *(f"{name}: {value}" for name, value in head.reply.headers),
        "transfer-encoding: chunked" if head.length is None else f"content-length: {head.length}",
        *(["connection: close"] if head.close else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=JSON, body=_dump(value))


def _flat(message: str, status: int = 400, kind: str = "BadRequestError") -> Reply:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return Reply(status=status, headers=JSON, body=_dump(body))


def _failure(message: str) -> RefusedError:
    error = {"error": {"message": message, "type": "server_error", "code": None, "param": None}}
    return RefusedError(_flat(message), b"data: " + json.dumps(error).encode() + b"\n\n" + DONE + DONE)


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    name = server.setup.model
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
    pages = {
        ("GET", "/health"): Reply(status=503, headers=TEXT, body=UNAVAILABLE) if slots.loading else Reply(status=200),
        ("GET", "/version"): _ok({"version": VERSION}),
        ("GET", "/v1/models"): _ok({"object": "list", "data": [card]}),
        ("GET", "/metrics"): _ok([_iteration(server, slots)]),
    }
    if (page := pages.get((request.method, request.path))) is not None:
        return page
    if (request.method, request.path) != ("POST", "/v1/completions"):
        return Reply(status=404, headers=JSON, body=b'{"detail":"Not Found"}')
    if server.null:
        return Reply(status=200, headers=JSON, body=b"null")
    return _completion(server, request)


def _iteration(server: Server, slots: Slots) -> dict[str, Any]:
    state = slots.state
    return {
        "iter": state.tokens,
        "numActiveRequests": state.active,
        "numQueuedRequests": state.queued,
        "maxNumActiveRequests": server.setup.slots,
    }


def _completion(server: Server, request: Request) -> Reply | Job:
    try:
        body = json.loads(request.body)
    except ValueError:
        return Reply(status=400, headers=JSON, body=_dump({"error": "[{'type': 'json_invalid', 'loc': ('body', 0)}]"}))
    unknown = sorted(set(body) - FIELDS)
    if unknown or "model" not in body or "prompt" not in body:
        kind, name = ("extra_forbidden", unknown[0]) if unknown else ("missing", "prompt")
        return Reply(
            status=400, headers=JSON, body=_dump({"error": f"[{{'type': '{kind}', 'loc': ('body', '{name}')}}]"})
        )
    if body.get("stream_options") and not body.get("stream"):
        return _flat("Stream options can only be defined when `stream=True`.")
    vocabulary, prompt = server.setup.source.vocabulary, body["prompt"]
    ids = tuple(vocabulary.encode(prompt)) if isinstance(prompt, str) else tuple(prompt)
    if len(ids) >= server.setup.ctx:
        return _flat(f"The sum of prompt length ({len(ids)}) should not exceed max_num_tokens ({server.setup.ctx})")
    task = Task(prompt=ids, steps=lambda run: _steps(server, body, run))
    return Job(groups=((task,),), head=Reply(status=200, headers=SSE) if body.get("stream") else None, collect=_collect)


def _steps(server: Server, body: Mapping[str, Any], run: Run) -> Iterator[Step]:
    yield Step()
    source = server.setup.source
    decoder, text = getincrementaldecoder("utf-8")("replace"), ""
    stop = body.get("stop") or ()
    words = (stop,) if isinstance(stop, str) else tuple(stop)
    limit = body.get("max_tokens") or server.setup.ctx
    ask = Ask(
        prompt=run.task.prompt,
        seed=body.get("seed") or 0,
        temperature=1.0 if body.get("temperature") is None else body["temperature"],
        knobs=tuple(float(body.get(name) or 0) for name in KNOBS),
        ignore_eos=bool(body.get("ignore_eos")),
        run=run,
    )
    told = 0
    for token in source.generate(ask):
        run.decoded += 1
        text += decoder.decode(token.piece)
        word = next((word for word in words if word in text), None)
        ended = word is not None or token.id in source.vocabulary.end_of_generation
        if word is not None:
            text = text[: text.index(word)]
        reason = "stop" if ended else "length" if run.decoded >= limit else None
        # What may become a stop string is held back.
        held = 0 if reason else max((n for w in words for n in range(1, len(w)) if text.endswith(w[:n])), default=0)
        upto = max(told, len(text) - held)
        events = [_event(server, run, {"text": text[told:upto], "finish_reason": reason, "stop_reason": word})]
        told = upto
        if reason is not None:
            events += [_event(server, run, None), DONE]
        yield Step(events=tuple(events), last=reason is not None, result=text)
        if reason is not None:
            return


def _event(server: Server, run: Run, choice: dict[str, Any] | None) -> bytes:
    """A chunk with its nulls; without a choice, the usage."""
    used = {"prompt_tokens": len(run.task.prompt), "completion_tokens": run.decoded}
    usage = None if choice else {**used, "total_tokens": run.size}
    filled = [{"index": 0, "token_ids": None, "logprobs": None, **choice}] if choice else []
    said = {"id": f"cmpl-{run.number}", "object": "text_completion", "created": 0, "model": server.setup.model}
    return b"data: " + _dump({**said, "choices": filled, "usage": usage}) + b"\n\n"


def _collect(results: Sequence[Any]) -> Reply:
    return _ok({"object": "text_completion", "choices": [{"index": 0, "text": results[0], "finish_reason": "stop"}]})


UNAVAILABLE = b"LLM is unavailable. Please check the server logs for more details."
