"""Record what the real Triton of the live tests answers, its models being stand-ins: bytes for tests/engines/transcripts.

    python tests/live/triton_record.py tests/engines/transcripts/triton

Writes NAME.req.bin (what was sent) and NAME.bin (what came, to the byte) into folders beside the index that is there.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triton_server import ENSEMBLE, TritonServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["main"]

PROMPT = "we see"
VLLM_RETURNS = {f"return_{what}": True for what in ("finish_reason", "num_input_tokens", "num_output_tokens")}
LLMAPI_RETURNS = {f"return_{what}": True for what in ("finish_reason", "stop_reason")}
TRTLLM_RETURNS = {f"return_{what}": True for what in ("num_input_tokens", "num_output_tokens")}
EOS = f"{PROMPT} !eos=4"
EMPTY = f"{PROMPT} !eos=0"
BROKEN = f"{PROMPT} !fail=2"
SIX = {"max_tokens": 6}  # with seeds of which a character comes byte by byte, or words do that hold a stop string


def _vllm(prompt: str = PROMPT, **sampling: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 4, "seed": 3, **sampling}
    returns = {
        **VLLM_RETURNS,
        **({"return_logprobs": True, "return_cumulative_logprob": True} if "logprobs" in sampling else {}),
    }
    return {"text_input": prompt, "stream": True, **returns, "sampling_parameters": json.dumps(sampling)}


def _llmapi(prompt: str = PROMPT, more: Mapping[str, Any] | None = None, **sampling: Any) -> dict[str, Any]:
    knobs = {f"sampling_param_{name}": value for name, value in {"max_tokens": 4, "seed": 53, **sampling}.items()}
    echo = {"sampling_param_exclude_input_from_output": True}
    return {"text_input": prompt, "streaming": True, **LLMAPI_RETURNS, **echo, **knobs, **(more or {})}


def _trtllm(prompt: str = PROMPT, **knobs: Any) -> dict[str, Any]:
    return {"text_input": prompt, "max_tokens": 4, "seed": 25, "stream": True, **TRTLLM_RETURNS, **knobs}


def _stop(**more: Any) -> dict[str, Any]:
    return {"input_ids": [0], "input_lengths": 1, "request_output_len": 0, "streaming": True, "stop": True, **more}


STREAMS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "2.51.0-vllm": (
        "vllm_model",
        {
            "stream_length": _vllm(),
            "stream_stop": _vllm(EOS, max_tokens=16),
            "stream_split": _vllm(seed=22, **SIX),
            "stream_empty": _vllm(EMPTY),
            "stream_stop_string": _vllm(f"{PROMPT} on", seed=69, **SIX),
            "stream_logprobs": _vllm(logprobs=0),
            "stream_nan": _vllm(f"{PROMPT} !nan", logprobs=0),
            "stream_bytes": _vllm(f"{PROMPT} !bytes", seed=22, **SIX),
            "err_mid_stream": _vllm(BROKEN),
            "err_before": _vllm(f"{PROMPT} !fail=0"),
            "err_sampling": _vllm(top_q=1),
            "err_echo": {**_vllm(), "exclude_input_in_output": False},
            "err_lora": _vllm(f"{PROMPT} !refuse=lora"),
            "err_too_long": _vllm(f"{PROMPT} !refuse=long"),
            "missing_input": {"stream": True},
            "err_list": {**_vllm(), "stop": ["a"]},
            "no_response": _vllm(f"{PROMPT} !none"),
        },
    ),
    "2.51.0-llmapi": (
        "llmapi",
        {
            "stream_length": _llmapi(),
            "stream_stop": _llmapi(EOS, max_tokens=16),
            "stream_split": _llmapi(seed=22, **SIX),
            "stream_empty": _llmapi(EMPTY),
            "stream_stop_string": _llmapi(more={"id": "stop-1"}, **SIX),
            "stream_logprobs": _llmapi(more={"return_cumulative_logprob": True}),
            "stream_nan": _llmapi(f"{PROMPT} !nan", more={"return_cumulative_logprob": True}),
            "stream_id": _llmapi(more={"id": "task-1"}),
            "stream_echo": _llmapi(exclude_input_from_output=False),
            "stream_ensemble_body": _trtllm(),
            "err_mid_stream": _llmapi(BROKEN),
            "err_generating": _llmapi(f"{PROMPT} !fail=0"),
            "err_not_decoupled": _llmapi(f"{PROMPT} !refuse=streaming"),
            "err_queue_full": _llmapi(f"{PROMPT} !refuse=queue"),
            "err_too_long": _llmapi(f"{PROMPT} !refuse=long"),
            "err_wrong_type": _llmapi(max_tokens="twelve"),
            "err_cancelled": {"text_input": "", "stop": True, "id": "nobody"},
            "err_stop_without_id": {"text_input": "", "stop": True},
        },
    ),
    "2.51.0-ensemble": (
        "ensemble",
        {
            "stream_length": _trtllm(),
            "stream_stop": _trtllm(EOS, max_tokens=16),
            "stream_split": _trtllm(seed=3, **SIX),
            "stream_empty": _trtllm(EMPTY),
            "stream_stop_string": _trtllm(id="stop-1", **SIX),
            "stream_logprobs": _trtllm(return_log_probs=True),
            "stream_nan": _trtllm(f"{PROMPT} !nan", return_log_probs=True),
            "stream_id": _trtllm(id="task-1"),
            "err_mid_stream": _trtllm(BROKEN),
            "err_before": _trtllm(f"{PROMPT} !fail=0"),
            "err_preprocessing": _trtllm(f"{PROMPT} !preprocess"),
            "err_queue_full": _trtllm(f"{PROMPT} !refuse=queue"),
            "err_too_long": _trtllm(f"{PROMPT} !refuse=long"),
            "missing_input": {"text_input": PROMPT, "stream": True},
            "no_input": {"x": 1},
        },
    ),
}
# Into the ensemble's folder, whose dialect they have: a model, and bodies.
BLS: dict[str, dict[str, dict[str, Any]]] = {
    "tensorrt_llm_bls": {
        "bls_logprobs": _trtllm(return_log_probs=True),
        "bls_nan": _trtllm(f"{PROMPT} !nan", return_log_probs=True),
    },
    "bls_accumulating": {
        "accumulating_logprobs": _trtllm(return_log_probs=True),
        "accumulating_split": _trtllm(seed=3, **SIX),
    },
}
INNER = {
    "stop_unknown": _stop(id="nobody"),
    "stop_without_id": _stop(),
}


def _send(server: TritonServer, request: bytes) -> bytes:
    """One request on a connection of its own, and all that comes: until its end, by length or last chunk."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(request)
        data = b""
        while not _whole(data):
            more = client.recv(65536)
            if not more:
                break
            data += more
    return data


