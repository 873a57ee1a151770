"""NVIDIA Triton on the wire: the generate extension of 2.51.0, proven by recorded transcripts (tests/simulator).

One model of the caller's name, in one of the dialects; its metrics on the same port. Not simulated: /infer, which decoupled
models refuse (501), shared memory, tracing. The words of models are ours, as they were in the transcripts.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..seam import PHRASES, Head, Job, RefusedError, Reply, Request, Run, Setup, Slots, Step, Task, Wire, Wording
from ..source import Ask
from .models import LATIN, MODELS, Asked, InputError, Model, ModelError, Said, dump, single

__all__ = ["build"]

JSON = (("Content-Type", "application/json"),)
PLAIN = (("Content-Type", "text/plain"),)
SSE = (("Content-Type", "text/event-stream; charset=utf-8"),)
EXTENSIONS = [
    *("classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy"),
    *("model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters"),
    *("statistics", "trace", "logging"),
]
NOT_READY = "Model version not ready"
OWN_PHRASES = PHRASES | {405: "Not Allowed"}


@attrs.frozen(kw_only=True)
class Server:
    """One simulated Triton."""

    setup: Setup
    model: Model
    version: str
    max_queue: int | None
    accumulates: bool
    stopped: set[str] = attrs.field(factory=set)  # ids of requests that somebody said `stop` to

    @property
    def path(self) -> str:
        """Where the model is."""
        return f"/v2/models/{self.setup.model}"


def build(
    setup: Setup, *, model_kind: str = "trtllm", version: str = "2.51.0", max_queue_size: int | None = None
) -> Wire:
    """A Triton as `Simulator` runs it.

    `model_kind`: trtllm, trtllm-accumulate, trtllm-raw (bytes as they come), trtllm-ensemble, vllm or llmapi.
    `max_queue_size`: how many requests may wait for a slot; None: any number.
    """
    if model_kind not in MODELS:
        raise ValueError(f"model_kind must be one of {', '.join(MODELS)}, not {model_kind!r}")
    server = Server(
        setup=setup,
        model=MODELS[model_kind],
        version=version,
        max_queue=max_queue_size,
        accumulates=model_kind == "trtllm-accumulate",
    )
    return Wire(
        answer=lambda request, slots: _answer(server, request, slots),
        head=_head,
        bad_request=lambda status: Reply(status=status, close=True),
        exhausted=lambda: _failure("Executor failed process requestId 1: no free blocks"),
        wording=Wording(
            generates=lambda request: request.path.startswith(f"{server.path}/generate"),
            loading=_error(404, f"Request for unknown model: '{setup.model}' has no available versions"),
            overloaded=_error(503, "[request id: <id_unknown>] Exceeds maximum queue size"),
            failure=_failure,
            broken=server.model.broken,
            end_sign=0,
        ),
        keep_alive_max=1_000_000,
    )


def _head(head: Head) -> bytes:
    status, headers = head.reply.status, [f"{name}: {value}" for name, value in head.reply.headers]
    framing = "Transfer-Encoding: chunked" if head.length is None else f"Content-Length: {head.length}"
    # libevhtp sets the type of what has none behind the length (health_live), and the handlers theirs before it.
    ordered = [framing, *headers] if head.reply.headers == PLAIN else [*headers, framing]
    lines = [
        f"HTTP/1.1 {status} {OWN_PHRASES.get(status, '')}",
        *ordered,
        *(["Connection: close"] if head.close else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _ok(value: object) -> Reply:
    return Reply(status=200, headers=JSON, body=json.dumps(value, separators=(",", ":")).encode())


def _error(status: int, message: str, headers: tuple[tuple[str, str], ...] = JSON) -> Reply:
    return Reply(status=status, headers=headers, body=dump({"error": message}))


def _failure(message: str) -> RefusedError:
    """A model's error: the status of the whole stream if it is the first response, else one more event."""
    event = b"data: " + dump({"error": message}) + b"\n\n"
    return RefusedError(Reply(status=400, headers=SSE, body=event, chunked=True), event)


