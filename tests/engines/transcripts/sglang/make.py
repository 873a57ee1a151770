"""Writes the responses of this folder by hand, from SGLang's source: `python tests/engines/transcripts/sglang/make.py`."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent
VERSION = "0.5.23"
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
DONE = b"data: [DONE]\n\n"


def dump(value: object) -> bytes:
    """As orjson writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def response(status: int, body: bytes, headers: dict[str, str], *, chunks: list[bytes] | None = None) -> bytes:
    """A response of uvicorn's, in chunks where it streams."""
    lines = [f"HTTP/1.1 {status} -", "date: Fri, 27 Nov 2026 08:00:00 GMT", "server: uvicorn"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append("transfer-encoding: chunked" if chunks is not None else f"content-length: {len(body)}")
    framed = body if chunks is None else b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in [*chunks, b""])
    return "\r\n".join([*lines, "", ""]).encode() + framed


def meta(reason: object, tokens_out: int, tokens_in: int = 4, **more: object) -> dict[str, object]:
    """What `_handle_batch_output` puts beside the text."""
    return {
        "id": "f3c0e1",
        "finish_reason": reason,
        "prompt_tokens": tokens_in,
        "weight_version": "default",
        "num_retractions": 0,
        "reasoning_tokens": 0,
        "completion_tokens": tokens_out,
        "cached_tokens": 1,
        **more,
    }


def events(
    steps: list[tuple[str, list[int]]], reason: object, *, incremental: bool, whole: str | None = None
) -> list[bytes]:
    """One per step: its text and ids, or all so far; `whole` is all the text where a stop string was cut out of it."""
    out, text, ids = [], "", []
    for n, (piece, new) in enumerate(steps):
        last = n == len(steps) - 1
        ids = ids + new
        told, text = text, text + piece
        if last and whole is not None:
            text = whole
        shown = {"text": text[len(told) :] if incremental else text, "output_ids": new if incremental else ids}
        more = {"e2e_latency": 0.25} if last else {}
        out.append(b"data: " + dump({**shown, "meta_info": meta(reason if last else None, len(ids), **more)}) + b"\n\n")
    return out


def abort(reason: dict[str, object]) -> bytes:
    """`_handle_abort_req`: of a request that is not admitted, or not any more."""
    said = {
        "id": "f3c0e1",
        "finish_reason": reason,
        "weight_version": "default",
        "e2e_latency": 0.1,
        "completion_tokens": 0,
    }
    return b"data: " + dump({"text": "", "output_ids": [], "meta_info": said}) + b"\n\n"


LENGTH = {"type": "length", "length": 4}
EOS = {"type": "stop", "matched": 2}
FOUR = [(" the", [5]), (" 中", [6]), (" café", [7]), (" owl", [8])]


