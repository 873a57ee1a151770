"""What the simulated models of a Triton have for inputs, and how each answers: the tensors of its responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

__all__ = ["LATIN", "MODELS", "Asked", "InputError", "Model", "dump"]

LATIN = "surrogateescape"  # how bytes of a text tensor that are no UTF-8 are kept in a str until they are written


def dump(value: object) -> bytes:
    """JSON as Triton writes it: sorted, compact, not escaped, and bytes as they are."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", LATIN)


class InputError(ValueError):
    """An input that is missing or of the wrong type; `status` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen(kw_only=True)
class Asked:
    """What a request asks of a model, whatever its inputs are called."""

    prompt: str
    max_tokens: int
    seed: int
    temperature: float
    stop: tuple[str, ...] = ()
    knobs: tuple[float, ...] = ()
    ignore_eos: bool = False
    stream: bool = True
    request_id: str = ""
    flags: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Model:
    """One kind of model: inputs as (name, type, required), and functions that read a request and write its responses.

    `tensors(asked, whole, delta, count, reason)`: all the text so far, what is new, how many tokens, why it ends or None.
    """

    inputs: tuple[tuple[str, str, bool], ...]
    outputs: tuple[tuple[str, str], ...]
    read: Callable[[Mapping[str, Any]], Asked]
    tensors: Callable[[Asked, str, str, int, str | None], dict[str, Any]]
    holds_back: bool = True
    broken: str = "the engine failed"


def _knobs(body: Mapping[str, Any], *names: str) -> tuple[float, ...]:
    return tuple(float(body.get(name, 0)) for name in names)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in ([value] if isinstance(value, str) else value or ()) if word)


def _read_trtllm(body: Mapping[str, Any]) -> Asked:
    greedy = body.get("top_k", 0) == 1
    return Asked(
        prompt=body["text_input"],
        max_tokens=body["max_tokens"],
        seed=body.get("seed", body.get("random_seed", 0)),
        temperature=0.0 if greedy else body.get("temperature", 1.0),
        stop=_words(body.get("stop_words")),
        knobs=_knobs(body, "top_k", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        stream=bool(body.get("stream", False)),
        request_id=body.get("id", ""),
        flags=frozenset(name for name in ("return_num_input_tokens", "return_num_output_tokens") if body.get(name)),
    )


def _read_vllm(body: Mapping[str, Any]) -> Asked:
    try:
        sampling = json.loads(body.get("sampling_parameters", "{}"))
    except ValueError:
        sampling = None
    if not isinstance(sampling, dict) or not VLLM_KNOBS.issuperset(sampling):
        raise InputError(500, "Error generating stream: 'NoneType' object has no attribute 'lora_name'")
    return Asked(
        prompt=body["text_input"],
        max_tokens=sampling.get("max_tokens", 16),
        seed=sampling.get("seed", 0),
        temperature=sampling.get("temperature", 1.0),
        stop=_words(sampling.get("stop")),
        knobs=_knobs(
            sampling, "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"
        ),
        ignore_eos=bool(sampling.get("ignore_eos")),
        stream=bool(body.get("stream", False)),
        request_id=body.get("id", ""),
        flags=frozenset(name for name in body if name.startswith("return_") and body[name]),
    )


def _read_llmapi(body: Mapping[str, Any]) -> Asked:
    get = {
        name.removeprefix("sampling_param_"): value
        for name, value in body.items()
        if name.startswith("sampling_param_")
    }
    return Asked(
        prompt=body["text_input"],
        max_tokens=get.get("max_tokens", 32),
        seed=get.get("seed", 0),
        temperature=0.0 if get.get("top_k") == 1 else get.get("temperature", 1.0),
        stop=_words(get.get("stop")),
        knobs=_knobs(get, "top_k", "top_p", "presence_penalty", "frequency_penalty"),
        stream=bool(body.get("streaming", False)),
        request_id=body.get("id", ""),
        flags=frozenset(name for name in body if name.startswith("return_") and body[name]),
    )


def _trtllm(asked: Asked, _whole: str, delta: str, count: int, _reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"batch_index": 0, "sequence_index": 0, "text_output": delta}
    if "return_num_output_tokens" in asked.flags:
        said["num_output_tokens"] = count
    return said


def _accumulating(asked: Asked, whole: str, _delta: str, count: int, reason: str | None) -> dict[str, Any]:
    return _trtllm(asked, "", whole, count, reason)


def _vllm(asked: Asked, _whole: str, delta: str, count: int, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"text_output": delta}
    if "return_finish_reason" in asked.flags:
        said["finish_reason"] = str(reason)
    if "return_num_output_tokens" in asked.flags:
        said["num_output_tokens"] = count
    if "return_num_input_tokens" in asked.flags:
        said["num_input_tokens"] = len(asked.prompt.split()) or 1
    return said


def _llmapi(asked: Asked, whole: str, _delta: str, _count: int, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"text_output": whole, "acceptance_rate": "0.0", "kv_cache_alloc_new_blocks": "0"}
    if "return_finish_reason" in asked.flags:
        said["finish_reason"] = str(reason)
    return said


TEXT = ("text_input", "BYTES", True)
_TRTLLM_INPUTS = (
    TEXT,
    ("max_tokens", "INT32", True),
    *((name, "BYTES", False) for name in ("bad_words", "stop_words")),
    *((name, "INT32", False) for name in ("end_id", "pad_id", "top_k")),
    *((name, "FP32", False) for name in ("top_p", "temperature", "length_penalty", "repetition_penalty")),
    ("min_length", "INT32", False),
    *((name, "FP32", False) for name in ("presence_penalty", "frequency_penalty")),
    ("random_seed", "UINT64", False),
    ("return_log_probs", "BOOL", False),
    ("beam_width", "INT32", False),
    ("stream", "BOOL", False),
)
_TRTLLM_OUTPUTS = (
    ("text_output", "BYTES"),
    ("cum_log_probs", "FP32"),
    ("output_log_probs", "FP32"),
    ("batch_index", "INT32"),
    ("sequence_index", "INT32"),
)
VLLM_KNOBS = frozenset(
    [
        "max_tokens",
        "seed",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "stop",
        "ignore_eos",
        "n",
        "min_tokens",
        "stop_token_ids",
        "include_stop_str_in_output",
        "skip_special_tokens",
    ]
)
_VLLM_INPUTS = (
    TEXT,
    ("image", "BYTES", False),
    ("stream", "BOOL", False),
    ("sampling_parameters", "BYTES", False),
    *(
        (name, "BOOL", False)
        for name in (
            "exclude_input_in_output",
            "return_finish_reason",
            "return_cumulative_logprob",
            "return_logprobs",
            "return_num_input_tokens",
            "return_num_output_tokens",
        )
    ),
)
_LLMAPI_INPUTS = (
    TEXT,
    ("streaming", "BOOL", False),
    *(
        (f"sampling_param_{name}", "FP32", False)
        for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty")
    ),
    *((f"sampling_param_{name}", "INT32", False) for name in ("best_of", "top_k", "max_tokens")),
    ("sampling_param_seed", "UINT64", False),
    ("sampling_param_stop", "BYTES", False),
    ("sampling_param_exclude_input_from_output", "BOOL", False),
    *((name, "BOOL", False) for name in ("return_finish_reason", "return_stop_reason", "stop")),
)
TEXT_ONLY = (("text_output", "BYTES"),)
_TRTLLM = Model(
    inputs=_TRTLLM_INPUTS, outputs=_TRTLLM_OUTPUTS, read=_read_trtllm, tensors=_trtllm, broken="the executor has failed"
)
MODELS: dict[str, Model] = {
    "trtllm": _TRTLLM,
    # Bytes as the tokens have them: what a model that does not look at its text lets through (stream_bls_raw_bytes).
    "trtllm-raw": attrs.evolve(_TRTLLM, holds_back=False),
    "trtllm-accumulate": attrs.evolve(_TRTLLM, tensors=_accumulating),
    "vllm": Model(
        inputs=_VLLM_INPUTS,
        outputs=TEXT_ONLY,
        read=_read_vllm,
        tensors=_vllm,
        broken="Error generating stream: the engine is dead",
    ),
    "llmapi": Model(
        inputs=_LLMAPI_INPUTS,
        outputs=(*TEXT_ONLY, ("finish_reason", "BYTES")),
        read=_read_llmapi,
        tensors=_llmapi,
        broken="Error generating request: the executor is gone",
    ),
}
