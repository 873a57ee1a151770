"""Writes the hand-made TGI responses beside it, from the facts in docs/engines/tgi.md: no real TGI could be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-compute-type: gpu+optimized\r\n"
    "x-compute-characters: 4\r\nx-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
)


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def reply(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\n" + (f"content-type: {kind}\r\n" if kind else "")
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def info_of(version: str, limit: str) -> dict[str, Any]:
    """`Info` in router/src/lib.rs, of a server with --max-best-of 1 and --max-batch-size 2."""
    old = version < "2.3"
    device = {"model_dtype": "torch.float16", "model_device_type": "cuda"}
    batches = {
        "waiting_served_ratio": 0.3,
        "max_batch_total_tokens": 4096,
        "max_waiting_tokens": 20,
        "max_batch_size": 2,
    }
    return {
        "model_id": "m",
        "model_sha": "d1",
        **(device if old else {}),
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 128,
        "max_best_of": 1,
        "max_stop_sequences": 4,
        limit: 1024,
        "max_total_tokens": 2048,
        **(batches if old else {}),
        "validation_workers": 2,
        **({} if version == "1.4.0" else {"max_client_batch_size": 4}),
        **({} if old else {"router": "text-generation-router"}),
        "version": {"3.3.7": "3.3.6-dev0"}.get(version, version),  # what the tag says of itself
        "sha": "0123456789",
        "docker_label": None,
    }


def write(version: str, space: str, *, counts_input: bool, limit: str) -> None:
    folder = HERE / version
    folder.mkdir(exist_ok=True)
    index: dict[str, Any] = {"streams": {}, "errors": {}, "probes": {}}

    def stream(name: str, events: list[Any], **expected: Any) -> None:
        body = b"".join(b"data:" + space.encode() + compact(event) + b"\n\n" for event in events)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        (folder / f"{name}.bin").write_bytes(HEAD.encode() + chunked)
        index["streams"][name] = expected

    def tokens(texts: list[str], finish: str, *, special: bool = False, generated: str | None = None) -> list[Any]:
        events: list[Any] = [
            {
                "index": at,
                "token": {"id": 300 + at, "text": text, "logprob": -0.5, "special": special and at == len(texts)},
                "generated_text": None,
                "details": None,
            }
            for at, text in enumerate(texts, 1)
        ]
        details = {"finish_reason": finish, "generated_tokens": len(texts), "seed": 1}
        if counts_input:
            details["input_length"] = 5
        said = "".join(texts[:-1] if special else texts)
        events[-1].update(generated_text=said if generated is None else generated, details=details)
        return events

    def error(kind: str, message: str) -> dict[str, str]:
        return {"error": message, "error_type": kind}

    some = tokens([" a", " b", " c"], "length")
    stream("length", some, text=" a b c", deltas=3, finish_reason="length", tokens_out=3, tags=["length"])
    stream(
        "eos",
        tokens([" a", " b", "</s>"], "eos_token", special=True),
        text=" a b",
        deltas=2,
        finish_reason="stop",
        tokens_out=3,
        tags=["stop"],
    )
    stream(
        "zero",
        tokens(["</s>"], "eos_token", special=True),
        text="",
        deltas=0,
        finish_reason="stop",
        tokens_out=1,
        tags=["zero_tokens"],
    )
    stream(
        "stop_string",
        tokens([" a", " EN", "D"], "stop_sequence"),
        request={"stop": ["END"]},
        text=" a ",
        deltas=2,
        finish_reason="stop",
        stop_text="END",
        tokens_out=3,
        tags=["stop_string"],
    )
    stream(
        "split_character",
        tokens([" a", "", "", "é🙂", "."], "length"),
        text=" aé🙂.",
        deltas=3,
        finish_reason="length",
        tokens_out=5,
        tags=["split_character"],
    )
    stream(
        "split_character_end",
        tokens([" a", ""], "length", generated=""),
        text=" a\ufffd",
        deltas=2,
        finish_reason="length",
        tokens_out=2,
    )
    stream(
        "eos_at_the_limit",  # the length is looked at first
        tokens([" a", "</s>"], "length", special=True),
        text=" a",
        deltas=1,
        finish_reason="length",
        tokens_out=2,
    )
    broken = error("generation", "Request failed during generation: Server error: boom")
    cache = error("generation", "Request failed during generation: Server error: Out of available cache blocks")
    stream(
        "error_in_stream",
        [*some[:2], broken],
        text=" a b",
        deltas=2,
        error=["WORKER_RESET", "ENGINE_ERROR"],
        tags=["error_in_stream"],
    )
    stream(
        "error_in_stream_cache",
        [*some[:2], cache],
        text=" a b",
        deltas=2,
        error=["WORKER_RESET", "KV_EXHAUSTED"],
        tags=["error_in_stream"],
    )
    long = (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
        "Given: 2000 `inputs` tokens and 64 `max_new_tokens`"
    )
    for name, said, code, reason in (
        ("overloaded", error("overloaded", "Model is overloaded"), "ADMISSION_REJECT", "OVERLOADED"),
        (
            "validation",
            error("validation", "Input validation error: `temperature` must be strictly positive"),
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        ("too_long", error("validation", long), "INVALID_PARAMS", "CONTEXT_TOO_LONG"),
    ):
        stream(f"error_first_{name}", [said], text="", deltas=0, error=[code, reason], tags=["error_first"])
    js, text = "application/json", "text/plain; charset=utf-8"
    for name, status, kind, body, code, reason in (
        (
            "err_422",
            422,
            js,
            compact(error("validation", "Input validation error: `inputs` cannot be empty")),
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        (
            "err_422_text",
            422,
            text,
            b"Failed to deserialize the JSON body into the target type: missing field `inputs` at line 1 column 2",
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        (
            "err_400_text",
            400,
            text,
            b"Failed to parse the request body as JSON: expected value at line 1 column 1",
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        (
            "err_413_text",
            413,
            text,
            b"Failed to buffer the request body: length limit exceeded",
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        (
            "err_415_text",
            415,
            text,
            b"Expected request with `Content-Type: application/json`",
            "INVALID_PARAMS",
            "VALIDATION",
        ),
        ("err_424", 424, js, compact(broken), "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ("err_429", 429, js, compact(error("overloaded", "Model is overloaded")), "ADMISSION_REJECT", "OVERLOADED"),
        ("err_401_empty", 401, "", b"", "INTERNAL", "UPSTREAM_AUTH"),
        ("err_503_health", 503, js, compact(error("healthcheck", "unhealthy")), "POOL_UNAVAILABLE", "ENGINE_ERROR"),
    ):
        (folder / f"{name}.bin").write_bytes(reply(status, kind, body))
        index["errors"][name] = [code, reason]
    info = info_of(version, limit)
    page = b"tgi_batch_max_total_tokens 4096\ntgi_batch_current_size 2\ntgi_batch_current_max_tokens 1024\n"
    tokens_of_a = [{"id": 301, "text": "a", "start": 0, "stop": 1}]
    for name, kind, body in (
        ("health", "", b""),
        ("info", js, compact(info)),
        ("tokenize", js, compact(tokens_of_a)),
        ("metrics", "text/plain", page),
    ):
        (folder / f"{name}.bin").write_bytes(reply(200, kind, body))
    index["probes"] = {
        "health": {
            "replies": {"/health": "health", "/info": "info", "/tokenize": "tokenize"},
            "facts": {"ready": True},
        },
        "properties": {
            "replies": {"/info": "info", "/metrics": "metrics"},
            "facts": {
                "engine_version": f"{info['version']}+sha-0123456",
                "model_digest": "d1",
                "context_length": 2048,
                "slots_total": 128,
                "slots_free": 126,
                "queue_depth": 0,
                "kv_usage": 0.25,
            },
        },
    }
    (folder / "suite.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write("1.4.0", "", counts_input=False, limit="max_input_length")
    write("2.0.4", "", counts_input=False, limit="max_input_tokens")
    write("2.4.0", " ", counts_input=True, limit="max_input_tokens")
    write("3.3.7", " ", counts_input=True, limit="max_input_tokens")