def streams(incremental: bool) -> dict[str, tuple[list[bytes], dict[str, object]]]:
    """Each with what it must come to."""

    def of(steps: list[tuple[str, list[int]]], reason: object, whole: str | None = None) -> list[bytes]:
        return [*events(steps, reason, incremental=incremental, whole=whole), DONE]

    two = events([(" a", [5]), (" b", [6]), ("", [])], None, incremental=incremental)[:2]
    gone = {"type": "abort", "message": "Out of memory even after retracting all other requests in the decode batch."}
    full = {"type": "abort", "status_code": 503, "message": "The request queue is full."}
    refused = {
        "error": {
            "message": "top_p must be in (0, 1], got 7.",
            "type": "invalid_request_error",
            "code": 400,
            "retryable": False,
        }
    }
    return {
        "stream_length": (
            of(FOUR, LENGTH),
            {
                "text": " the 中 café owl",
                "deltas": 4,
                "request": {"max_tokens": 4},
                "tags": ["length"],
                "finish_reason": "length",
                "tokens_out": 4,
            },
        ),
        "stream_stop": (
            of([(" a", [5]), (" quick", [6, 7]), ("", [2])], EOS),
            {"text": " a quick", "deltas": 2, "tags": ["stop"], "finish_reason": "stop", "tokens_out": 4},
        ),
        "stream_split": (
            of([(" a", [5]), ("", [240]), ("", [159]), ("🙂", [153, 130])], LENGTH),
            {"text": " a🙂", "deltas": 2, "tags": ["split_character"], "finish_reason": "length", "tokens_out": 5},
        ),
        "stream_stop_string": (
            of([(" one", [5]), ("", [6])], {"type": "stop", "matched": "ne tw"}, whole=" o"),
            {
                "text": " o",
                "deltas": 1,
                "request": {"stop": ["ne tw"]},
                "tags": ["stop_string"],
                "finish_reason": "stop",
                "stop_text": "ne tw",
                "tokens_out": 2,
            },
        ),
        "stream_empty": (
            of([("", [2])], EOS),
            {"text": "", "deltas": 0, "tags": ["zero_tokens"], "finish_reason": "stop", "tokens_out": 1},
        ),
        "stream_ids": (
            of([(" a", [5]), (" b", [6])], LENGTH),
            {
                "text": " a b",
                "deltas": 2,
                "request": {"return_token_ids": True},
                "finish_reason": "length",
                "tokens_out": 2,
            },
        ),
        "err_oom": (
            [*two, abort({**gone, "status_code": 500, "err_type": None}), DONE],
            {"text": " a b", "deltas": 2, "tags": ["error_in_stream"], "error": ["WORKER_RESET", "KV_EXHAUSTED"]},
        ),
        "err_aborted": (
            [*two, abort({"type": "abort", "message": "Abort in waiting queue"}), DONE],
            {"text": " a b", "deltas": 2, "error": ["WORKER_RESET", "ABORTED"]},
        ),
        "err_queue_full": (
            [abort(full), DONE],
            {"text": "", "deltas": 0, "tags": ["error_first"], "error": ["ADMISSION_REJECT", "OVERLOADED"]},
        ),
        "err_refused": (
            [b"data: " + dump(refused) + b"\n\n", DONE],
            {"text": "", "deltas": 0, "tags": ["error_first"], "error": ["INVALID_PARAMS", "VALIDATION"]},
        ),
    }


def flat(status: int, message: str, kind: str) -> bytes:
    """`ErrorResponse`: what FastAPI's exceptions become."""
    said = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return response(status, dump(said), JSON)


