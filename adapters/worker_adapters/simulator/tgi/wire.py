"""Hugging Face TGI on the wire, 1.4 to 3.3: from its source, no real one could be run (docs/engines/tgi.md).

Not simulated: the OpenAI-compatible routes (404), best_of above 1 (it is refused, as by `--max-best-of 1`), details of the
prefill, timings in headers; a grammar is looked at, but the source is not constrained, and any adapter_id is taken.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import Any, TypeAlias

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Setup, Slots, Wire, Wording
from .fields import Asked, Limits, Release, RuleError, TypeMismatchError, parse, rules
from .pages import info_page, metrics_page, models_page, templated, tokenized
from .text import JSON, Generation, compact, error_body, failure

__all__ = ["build"]

LEG = 1024  # DEFAULT_GENERATION_LENGTH in router/src/validation.rs
KEEP_ALIVE = 15.0  # seconds; axum's own figure
PAYLOAD_LIMIT = 2_000_000  # bytes; --payload-limit
KEEP_ALIVE_MAX = 1_000_000  # hyper counts no requests


@attrs.frozen(kw_only=True)
class Server:
    """One simulated TGI: its options, and what it counts."""

    setup: Setup
    release: Release
    limits: Limits
    concurrent: int
    keep_alive: float
    payload_limit: int
    build: dict[str, str | None]
    random: Random
    requests: Counter[str] = attrs.field(factory=Counter)
    ends: Counter[str] = attrs.field(factory=Counter)
    failures: Counter[str] = attrs.field(factory=Counter)


def build(
    setup: Setup,
    *,
    version: str = "3.3.7",
    max_concurrent_requests: int = 128,
    max_input_tokens: int | None = None,
    leg_tokens: int = LEG,
    keep_alive: float = KEEP_ALIVE,
    payload_limit: int = PAYLOAD_LIMIT,
    model_sha: str | None = None,
    sha: str | None = None,
    docker_label: str | None = None,
) -> Wire:
    """A TGI as `Simulator` runs it; options are those of `text-generation-launcher`, and what /info tells.

    `slots` stands for --max-batch-size, `ctx` for --max-total-tokens, of which `max_input_tokens` leaves one by default.
    From 3.0 on, an answer longer than `leg_tokens` goes back to the queue after each as many, and waits for its slot and
    `first_token_delay` again. `keep_alive`: seconds of silence before a comment. Raises ValueError for what is no version.
    """
    release = Release.of(version)
    longest = setup.ctx - 1 if max_input_tokens is None else max_input_tokens
    server = Server(
        setup=setup,
        release=release,
        limits=Limits(max_input_tokens=longest, max_total_tokens=setup.ctx, leg=leg_tokens if release.legs else None),
        concurrent=max_concurrent_requests,
        keep_alive=keep_alive,
        payload_limit=payload_limit,
        build={"model_sha": model_sha, "sha": sha, "docker_label": docker_label},
        random=Random(setup.seed),  # noqa: S311  -- repeatable on purpose
    )
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(status=status, close=True),
        exhausted=lambda: _broken(server, "Out of available cache blocks"),
        wording=Wording(
            generates=lambda request: request.method == "POST" and request.path in GENERATING,
            loading=UNHEALTHY,
            # Under a 200, as on /generate_stream: the adapters ask nothing else.
            overloaded=_in_stream(server, "overloaded", OVERLOADED, Asked(inputs="")),
            failure=lambda message: _broken(server, message),
            broken="CUDA error: an illegal memory access was encountered",
        ),
        keep_alive_max=KEEP_ALIVE_MAX,
    )


def _head(head: Head) -> bytes:
    lines = [
        f"HTTP/1.1 {head.reply.status} {PHRASES.get(head.reply.status, '')}",
        *(f"{name}: {value}" for name, value in head.reply.headers),
        *(["connection: close"] if head.close else []),
        "transfer-encoding: chunked" if head.length is None else f"content-length: {head.length}",
        f"date: {formatdate(usegmt=True)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _broken(server: Server, message: str) -> RefusedError:
    """What all requests of a batch end with when the model fails; `message` is that of the Python exception."""
    return failure(server.release, "generation", f"Request failed during generation: Server error: {message}")


def _headers(asked: Asked) -> tuple[tuple[str, str], ...]:
    return (("x-compute-type", "gpu+optimized"), ("x-compute-characters", str(len(asked.inputs))))


def _stream_head(asked: Asked) -> Reply:
    headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"), *_headers(asked))
    return Reply(status=200, headers=(*headers, ("x-accel-buffering", "no")))


def _in_stream(server: Server, kind: str, message: str, asked: Asked) -> Reply:
    """/generate_stream answers 200 once it could read the request, whatever it then has to say."""
    event = failure(server.release, kind, message).event
    return attrs.evolve(_stream_head(asked), body=event, chunked=True)


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    if slots.loading:
        return UNHEALTHY
    routes = {method: route for (method, path), route in ROUTES.items() if path == request.path}
    if not routes:
        return Reply(status=404)
    if request.method not in routes:
        return Reply(status=405, headers=(("allow", ",".join(sorted(routes))),))
    if (request.method, request.path) in GUARDED and not _authorized(server.setup.api_key, request):
        return Reply(status=401)
    try:
        return routes[request.method](server, request, slots)
    except RefusedError as refused:
        return refused.reply


def _authorized(key: str | None, request: Request) -> bool:
    return key is None or request.headers.get("authorization", "").lower() == f"bearer {key}".lower()


def _text(status: int, text: str) -> RefusedError:
    """What axum refuses."""
    return RefusedError(Reply(status=status, headers=TEXT, body=text.encode()), b"")


def _body(server: Server, request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _text(415, "Expected request with `Content-Type: application/json`")
    if len(request.body) > server.payload_limit:
        raise _text(413, "Failed to buffer the request body: length limit exceeded")
    try:
        body = json.loads(request.body, parse_constant=_no_constant)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno} column {error.colno}"
    except (ValueError, RecursionError):
        found = "invalid unicode code point at line 1 column 1"
    else:
        return body
    raise _text(400, f"Failed to parse the request body as JSON: {found}")


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which are no JSON


def _typed(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except TypeMismatchError as mismatch:
        raise _text(422, f"Failed to deserialize the JSON body into the target type: {mismatch}") from None


def _asked(server: Server, request: Request) -> Asked:
    body = _body(server, request)
    asked: Asked = _typed(lambda: parse(body, server.release))
    return asked


def _generate_stream(server: Server, request: Request, slots: Slots) -> Reply | Job:
    return _stream(server, _asked(server, request), slots)


def _stream(server: Server, asked: Asked, slots: Slots) -> Reply | Job:
    server.requests.update(["stream"])
    for refused, rule in (
        (asked.best_of not in (None, 1), "`best_of` != 1 is not supported when streaming tokens"),
        (asked.decoder_input_details, "`decoder_input_details` == true is not supported when streaming tokens"),
    ):
        if refused:
            server.failures.update(["validation"])
            return _in_stream(server, "validation", INVALID + rule, asked)
    try:
        generation = _admitted(server, asked, slots)
    except RefusedError as refusal:
        return attrs.evolve(_stream_head(asked), body=refusal.event, chunked=True)
    # The head goes out before anything is known of the stream; a queue shows as keep-alive comments.
    return _job(server, generation, _stream_head(asked))


def _generate(server: Server, request: Request, slots: Slots) -> Reply | Job:
    return _whole(server, _asked(server, request), slots)


def _whole(server: Server, asked: Asked, slots: Slots) -> Job:
    server.requests.update(["whole"])
    if (asked.best_of or 0) > 1:
        server.failures.update(["validation"])
        raise failure(server.release, "validation", INVALID + "`best_of` != 1 is not allowed for this endpoint")
    return _job(server, _admitted(server, asked, slots), None)


def _admitted(server: Server, asked: Asked, slots: Slots) -> Generation:
    """A permit first, then the rules. Raises RefusedError."""
    state = slots.state
    if state.active + state.queued >= server.concurrent:
        server.failures.update(["overloaded"])
        raise failure(server.release, "overloaded", OVERLOADED)
    try:
        prompt, length = rules(asked, server.limits, server.setup.source.vocabulary)
    except RuleError as rule:
        server.failures.update(["validation"])
        raise failure(server.release, "validation", f"{INVALID}{rule}") from None
    return Generation(
        asked=asked,
        release=server.release,
        limits=server.limits,
        source=server.setup.source,
        prompt=prompt,
        length=length,
        seed=server.random.getrandbits(64) if asked.seed is None else asked.seed,
        ended=lambda reason: server.ends.update([reason]),
    )


def _job(server: Server, generation: Generation, head: Reply | None) -> Job:
    headers = _headers(generation.asked)
    return Job(
        groups=((generation.task(),),),
        head=head,
        collect=lambda results: attrs.evolve(results[0], headers=results[0].headers + headers),
        ping=COMMENT,
        ping_interval=server.keep_alive,
        eager=True,
    )


def _compat(server: Server, request: Request, slots: Slots) -> Reply | Job:
    """`/` as the Hugging Face clients use it: `stream` in the body, and an array where it is false."""
    asked = _asked(server, request)
    if asked.return_full_text is None:
        asked = attrs.evolve(asked, return_full_text=True)  # as for any model of the pipeline text-generation
    if asked.stream:
        return _stream(server, asked, slots)
    job = _whole(server, asked, slots)

    def wrapped(results: Any) -> Reply:
        reply = job.collect(results)
        return attrs.evolve(reply, body=b"[" + reply.body + b"]")

    return attrs.evolve(job, collect=wrapped)


def _tokenize(server: Server, request: Request, slots: Slots) -> Reply:
    asked = _asked(server, request)
    vocabulary = server.setup.source.vocabulary
    ids = vocabulary.encode(asked.inputs, add_bos=True)
    return _ok(tokenized(asked.inputs, ids[-asked.truncate :] if asked.truncate else ids, vocabulary))


def _chat_tokenize(server: Server, request: Request, slots: Slots) -> Reply:
    body = _body(server, request)
    text: str = _typed(lambda: templated(body))
    vocabulary = server.setup.source.vocabulary
    said = tokenized(text, vocabulary.encode(text), vocabulary)
    return _ok({"tokenize_response": said, "templated_text": text})


def _health(server: Server, request: Request, slots: Slots) -> Reply:
    return Reply(status=200)


def _info(server: Server, request: Request, slots: Slots) -> Reply:
    page = info_page(server.setup, server.release, server.limits, concurrent=server.concurrent, build=server.build)
    return _ok(page)


def _models(server: Server, request: Request, slots: Slots) -> Reply:
    return _ok(models_page(server.setup))


def _metrics(server: Server, request: Request, slots: Slots) -> Reply:
    page = metrics_page(server.setup, slots, server.requests.total(), server.ends, server.failures)
    return Reply(status=200, headers=TEXT, body=page.encode())


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=JSON, body=compact(value))


Route: TypeAlias = Callable[[Server, Request, Slots], Reply | Job]
TEXT = (("content-type", "text/plain; charset=utf-8"),)
COMMENT = b":\n\n"
INVALID = "Input validation error: "
OVERLOADED = "Model is overloaded"
# A TGI that loads has not opened its port yet; this is how it answers when it is unwell.
UNHEALTHY = Reply(status=503, headers=JSON, body=error_body("healthcheck", "unhealthy"))
GENERATING = ("/generate_stream", "/generate", "/")
ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/"): _compat,
    ("POST", "/generate"): _generate,
    ("POST", "/generate_stream"): _generate_stream,
    ("POST", "/tokenize"): _tokenize,
    ("POST", "/chat_tokenize"): _chat_tokenize,
    ("GET", "/"): _health,
    ("GET", "/health"): _health,
    ("GET", "/ping"): _health,
    ("GET", "/info"): _info,
    ("GET", "/metrics"): _metrics,
    ("GET", "/v1/models"): _models,
}
GUARDED = frozenset(("POST", path) for path in (*GENERATING, "/tokenize"))  # what is behind --api-key
