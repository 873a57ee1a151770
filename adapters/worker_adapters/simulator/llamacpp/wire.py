"""llama.cpp's llama-server on the wire, native routes: commit 0c1e57098 (`b1-0c1e570`), proven by recorded transcripts.

Not simulated: the OpenAI and Anthropic routes and resumable streams (all 404; X-Conversation-Id is ignored), grammars
(checked for balance and echoed, but the source is not constrained), images, LoRA, context shift.
"""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from ..seam import PHRASES, Head, Job, Reply, Request, Setup, Slots, Task, Wire, Wording
from .fields import (
    Field,
    FieldError,
    Params,
    fields,
    page_settings,
    parse_params,
    tokenize_mixed,
    tokenize_prompts,
)
from .pages import APPLICATION_JSON, metrics_page, models_page, props_page, router_page, slots_page
from .parse import JsonError, parse
from .text import Generation, dump, failure

__all__ = ["build"]

PUBLIC = frozenset({"/health", "/v1/health"})
KEEP_ALIVE = "timeout=5, max=100"
EMBEDDINGS_OFF = "This server does not support embeddings. Start it with `--embeddings`"
RERANK_OFF = "This server does not support reranking. Start it with `--reranking`"
INFILL_OFF = (
    "Infill is not supported by this model: prefix token is missing. suffix token is missing. middle token is missing. "
)
TEMPLATE_START, TEMPLATE_END = "<|im_start|>", "<|im_end|>"


@attrs.frozen(kw_only=True)
class Server:
    """One simulated llama-server: its options, and what follows from them."""

    setup: Setup
    n_ctx: int
    table: tuple[Field, ...]
    endpoint_slots: bool
    endpoint_metrics: bool
    endpoint_props: bool
    router: bool
    seeds: random.Random
    media_marker: str


def build(
    setup: Setup,
    *,
    endpoint_slots: bool = True,
    endpoint_metrics: bool = True,
    endpoint_props: bool = True,
    router: bool = False,
) -> Wire:
    """A llama-server as `Simulator` runs it.

    `endpoint_slots=False` is --no-slots; endpoint_metrics and endpoint_props stand for --metrics and --props (that one
    for POST /props only). `router=True` is a server started without a model, with one it can load. `ctx` is divided
    among the slots, unless `kv_tokens` makes them share one cache (--kv-unified).
    """
    seeds = random.Random(setup.seed)  # noqa: S311 - repeatable on purpose
    server = Server(
        setup=setup,
        n_ctx=setup.ctx if setup.kv_tokens is not None else setup.ctx // setup.slots,
        table=fields(setup.slots),
        endpoint_slots=endpoint_slots,
        endpoint_metrics=endpoint_metrics,
        endpoint_props=endpoint_props,
        router=router,
        seeds=seeds,
        media_marker="<__media_" + "".join(seeds.choices(string.ascii_letters + string.digits, k=32)) + "__>",
    )
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(status=status, close=True),
        exhausted=lambda: failure(500, "server_error", "Context size has been exceeded."),
        wording=WORDING,
        stream_closes=True,
        lone_poll=True,
    )