def _answer(server: Server, request: Request, slots: Slots) -> Reply | Job:
    path, method = request.path, request.method
    page = _page(server, path, slots)
    if page is not None:
        wanted = "POST" if path.endswith("/index") else "GET"
        return page if method == wanted else _error(405, "Method Not Allowed")
    if server.model.ensemble and path.startswith(f"{INNER}/generate"):
        return _stop_inside(server, request) if method == "POST" else _error(405, "Method Not Allowed")
    if path.startswith("/v2/models/") and path.endswith(("/generate_stream", "/generate")):
        if method != "POST":
            return _error(405, "Method Not Allowed")
        name = path.split("/")[3]
        if name != server.setup.model or slots.loading:
            known = "has no available versions" if name == server.setup.model else "is not found"
            return _error(404, f"Request for unknown model: '{name}' {known}")
        return _generate(server, request, slots, streams=path.endswith("_stream"))
    return _error(404, "Not Found", PLAIN)


def _page(server: Server, path: str, slots: Slots) -> Reply | None:
    """A page by its path; None where there is none."""
    name, ready = server.setup.model, not slots.loading
    unknown = _error(404, f"Request for unknown model: '{name}' has no available versions")
    stats = _ok({"model_stats": [_stats(name, slots)]})
    state = {"name": name, "version": "1", "state": "READY" if ready else "LOADING"}
    text = (("Content-Type", "text/plain; charset=utf-8"),)
    pages = {
        "/v2": _ok({"name": "triton", "version": server.version, "extensions": EXTENSIONS}),
        "/v2/health/live": Reply(status=200, headers=PLAIN),
        "/v2/health/ready": Reply(status=200 if ready else 400, headers=PLAIN),
        "/v2/repository/index": _ok([state]),
        "/v2/models/stats": stats,
        "/metrics": Reply(status=200, headers=text, body=_metrics(name, slots)),
        server.path: _ok(_metadata(server)) if ready else unknown,
        f"{server.path}/ready": Reply(status=200, headers=PLAIN) if ready else _error(400, NOT_READY, PLAIN),
        f"{server.path}/config": _ok(_config(server)) if ready else unknown,
        f"{server.path}/stats": stats if ready else unknown,
        **({INNER: _ok(_inner_metadata())} if server.model.ensemble else {}),
    }
    return pages.get(path)


def _metadata(server: Server) -> dict[str, Any]:
    model = server.model
    batch = [-1] if model.batched else []
    inputs = [{"name": n, "datatype": kind, "shape": batch + _dims(model, n)} for n, kind, _ in model.inputs]
    dims = OUT_DIMS if model.batched else {"num_input_tokens": [1]}
    outputs = [{"name": n, "datatype": kind, "shape": batch + dims.get(n, [-1])} for n, kind in model.outputs]
    platform = "ensemble" if model.ensemble else "python"
    return {
        "name": server.setup.model,
        "versions": ["1"],
        "platform": platform,
        "inputs": inputs,
        "outputs": outputs,
    }


def _dims(model: Model, name: str) -> list[int]:
    several = name in WORDS or (name == "text_input" and any(n == "streaming" for n, *_ in model.inputs))
    return [-1] if several else [1]


def _inner_metadata() -> dict[str, Any]:
    """Of the model inside the ensemble, the little that is read of it."""
    tensors = [("input_ids", "INT32", -1), ("input_lengths", "INT32", 1), ("request_output_len", "INT32", 1)]
    inputs = [{"name": n, "datatype": kind, "shape": [-1, d]} for n, kind, d in [*tensors, ("stop", "BOOL", 1)]]
    return {"name": "tensorrt_llm", "versions": ["1"], "platform": "python", "inputs": inputs, "outputs": []}


def _config(server: Server) -> dict[str, Any]:
    parameters = {"accumulate_tokens": {"string_value": "true"}} if server.accumulates else {}
    model = server.model
    return {
        "name": server.setup.model,
        "platform": "ensemble" if model.ensemble else "",
        "backend": "" if model.ensemble else "python",
        "max_batch_size": 4 if model.batched else 0,
        **({"ensemble_scheduling": {"step": STEPS}} if model.ensemble else {}),
        "parameters": parameters,
        "model_transaction_policy": {"decoupled": True},
    }