def _record(server: TritonServer, path: Path, request: bytes) -> None:
    path.with_suffix(".req.bin").write_bytes(request)
    path.with_suffix(".bin").write_bytes(_send(server, request))


def _whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return len(body) >= length


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _generate(model: str, body: dict[str, Any]) -> bytes:
    return _request("POST", f"/v2/models/{model}/generate_stream", json.dumps(body, ensure_ascii=False).encode())


def _pages(model: str) -> dict[str, bytes]:
    get = {
        "server": "/v2",
        "health_live": "/v2/health/live",
        "metadata": f"/v2/models/{model}",
        "config": f"/v2/models/{model}/config",
        "stats": f"/v2/models/{model}/stats",
        "stats_unknown": "/v2/models/nosuch/stats",
        "ready": f"/v2/models/{model}/ready",
    }
    pages = {name: _request("GET", path) for name, path in get.items()}
    return {**pages, "index": _request("POST", "/v2/repository/index")}


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Record a real Triton with stand-in models.")
    parser.add_argument("folder", type=Path)
    out = parser.parse_args(argv).folder
    models = [model for model, _ in STREAMS.values() if model != "ensemble"]
    with TritonServer(*ENSEMBLE, *models, *BLS) as server:
        for folder, (model, bodies) in STREAMS.items():
            asked = {name: _generate(model, body) for name, body in bodies.items()} | _pages(model)
            if model == "ensemble":
                asked |= {name: _generate("tensorrt_llm", body) for name, body in INNER.items()}
                asked |= {name: _generate(other, body) for other, found in BLS.items() for name, body in found.items()}
                asked["inner_metadata"] = _request("GET", "/v2/models/tensorrt_llm")
                asked["accumulating_metadata"] = _request("GET", "/v2/models/bls_accumulating")
                asked["accumulating_config"] = _request("GET", "/v2/models/bls_accumulating/config")
            (out / folder).mkdir(exist_ok=True)
            for name, request in asked.items():
                _record(server, out / folder / name, request)
            (out / folder / "metrics.bin").write_bytes(server.metrics())
        for folder, (model, bodies) in STREAMS.items():
            _send(server, _request("POST", f"/v2/repository/models/{model}/unload"))
            _record(server, out / folder / "err_unloaded", _generate(model, bodies["stream_length"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