def _head(head: Head) -> bytes:
    status = head.reply.status
    lines = [
        f"HTTP/1.1 {status} {PHRASES.get(status, '')}",
        "Server: llama.cpp",
        f"Access-Control-Allow-Origin: {head.request.headers.get('origin', '')}",
        *(f"{name}: {value}" for name, value in head.reply.headers),
        "Transfer-Encoding: chunked" if head.length is None else f"Content-Length: {head.length}",
        "Connection: close" if head.close else f"Keep-Alive: {KEEP_ALIVE}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=APPLICATION_JSON, body=dump(value))


def _early(status: int, message: str, kind: str) -> Reply:
    # Errors of the HTTP layer order their members in another way than the routes (err_unknown_path, apikey_missing).
    body = {"error": {"message": message, "type": kind, "code": status}}
    return Reply(status=status, headers=APPLICATION_JSON, body=dump(body), close=True)


LOADING = _early(503, "Loading model", "unavailable_error")


def _invalid(message: str) -> Reply:
    return failure(400, "invalid_request_error", message).reply


def _off(message: str) -> Reply:
    return failure(501, "not_supported_error", message).reply


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    # The order of these checks is the engine's: 503 while loading, then 401, then 404.
    if slots.loading and not server.router:
        return LOADING
    if request.path not in PUBLIC and not _authorized(server.setup.api_key, request.headers):
        return _early(401, "Invalid API Key", "authentication_error")
    route = ROUTES.get((request.method, request.path))
    if route is None and request.method == "POST" and request.path.startswith("/slots/"):
        route = _slot_action
    if route is None:
        return _early(404, "File Not Found", "not_found_error")
    try:
        if server.router and request.path not in PUBLIC | {"/props", "/models", "/v1/models"}:
            return _routed(server, request, slots, route)
        return route(server, request, slots)
    except (FieldError, InvalidRequestError) as error:
        return _invalid(str(error))
    except (JsonError, ArithmeticError, LookupError) as error:
        return failure(500, "server_error", str(error)).reply


class InvalidRequestError(ValueError):
    """A request the engine calls invalid, beside those with a wrong field."""


def _authorized(key: str | None, headers: Mapping[str, str]) -> bool:
    if key is None:
        return True
    given = headers.get("authorization", headers.get("x-api-key", ""))
    return given.removeprefix("Bearer ") == key


def _routed(server: Server, request: Request, slots: Slots, route: Route) -> Reply | Job:
    """A router's answer: every proxied reply is chunked and closes the connection."""
    if request.method == "GET":
        name = request.query.get("model", "")
    else:
        body = parse(request.body)
        name = body.get("model", "") if isinstance(body, dict) else ""
    if not name:
        raise InvalidRequestError("model name is missing from the request")
    if name != server.setup.model:
        raise InvalidRequestError(f"model '{name}' not found")
    answer = route(server, request, slots)
    if isinstance(answer, Reply):
        return attrs.evolve(answer, chunked=True, close=True)
    head = answer.head and attrs.evolve(answer.head, close=True)
    return attrs.evolve(
        answer, head=head, collect=lambda results: attrs.evolve(answer.collect(results), chunked=True, close=True)
    )


def _object(request: Request) -> dict[str, Any]:
    value = parse(request.body)
    if isinstance(value, dict):
        return value
    raise InvalidRequestError(
        "[json.exception.type_error.304] cannot use at() with " + ("array" if isinstance(value, list) else "a scalar")
    )


def _completion(server: Server, request: Request, slots: Slots) -> Reply | Job:
    body = _object(request)
    if "prompt" not in body:
        raise InvalidRequestError("[json.exception.out_of_range.403] key 'prompt' not found")
    prompts = tokenize_prompts(body["prompt"], server.setup.source.vocabulary)
    params = parse_params(body, server.table, server.setup.source.vocabulary)
    copies = params["n_cmpl"]
    interval = params["sse_ping_interval"]
    return Job(
        groups=tuple(
            tuple(_task(server, prompt, params, number * copies + copy, copy) for copy in range(copies))
            for number, prompt in enumerate(prompts)
        ),
        head=STREAM_HEAD if params["stream"] else None,
        collect=_collect,
        ping=b":\n\n",
        ping_interval=interval if interval > 0 else None,
    )


def _task(server: Server, prompt: tuple[int, ...], params: Params, index: int, copy: int) -> Task:
    seed = params["seed"]
    echoed = (seed + copy) % 2**32 if copy else seed
    drawn = server.seeds.getrandbits(32) if seed == 2**32 - 1 else echoed
    generation = Generation(
        prompt=prompt,
        params=params,
        index=index,
        seed=drawn,
        echoed_seed=echoed,
        n_ctx=server.n_ctx,
        model=server.setup.model,
        source=server.setup.source,
        check=lambda: _check(server, prompt, params),
        child=copy > 0,
    )
    return Task(prompt=prompt, steps=generation.steps, slot=params.slot, cache=params["cache_prompt"], page=params)


def _check(server: Server, prompt: tuple[int, ...], params: Params) -> None:
    """What the engine checks only when a request has reached its slot."""
    if any(not 0 <= token < len(server.setup.source.vocabulary) for token in prompt):
        raise failure(400, "invalid_request_error", "Prompt contains invalid tokens")
    if params.grammar and not _balanced(params.grammar):
        raise failure(400, "invalid_request_error", "Failed to initialize samplers: failed to parse grammar")
    if len(prompt) >= server.n_ctx:
        raise failure(
            400,
            "exceed_context_size_error",
            f"request ({len(prompt)} tokens) exceeds the available context size ({server.n_ctx} tokens), "
            "try increasing it",
            n_prompt_tokens=len(prompt),
            n_ctx=server.n_ctx,
        )


def _balanced(grammar: str) -> bool:
    # Not a parser: a root rule and as many closing as opening parentheses.
    return "root ::=" in grammar and grammar.count("(") == grammar.count(")")


def _collect(results: Sequence[Any]) -> Reply:
    return _ok(results[0] if len(results) == 1 else list(results))


def _health(server: Server, request: Request, slots: Slots) -> Reply:
    return _ok({"status": "ok"})


def _props(server: Server, request: Request, slots: Slots) -> Reply:
    if server.router:
        return _ok(router_page())
    params = parse_params({}, server.table, server.setup.source.vocabulary)
    settings = page_settings(attrs.evolve(params, reasoning_format="none"))
    ends = (server.endpoint_slots, server.endpoint_props, server.endpoint_metrics)
    return _ok(props_page(server.setup, server.n_ctx, settings, ends, server.media_marker))


def _change_props(server: Server, request: Request, slots: Slots) -> Reply:
    if not server.endpoint_props:
        return _off("This server does not support changing global properties. Start it with `--props`")
    return _ok({"success": True})


def _slots(server: Server, request: Request, slots: Slots) -> Reply:
    if not server.endpoint_slots:
        return _off("This server does not support slots endpoint. Start it with `--slots`")
    if request.query.get("fail_on_no_slot") and all(slot.run is not None for slot in slots.slots):
        return failure(503, "unavailable_error", "no slot available").reply
    return _ok(slots_page(slots, server.n_ctx))


def _slot_action(server: Server, request: Request, slots: Slots) -> Reply:
    return _off("This server does not support slots action. Start it with `--slot-save-path`")


def _metrics(server: Server, request: Request, slots: Slots) -> Reply:
    if not server.endpoint_metrics:
        return _off("This server does not support metrics endpoint. Start it with `--metrics`")
    headers = (
        ("Process-Start-Time-Unix", str(int(time.monotonic() * 1e6))),
        ("Content-Type", "text/plain; version=0.0.4"),
    )
    return Reply(status=200, headers=headers, body=metrics_page(slots).encode())


def _models(server: Server, request: Request, slots: Slots) -> Reply:
    return _ok(models_page(server.setup, server.n_ctx, int(time.time())))


def _tokenize(server: Server, request: Request, slots: Slots) -> Reply:
    body = _object(request)
    vocabulary = server.setup.source.vocabulary
    if "content" not in body:
        return _ok({"tokens": []})
    tokens = tokenize_mixed(
        body["content"],
        vocabulary,
        add_bos=body.get("add_special") is True,
        parse_special=body.get("parse_special") is not False,
    )
    if body.get("with_pieces") is not True:
        return _ok({"tokens": tokens})
    return _ok({"tokens": [{"id": token, "piece": _piece(vocabulary.raw(token))} for token in tokens]})


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _detokenize(server: Server, request: Request, slots: Slots) -> Reply:
    tokens = _object(request).get("tokens", [])
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise ArithmeticError("[json.exception.type_error.302] type must be array, but is something else")
    vocabulary = server.setup.source.vocabulary
    for token in tokens:
        if not 0 <= token < len(vocabulary):
            raise LookupError(
                f"vector::_M_range_check: __n (which is {token % 2**64}) >= this->size() (which is {len(vocabulary)})"
            )
    return _ok({"content": vocabulary.decode(tokens).decode("utf-8", "replace")})


def _apply_template(server: Server, request: Request, slots: Slots) -> Reply:
    body = _object(request)
    messages = body.get("messages")
    if messages is None:
        raise InvalidRequestError("'messages' is required")
    if not isinstance(messages, list):
        raise InvalidRequestError("Expected 'messages' to be an array")
    text = "".join(f"{TEMPLATE_START}{_role(message)}\n{_content(message)}{TEMPLATE_END}\n" for message in messages)
    if body.get("add_generation_prompt") is not False:
        text += f"{TEMPLATE_START}assistant\n"
    return _ok({"prompt": text})


def _role(message: Any) -> str:
    if isinstance(message, dict) and "role" in message:
        return str(message["role"])
    raise ArithmeticError(f"Failed to parse messages: Missing 'role' in message: {dump(message).decode()}")


def _content(message: Any) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _switched_off(message: str) -> Route:
    return lambda server, request, slots: _off(message)


Route: TypeAlias = Callable[[Server, Request, Slots], Reply | Job]
WORDING = Wording(
    generates=lambda request: request.method == "POST" and ROUTES.get((request.method, request.path)) is _completion,
    loading=LOADING,
    # It queues without end and says this only to GET /slots?fail_on_no_slot=1; its clients know it by the message.
    overloaded=failure(503, "unavailable_error", "no slot available").reply,
    failure=lambda message: failure(500, "server_error", message),
    broken="Compute error.",
)
STREAM_HEAD = Reply(status=200, headers=(("X-Accel-Buffering", "no"), ("Content-Type", "text/event-stream")))
ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/completion"): _completion,
    ("POST", "/completions"): _completion,
    ("GET", "/health"): _health,
    ("GET", "/v1/health"): _health,
    ("GET", "/props"): _props,
    ("POST", "/props"): _change_props,
    ("GET", "/slots"): _slots,
    ("GET", "/metrics"): _metrics,
    ("GET", "/models"): _models,
    ("GET", "/v1/models"): _models,
    ("POST", "/tokenize"): _tokenize,
    ("POST", "/detokenize"): _detokenize,
    ("POST", "/apply-template"): _apply_template,
    ("POST", "/infill"): _switched_off(INFILL_OFF),
    **{("POST", path): _switched_off(EMBEDDINGS_OFF) for path in ("/embedding", "/embeddings", "/v1/embeddings")},
    **{("POST", path): _switched_off(RERANK_OFF) for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")},
}