def _stats(name: str, slots: Slots) -> dict[str, Any]:
    served = slots.state.served
    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": "1",
        "inference_count": served,
        "execution_count": served,
        # Errors of decoupled models are counted as successes: B6.
        "inference_stats": {"success": {"count": served + slots.state.failed, "ns": 0}, "fail": nothing},
        "response_stats": {},
    }


def _metrics(name: str, slots: Slots) -> bytes:
    pending = "nv_inference_pending_request_count"
    return (
        f"# HELP {pending} Instantaneous number of pending requests awaiting execution per-model.\n# TYPE {pending} gauge\n"
        f'{pending}{{model="{name}",version="1"}} {slots.state.queued}\n'
    ).encode()


def _generate(server: Server, request: Request, slots: Slots, *, streams: bool) -> Reply | Job:
    if not request.body:
        return _error(500, "failed to parse the request JSON buffer: The document is empty. at 0")
    try:
        body = json.loads(request.body)
    except ValueError:
        return _error(500, "failed to parse the request JSON buffer: Invalid value. at 0")
    if server.model.stops and not server.model.ensemble and body.get("stop") is True:
        return _stop(server, body, "A request id must be provided for request cancellation")
    try:
        asked = _asked(server, body)
    except InputError as error:
        return _error(error.status, str(error))
    except ModelError as error:
        return _failure(str(error)).reply
    if server.max_queue is not None and _full(server, slots):
        return _error(503, f"[request id: {asked.request_id or '<id_unknown>'}] Exceeds maximum queue size")
    task = Task(
        prompt=tuple(server.setup.source.vocabulary.encode(asked.prompt)),
        steps=lambda run: _steps(server, asked, run),
    )
    head = Reply(status=200, headers=SSE) if streams else None
    return Job(groups=((task,),), head=head, late_head=True, collect=_collected)


def _full(server: Server, slots: Slots) -> bool:
    state = slots.state
    return state.active >= server.setup.slots and state.queued >= (server.max_queue or 0)


def _stop(server: Server, body: Mapping[str, Any], nameless: str) -> Reply:
    """The LLM API backend calls it an error even where it did what it was told."""
    if not body.get("id"):
        return _failure(nameless).reply
    server.stopped.add(body["id"])
    return _failure("Request cancelled by client").reply


def _stop_inside(server: Server, request: Request) -> Reply:
    """To the model inside the ensemble: answered by a response without a tensor. Nothing else of it is simulated."""
    body = json.loads(request.body)
    if not body.get("id"):
        return _failure("Trying to stop a request but request ID is not provided").reply
    server.stopped.add(body["id"])
    said = dump({"id": body["id"], "model_name": "tensorrt_llm", "model_version": "1"})
    return Reply(status=200, headers=SSE, body=b"data: " + said + b"\n\n", chunked=True)


def _asked(server: Server, body: Mapping[str, Any]) -> Asked:
    """Triton counts inputs before it looks for names: one of the required ones may be missing beside others."""
    model = server.model
    flat = {**body.get("parameters", {}), **{name: value for name, value in body.items() if name != "parameters"}}
    types = {name: kind for name, kind, _ in model.inputs}
    for name, value in flat.items():
        if name in types:
            _judge(types[name], value)
        elif value is None or isinstance(value, list | dict):
            raise InputError(
                400, f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            )
    given = [name for name in types if name in flat]
    required = [name for name, _, needed in model.inputs if needed]
    if len(given) < len(required):
        missing, got = (",".join(f"'{n}'" for n in names) for names in ([n for n in required if n not in flat], given))
        raise InputError(
            400,
            f"[request id: <id_unknown>] expected number of inputs between {len(required)} and {len(types)} but got "
            f"{len(given)} inputs for model '{server.setup.model}'. Got input(s) [{got}], but missing required input(s) "
            f"[{missing}]. Please provide all required input(s).",
        )
    return model.read(flat)


