"""vLLM 0.32.0 on the wire, `/v1/completions` and what is around it; proven by recorded transcripts.

Not simulated: the chat, responses and messages routes (404), n > 1, several prompts, echo, beam search; structured outputs
are looked at for balance, but the source is not constrained. A simulated cache never fills: vLLM preempts and goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Setup, Slots, Task, Wire, Wording
from .fields import completion, engine_check, parse, ranges, schema_error, tokens_of
from .metrics import metrics_page
from .text import DONE, JSON, Generation, compact, failure

__all__ = ["build"]

VERSION = "0.32.0"
GUARDED = ("/v1", "/v2", "/inference")  # what asks for the API key
UNAUTHORIZED = 401
KEEP_ALIVE_MAX = 1_000_000  # uvicorn counts no requests


@attrs.frozen(kw_only=True)
class Server:
    """One simulated vLLM: its options, and the requests it knows by the ids that an abort names."""

    setup: Setup
    max_queued: int | None
    keep_alive_comments: float | None
    echo_ids: bool
    scale_out: bool
    random: Random
    known: WeakValueDictionary[str, Generation] = attrs.field(factory=WeakValueDictionary)
    ends: Counter[str] = attrs.field(factory=Counter)
    rejections: Counter[str] = attrs.field(factory=Counter)


def build(
    setup: Setup,
    *,
    max_num_queued_reqs: int | None = None,
    sse_keep_alive_interval: float | None = None,
    enable_request_id_headers: bool = False,
    enable_scale_out: bool = False,
) -> Wire:
    """A vLLM as `Simulator` runs it; options are those of `vllm serve`.

    `slots` stands for --max-num-seqs, `ctx` for --max-model-len. With `enable_scale_out`, requests can be aborted by id
    (`cmpl-<X-Request-Id>-0`); one that is still queued ends when its turn comes. Raises ValueError for `kv_tokens`.
    """
    if setup.kv_tokens is not None:
        raise ValueError("vllm has no kv_tokens: it preempts requests instead of failing them")
    server = Server(
        setup=setup,
        max_queued=max_num_queued_reqs,
        keep_alive_comments=sse_keep_alive_interval,
        echo_ids=enable_request_id_headers,
        scale_out=enable_scale_out,
        random=Random(setup.seed),  # noqa: S311  -- repeatable on purpose
    )
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(
            status=status, headers=TEXT, body=b"Invalid HTTP request received.", close=True
        ),
        exhausted=lambda: failure(500, "InternalServerError", BROKEN),
        wording=WORDING,
        keep_alive_max=KEEP_ALIVE_MAX,
    )


def _head(head: Head) -> bytes:
    length = [] if head.length is None else [f"content-length: {head.length}"]
    # Not in what is answered before CORS is looked at: err_auth_none, err_garbage_request_line.
    vary = ["vary: Origin"] if head.request.path and head.reply.status != UNAUTHORIZED else []
    lines = [
        f"HTTP/1.1 {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        f"date: {formatdate(usegmt=True)}",
        "server: uvicorn",
        *length,
        *(f"{name}: {value}" for name, value in head.reply.headers if name != "x-request-id"),
        *vary,
        *(f"{name}: {value}" for name, value in head.reply.headers if name == "x-request-id"),
        *(["connection: close"] if head.close else []),
        *(["transfer-encoding: chunked"] if head.length is None else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _detail(status: int, text: str) -> Reply:
    return Reply(status=status, headers=JSON, body=compact({"detail": text}))


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    if slots.loading:
        return LOADING
    if request.path.startswith(GUARDED) and not _authorized(server.setup.api_key, request):
        return Reply(status=UNAUTHORIZED, headers=JSON, body=b'{"error":"Unauthorized"}')
    routes = {method: route for (method, path), route in ROUTES.items() if path == request.path}
    if not routes:
        return _detail(404, "Not Found")
    if request.method not in routes:
        allowed = (("allow", ", ".join(routes)),)
        return attrs.evolve(_detail(405, "Method Not Allowed"), headers=allowed + JSON)
    try:
        answer = routes[request.method](server, request, slots)
    except RefusedError as refused:
        answer = refused.reply
    if not server.echo_ids:
        return answer
    named = (("x-request-id", request.headers.get("x-request-id") or f"{server.random.getrandbits(128):032x}"),)
    if isinstance(answer, Reply):
        return attrs.evolve(answer, headers=answer.headers + named)
    return attrs.evolve(answer, head=answer.head and attrs.evolve(answer.head, headers=answer.head.headers + named))


def _authorized(key: str | None, request: Request) -> bool:
    return key is None or request.headers.get("authorization") == f"Bearer {key}"


def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise failure(400, "Bad Request", text)
    return parse(request.body)


def _require_model(server: Server, body: dict[str, Any]) -> None:
    name = body.get("model")
    if name is not None and name != server.setup.model:
        text = f"The model `{name}` does not exist. Valid aliases: {server.setup.model}."
        raise failure(404, "NotFoundError", text, "model")


def _completion(server: Server, request: Request, slots: Slots) -> Reply | Job:
    body = _body(request)
    fields = completion(body)
    _require_model(server, body)
    vocabulary = server.setup.source.vocabulary
    prompt = tokens_of(body["prompt"], fields, vocabulary)
    limit = ranges(fields, len(prompt), server.setup.ctx)
    state = slots.state
    if server.max_queued is not None and state.active + state.queued >= server.max_queued:
        server.rejections["max_num_queued_reqs"] += 1
        raise failure(*OVERLOADED)
    number = request.headers.get("x-request-id") or f"{server.random.getrandbits(64):016x}"
    seed = fields["seed"]
    generation = Generation(
        id=f"cmpl-{number}",
        created=int(time.time()),
        model=server.setup.model,
        prompt=prompt,
        fields=fields,
        limit=limit,
        seed=server.random.getrandbits(63) if seed is None else seed,
        source=server.setup.source,
        check=lambda: engine_check(fields, prompt, vocabulary),
        ended=lambda reason: server.ends.update([reason]),
    )
    server.known[f"cmpl-{number}-0"] = generation
    return Job(
        groups=((Task(prompt=prompt, steps=generation.steps, cache=not body.get("cache_salt")),),),
        head=STREAM_HEAD if fields["stream"] else None,
        collect=lambda results: results[0],
        ping=KEEP_ALIVE,
        ping_interval=server.keep_alive_comments,
        farewell=DONE,
        eager=True,
    )


def _abort(server: Server, request: Request, slots: Slots) -> Reply:
    if not server.scale_out:
        return failure(403, "PermissionDeniedError", "This endpoint needs --enable-scale-out.").reply
    for number in _body(request).get("request_ids", []):
        if generation := server.known.get(number):
            generation.aborted = True
    return Reply(status=200)


def _empty(server: Server, request: Request, slots: Slots) -> Reply:
    return Reply(status=200)


def _version(server: Server, request: Request, slots: Slots) -> Reply:
    return _ok({"version": VERSION})


def _load(server: Server, request: Request, slots: Slots) -> Reply:
    return _ok({"server_load": 0})


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=JSON, body=compact(value))


def _models(server: Server, request: Request, slots: Slots) -> Reply:
    now = int(time.time())
    allowed = ("sampling", "logprobs", "view")
    actions = ("create_engine", "sampling", "logprobs", "search_indices", "view", "fine_tuning")
    permission = {
        "id": f"modelperm-{server.random.getrandbits(64):016x}",
        "object": "model_permission",
        "created": now,
        **{f"allow_{action}": action in allowed for action in actions},
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    model = {
        "id": server.setup.model,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": server.setup.model,
        "parent": None,
        "max_model_len": server.setup.ctx,
        "permission": [permission],
    }
    return _ok({"object": "list", "data": [model]})


def _metrics(server: Server, request: Request, slots: Slots) -> Reply:
    page = metrics_page(server.setup, slots, server.ends, server.rejections)
    return Reply(
        status=200, headers=(("content-type", "text/plain; version=1.0.0; charset=utf-8"),), body=page.encode()
    )


def _tokenize(server: Server, request: Request, slots: Slots) -> Reply:
    body = _body(request)
    _require_model(server, body)
    if not isinstance(body.get("prompt"), str):
        raise schema_error("missing", "body.prompt", "Field required", "<dict>")
    vocabulary = server.setup.source.vocabulary
    ids = vocabulary.encode(body["prompt"], add_bos=body.get("add_special_tokens", True))
    strings = [vocabulary.raw(i).decode("utf-8", "replace") for i in ids] if body.get("return_token_strs") else None
    return _ok({"count": len(ids), "max_model_len": server.setup.ctx, "tokens": ids, "token_strs": strings})


def _detokenize(server: Server, request: Request, slots: Slots) -> Reply:
    body = _body(request)
    _require_model(server, body)
    vocabulary = server.setup.source.vocabulary
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise schema_error("list_type", "body.tokens", "Input should be a valid list", str(tokens))
    known = [token for token in tokens if 0 <= token < len(vocabulary)]
    return _ok({"prompt": vocabulary.decode(known).decode("utf-8", "replace")})


Route: TypeAlias = Callable[[Server, Request, Slots], Reply | Job]
TEXT = (("content-type", "text/plain; charset=utf-8"),)
KEEP_ALIVE = b": keep-alive\n\n"
BROKEN = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
OVERLOADED = (503, "Service Unavailable", BUSY)
# A vLLM that loads has not opened its port yet; this is how it refuses while elastic expert parallelism scales.
LOADING = Reply(status=503, headers=JSON, body=b'{"error":"The model is currently scaling. Please try again later."}')
STREAM_HEAD = Reply(status=200, headers=(("content-type", "text/event-stream; charset=utf-8"),))
WORDING = Wording(
    generates=lambda request: (request.method, request.path) == ("POST", "/v1/completions"),
    loading=LOADING,
    overloaded=failure(*OVERLOADED).reply,
    failure=lambda message: failure(500, "InternalServerError", message),
    broken=BROKEN,
    comment=KEEP_ALIVE,
    end_sign=3,  # the last choice, the usage that the adapters always ask for, and [DONE]
)
ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/v1/completions"): _completion,
    ("POST", "/inference/v1/abort_requests"): _abort,
    ("GET", "/health"): _empty,
    ("GET", "/ping"): _empty,
    ("POST", "/ping"): _empty,
    ("GET", "/version"): _version,
    ("GET", "/load"): _load,
    ("GET", "/v1/models"): _models,
    ("GET", "/metrics"): _metrics,
    ("POST", "/tokenize"): _tokenize,
    ("POST", "/detokenize"): _detokenize,
}
