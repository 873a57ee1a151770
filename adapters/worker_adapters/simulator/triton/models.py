"""What the simulated models of a Triton have for inputs, and how each answers: the tensors of its responses."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ..source import Token

__all__ = ["LATIN", "MODELS", "Asked", "InputError", "Model", "ModelError", "Said", "dump", "single"]

LATIN = "surrogateescape"  # how bytes of a text tensor that are no UTF-8 are kept in a str until they are written


def dump(value: object) -> bytes:
    """JSON as Triton writes it: sorted, compact, not escaped, and bytes as they are."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", LATIN)


class InputError(ValueError):
    """An input that is missing or of the wrong type; `status` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ModelError(ValueError):
    """What the model itself says to a request, in place of its first response."""


@attrs.frozen(kw_only=True)
class Asked:
    """What a request asks of a model, whatever its inputs are called. `listed`: alternatives beside the token drawn."""

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
    listed: int | None = None
    echo: str = ""


@attrs.frozen(kw_only=True)
class Said:
    """What is known when a response is made: the text so far, what is new of it, and the token it is of.

    `logprobs`: of the tokens so far, as a tensor of 32 bits holds them; `total`: their sum.
    """

    whole: str
    delta: str
    token: Token
    logprobs: Sequence[float]
    total: float
    tokens_in: int
    reason: str | None
    stop_word: str | None = None


def single(value: float) -> float:
    """A number as 32 bits hold it."""
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


@attrs.frozen(kw_only=True)
class Model:
    """One kind of model: inputs as (name, type, required), and functions that read a request and write its responses.

    `batched`: whether its tensors have a dimension for requests. `stops`: whether `stop` with a request's id ends
    that one, said to the model itself or to the one inside the ensemble.
    """

    inputs: tuple[tuple[str, str, bool], ...]
    outputs: tuple[tuple[str, str], ...]
    read: Callable[[Mapping[str, Any]], Asked]
    tensors: Callable[[Asked, Said], dict[str, Any]]
    holds_back: bool = True
    batched: bool = True
    ensemble: bool = False
    stops: bool = False
    broken: str = "the engine failed"


def _knobs(body: Mapping[str, Any], *names: str) -> tuple[float, ...]:
    return tuple(float(body.get(name, 0)) for name in names)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in ([value] if isinstance(value, str) else value or ()) if word)


def _flags(body: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name in body if name.startswith(("return_", "sampling_param_return_")) and body[name])


def _read_trtllm(body: Mapping[str, Any]) -> Asked:
    greedy = body.get("top_k", 0) == 1
    return Asked(
        prompt=body.get("text_input", ""),
        max_tokens=body.get("max_tokens", 0),
        seed=body.get("seed", body.get("random_seed", 0)),
        temperature=0.0 if greedy else body.get("temperature", 1.0),
        stop=_words(body.get("stop_words")),
        knobs=_knobs(body, "top_k", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        stream=bool(body.get("stream", False)),
        request_id=body.get("id", ""),
        flags=_flags(body),
        listed=0,
    )


def _cast(sampling: Any) -> dict[str, Any]:
    """What the backend makes of them: its own types, so that numbers may be strings. Raises TypeError and ValueError."""
    if not isinstance(sampling, dict) or not VLLM_KNOBS.issuperset(sampling):
        raise TypeError
    casts = {**dict.fromkeys(VLLM_INTEGERS, int), **dict.fromkeys(VLLM_FLOATS, float)}
    return {name: casts[name](value) if name in casts else value for name, value in sampling.items()}


def _read_vllm(body: Mapping[str, Any]) -> Asked:
    stream = bool(body.get("stream", False))
    if stream and not body.get("exclude_input_in_output", True):
        raise ModelError("Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed.")
    try:
        sampling = _cast(json.loads(body.get("sampling_parameters", "{}")))
    except (TypeError, ValueError):
        raise ModelError("Error generating stream: 'NoneType' object has no attribute 'lora_name'") from None
    return Asked(
        prompt=body.get("text_input", ""),
        max_tokens=sampling.get("max_tokens", 16),
        seed=sampling.get("seed", 0),
        temperature=sampling.get("temperature", 1.0),
        stop=_words(sampling.get("stop")),
        knobs=_knobs(
            sampling, "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"
        ),
        ignore_eos=bool(sampling.get("ignore_eos")),
        stream=stream,
        request_id=body.get("id", ""),
        flags=_flags(body),
        listed=sampling.get("logprobs"),
    )


def _read_llmapi(body: Mapping[str, Any]) -> Asked:
    get = {
        name.removeprefix("sampling_param_"): value
        for name, value in body.items()
        if name.startswith("sampling_param_")
    }
    prompt = body.get("text_input", "")
    return Asked(
        prompt=prompt,
        max_tokens=get.get("max_tokens", 32),
        seed=get.get("seed", 0),
        temperature=0.0 if get.get("top_k") == 1 else get.get("temperature", 1.0),
        stop=_words(get.get("stop")),
        knobs=_knobs(get, "top_k", "top_p", "presence_penalty", "frequency_penalty"),
        stream=bool(body.get("streaming", False)),
        request_id=body.get("id", ""),
        flags=_flags(body),
        listed=0,
        echo="" if get.get("exclude_input_from_output") else prompt,
    )


def _numbers(asked: Asked, said: Said, *, all_of_them: bool) -> dict[str, Any]:
    shown = list(said.logprobs if all_of_them else said.logprobs[-1:])
    known: dict[str, dict[str, Any]] = {
        "return_num_output_tokens": {"num_output_tokens": 1},
        "return_num_input_tokens": {"num_input_tokens": said.tokens_in},
        "return_log_probs": {
            "cum_log_probs": single(said.total),
            "output_log_probs": shown if len(shown) > 1 else shown[0],
        },
    }
    return {name: value for flag, found in known.items() if flag in asked.flags for name, value in found.items()}


def _trtllm(asked: Asked, said: Said) -> dict[str, Any]:
    numbers = _numbers(asked, said, all_of_them=False)
    return {"batch_index": 0, "sequence_index": 0, "text_output": said.delta, **numbers}


def _accumulating(asked: Asked, said: Said) -> dict[str, Any]:
    numbers = _numbers(asked, said, all_of_them=True)
    return {"batch_index": 0, "sequence_index": 0, "text_output": said.whole, **numbers}


def _ensemble(asked: Asked, said: Said) -> dict[str, Any]:
    """Logprobs always, and not the count of the prompt, as its steps had it; what an ensemble adds of itself."""
    told = _trtllm(attrs.evolve(asked, flags=(asked.flags | {"return_log_probs"}) - {"return_num_input_tokens"}), said)
    return {**told, "sequence_end": False, "sequence_id": 0, "sequence_start": False}


def _vllm(asked: Asked, said: Said) -> dict[str, Any]:
    token, listed = said.token, asked.listed
    told: list[dict[int, dict[str, Any]]] | None = None
    if listed is not None:
        likely = [(token.id, token.logprob), *(one for one in token.top if one[0] != token.id)][: max(1, listed)]
        text = token.piece.decode("utf-8", "replace")
        told = [{i: {"logprob": p, "rank": r, "decoded_token": text} for r, (i, p) in enumerate(likely, 1)}]
    known: dict[str, Any] = {
        "finish_reason": str(said.reason),
        "num_output_tokens": 1,
        "num_input_tokens": said.tokens_in,
        "logprobs": json.dumps(told),
        "cumulative_logprob": single(said.total),
    }
    return {
        "text_output": said.delta,
        **{name: value for name, value in known.items() if f"return_{name}" in asked.flags},
    }


def _llmapi(asked: Asked, said: Said) -> dict[str, Any]:
    """Numbers as text; a stop string is cut out of the text, which may so get shorter."""
    whole = said.whole.partition(said.stop_word)[0] if said.stop_word else said.whole
    known: dict[str, Any] = {
        "finish_reason": said.reason,
        "stop_reason": said.stop_word,
        "cumulative_logprob": said.total,
    }
    figures = {"acceptance_rate": "0.0", "kv_cache_alloc_new_blocks": "0"}
    return {
        "text_output": asked.echo + whole,
        **{name: str(value) for name, value in known.items() if f"return_{name}" in asked.flags},
        **(figures if "sampling_param_return_perf_metrics" in asked.flags else {}),
    }


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
VLLM_INTEGERS = ("max_tokens", "seed", "top_k", "min_tokens", "n", "logprobs")
VLLM_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
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
        "logprobs",
    ]
)


def _all(kind: str, *names: str) -> tuple[tuple[str, str, bool], ...]:
    return tuple((name, kind, False) for name in names)


# The names of newer releases; `_TRTLLM_INPUTS` has those up to 0.17.
_ENSEMBLE_INPUTS = (
    TEXT,
    ("max_tokens", "INT32", True),
    *_all("BYTES", "bad_words", "stop_words"),
    *_all("BOOL", "exclude_input_in_output", "stream"),
    *_all("INT32", "end_id", "pad_id", "top_k", "min_tokens", "beam_width"),
    *_all("FP32", "top_p", "temperature", "length_penalty", "repetition_penalty"),
    *_all("FP32", "presence_penalty", "frequency_penalty"),
    *_all("UINT64", "seed"),
    *_all("BOOL", "return_log_probs", "return_num_input_tokens", "return_num_output_tokens"),
)
_VLLM_INPUTS = (
    TEXT,
    *_all("BYTES", "image"),
    *_all("BOOL", "stream", "exclude_input_in_output"),
    *_all("BYTES", "sampling_parameters"),
    *_all("BOOL", "return_finish_reason", "return_cumulative_logprob", "return_logprobs"),
    *_all("BOOL", "return_num_input_tokens", "return_num_output_tokens"),
)
_VLLM_OUTPUTS = (
    *((name, "BYTES") for name in ("text_output", "finish_reason", "logprobs")),
    ("cumulative_logprob", "FP32"),
    ("num_output_tokens", "UINT32"),
    ("num_input_tokens", "UINT32"),
)
_LLMAPI_INPUTS = (
    TEXT,
    *_all("BOOL", "streaming", "stop", "return_finish_reason", "return_stop_reason", "return_cumulative_logprob"),
    *_all("INT32", *(f"sampling_param_{name}" for name in ("best_of", "top_k", "max_tokens"))),
    *_all(
        "FP32",
        *(f"sampling_param_{name}" for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty")),
    ),
    *_all("BYTES", "sampling_param_stop"),
    *_all("UINT64", "sampling_param_seed"),
    *_all("BOOL", "sampling_param_exclude_input_from_output", "sampling_param_return_perf_metrics"),
)
_LLMAPI_OUTPUTS = (
    *((name, "BYTES") for name in ("text_output", "finish_reason", "stop_reason")),
    ("cumulative_logprob", "FP32"),
)
_TRTLLM = Model(
    inputs=_TRTLLM_INPUTS, outputs=_TRTLLM_OUTPUTS, read=_read_trtllm, tensors=_trtllm, broken="the executor has failed"
)
MODELS: dict[str, Model] = {
    "trtllm": _TRTLLM,
    # Bytes as the tokens have them: what a model that does not look at its text lets through (stream_bls_raw_bytes).
    "trtllm-raw": attrs.evolve(_TRTLLM, holds_back=False),
    "trtllm-accumulate": attrs.evolve(_TRTLLM, tensors=_accumulating),
    "trtllm-ensemble": attrs.evolve(
        _TRTLLM,
        inputs=_ENSEMBLE_INPUTS,
        outputs=(*_TRTLLM_OUTPUTS, ("num_output_tokens", "INT32")),
        tensors=_ensemble,
        ensemble=True,
        stops=True,
    ),
    "vllm": Model(
        inputs=_VLLM_INPUTS,
        outputs=_VLLM_OUTPUTS,
        read=_read_vllm,
        tensors=_vllm,
        batched=False,
        broken="Error generating stream: the engine is dead",
    ),
    "llmapi": Model(
        inputs=_LLMAPI_INPUTS,
        outputs=_LLMAPI_OUTPUTS,
        read=_read_llmapi,
        tensors=_llmapi,
        batched=False,
        stops=True,
        broken="Error generating request: the executor is gone",
    ),
}