def _judge(kind: str, value: Any) -> None:
    """Raise InputError for a value that is not of the tensor's type; an integer is a float, too (params_int_for_float)."""
    values = value if isinstance(value, list) else [value]
    number = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    good = {
        "BYTES": all(isinstance(v, str) for v in values),
        "BOOL": all(isinstance(v, bool) for v in values),
        "FP32": len(number) == len(values),
        "INT32": all(isinstance(v, int) and not isinstance(v, bool) for v in values),
        "UINT64": all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values),
    }
    words = {
        "BYTES": "string",
        "BOOL": "boolean",
        "FP32": "number",
        "INT32": "signed-integer",
        "UINT64": "unsigned-integer",
    }
    if not good[kind]:
        word = words[kind]
        raise InputError(500, f"Unable to parse 'data': attempt to access JSON non-{word} as {word}")


def _steps(server: Server, asked: Asked, run: Run) -> Iterator[Step]:
    """A response for each token, alphabetically ordered."""
    model, source, vocabulary = server.model, server.setup.source, server.setup.source.vocabulary
    yield Step()
    if len(run.task.prompt) >= server.setup.ctx:
        raise _failure(
            "Encountered an error when fetching new request: Prompt length "
            f"({len(run.task.prompt)}) exceeds maximum input length ({server.setup.ctx})."
        )
    decoder, whole, responses = getincrementaldecoder("utf-8")("replace"), "", list[dict[str, Any]]()
    logprobs, total = list[float](), 0.0
    for token in source.generate(_ask(asked, run)):
        if asked.request_id in server.stopped or asked.max_tokens < 1:
            yield Step(last=True, result=responses)
            return
        run.decoded += 1
        ended = token.id in vocabulary.end_of_generation
        delta = decoder.decode(token.piece) if model.holds_back else token.piece.decode("utf-8", LATIN)
        whole += delta
        logprobs.append(single(token.logprob))
        total += token.logprob
        stop_word = next((word for word in asked.stop if word in whole), None)
        reason = "stop" if ended or stop_word else "length" if run.decoded >= asked.max_tokens else None
        said = Said(
            whole=whole,
            delta=delta,
            token=token,
            logprobs=logprobs,
            total=total,
            tokens_in=len(run.task.prompt),
            reason=reason,
            stop_word=stop_word,
        )
        name = {"model_name": server.setup.model, "model_version": "1"}
        told = {**model.tensors(asked, said), **name, **({"id": asked.request_id} if asked.request_id else {})}
        responses.append(told)
        yield Step(events=(b"data: " + dump(told) + b"\n\n",), last=reason is not None, result=responses)
        if reason is not None:
            return


def _ask(asked: Asked, run: Run) -> Ask:
    return Ask(
        prompt=run.task.prompt,
        seed=asked.seed,
        temperature=asked.temperature,
        knobs=asked.knobs,
        ignore_eos=asked.ignore_eos,
        n_probs=0 if asked.listed is None else max(1, asked.listed),
        run=run,
    )


def _collected(results: Sequence[Any]) -> Reply:
    """/generate: one response is what it takes, and another number is an error under a 200."""
    (responses,) = results
    if len(responses) == 1:
        return Reply(status=200, headers=JSON, body=dump(responses[0]), chunked=True)
    message = (
        "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
        "number of responses"
    )
    return Reply(status=200, headers=JSON, body=dump({"error": message}), chunked=True)


WORDS = frozenset({"bad_words", "stop_words", "sampling_param_stop", "image"})
OUT_DIMS = {
    "output_log_probs": [-1, -1],
    **{name: [1] for name in ("batch_index", "sequence_index", "num_output_tokens")},
}
INNER = "/v2/models/tensorrt_llm"
STEPS: list[dict[str, Any]] = [
    {"model_name": "preprocessing", "input_map": {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"}},
    {
        "model_name": "tensorrt_llm",
        "input_map": {"input_ids": "_INPUT_ID", "request_output_len": "_REQUEST_OUTPUT_LEN"},
    },
    {"model_name": "postprocessing", "input_map": {"TOKENS_BATCH": "_TOKENS"}},
]