ERRORS = {
    "err_json": (
        flat(400, "[{'type': 'json_invalid', 'loc': ('body', 1)}]", "Bad Request"),
        ["INVALID_PARAMS", "VALIDATION"],
    ),
    "err_contract": (response(400, dump({"error": "text: expected a string"}), JSON), ["INVALID_PARAMS", "VALIDATION"]),
    "err_too_long": (
        response(
            400,
            dump(
                {
                    "error": {
                        "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."
                    }
                }
            ),
            JSON,
        ),
        ["INVALID_PARAMS", "CONTEXT_TOO_LONG"],
    ),
    "err_key": (response(401, dump({"error": "Unauthorized"}), JSON), ["INTERNAL", "UPSTREAM_AUTH"]),
    "err_path": (flat(404, "Not Found", "404"), ["INTERNAL", "UPSTREAM_NOT_FOUND"]),
    "err_full": (flat(503, "The request queue is full.", "503"), ["ADMISSION_REJECT", "OVERLOADED"]),
    "err_internal": (
        response(500, b"Internal Server Error", {"content-type": "text/plain; charset=utf-8"}),
        ["POOL_UNAVAILABLE", "ENGINE_ERROR"],
    ),
}
MODEL = {"model_path": "/models/tiny", "served_model_name": "tiny", "is_generation": True, "weight_version": "default"}
SERVER = {
    "model_path": "/models/tiny",
    "served_model_name": "tiny",
    "context_length": None,
    "max_running_requests": 48,
    "enable_deterministic_inference": False,
    "speculative_algorithm": None,
    "internal_states": [{"last_gen_throughput": 3.5}],
    "version": VERSION,
    "frontend": "python",
}
LOADS = {
    "timestamp": "2026-11-27T08:00:00+00:00",
    "version": VERSION,
    "accelerator": None,
    "num_accelerators": 1,
    "loads": [
        {
            "dp_rank": n,
            "num_running_reqs": 3 + n,
            "num_waiting_reqs": n,
            "max_running_requests": 24,
            "token_usage": 0.25 + n / 2,
        }
        for n in (0, 1)
    ],
}
GAUGES = "".join(
    f'{name}{{engine_type="unified",model_name="tiny"}} {value}\n'
    for name, value in (("sglang:num_running_reqs", 3.0), ("sglang:num_queue_reqs", 2.0), ("sglang:token_usage", 0.5))
)
CARD = {
    "id": "tiny",
    "object": "model",
    "created": 1795766400,
    "owned_by": "sglang",
    "root": "tiny",
    "max_model_len": 4096,
}
PAGES = {
    "health": response(200, b"", {}),
    "starting": response(503, b"", {}),
    "model_info": response(200, dump(MODEL), JSON),
    "server_info": response(200, dump(SERVER), JSON),
    "loads": response(200, dump(LOADS), JSON),
    "models": response(200, dump({"object": "list", "data": [CARD]}), JSON),
    "metrics": response(200, GAUGES.encode(), {"content-type": "text/plain; version=0.0.4; charset=utf-8"}),
}
ASKED = {"/server_info": "server_info", "/v1/models": "models"}
PROBES = {
    "health": {"replies": {"/health": "health", "/model_info": "model_info"}, "facts": {"ready": True, "detail": "ok"}},
    "deep": {
        "probe": "health",
        "target": {"deep": True},
        "replies": {"/health_generate": "health", "/model_info": "model_info"},
        "facts": {"ready": True},
    },
    "starting": {"probe": "health", "replies": {"/health": "starting"}, "facts": {"ready": False}},
    "wrong_key": {
        "probe": "health",
        "replies": {"/health": "health", "/model_info": "err_key"},
        "facts": {"ready": False, "detail": "Unauthorized (check credentials=)"},
    },
    "identify": {"replies": {"/server_info": "server_info"}, "facts": {"engine_version": VERSION, "model": "tiny"}},
    "properties": {
        "replies": {**ASKED, "/v1/loads?include=core": "loads"},
        "facts": {"slots_total": 48, "slots_free": 41, "queue_depth": 1, "kv_usage": 0.5, "context_length": 4096},
    },
    "older": {
        "probe": "properties",
        "replies": {
            "/server_info": "err_path",
            "/get_server_info": "server_info",
            "/v1/models": "models",
            "/v1/loads?include=core": "err_path",
            "/metrics": "metrics",
        },
        "facts": {"slots_total": 48, "slots_free": 45, "queue_depth": 2, "kv_usage": 0.5, "engine_version": VERSION},
    },
}


def write(name: str, *, incremental: bool) -> None:
    """One folder."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    found = streams(incremental)
    files = {name: response(200, b"", STREAM, chunks=chunks) for name, (chunks, _) in found.items()}
    files |= {name: data for name, (data, _) in ERRORS.items()} | PAGES
    for file, data in files.items():
        (folder / f"{file}.bin").write_bytes(data)
    index = {
        "engine": "sglang",
        "version": f"{VERSION}, by hand",
        "end_sign": '"finish_reason":{"type":"(stop|length)"',
        "streams": {name: expected for name, (_, expected) in found.items()},
        "errors": {name: row for name, (_, row) in ERRORS.items()},
        "probes": PROBES,
        "absent": {},
    }
    (folder / "suite.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write("0.5.23", incremental=False)
    write("0.5.23-incremental", incremental=True)
