"""A model repository for Triton with stand-ins of the three backends: the tensors of the real ones, text that is noise.

What the models do is in triton_models/. Names, types and shapes are those of TensorRT-LLM's inflight_batcher_llm and llmapi
repositories and of the vLLM backend's auto-completed configuration, cut down to what text generation uses.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODELS", "write"]

MODULES = Path(__file__).with_name("triton_models")
# The interpreter in a model's process is isolated: it sees no PYTHONPATH.
_PROGRAM = "import sys\nsys.path.insert(0, {!r})\nfrom {} import {} as TritonPythonModel\n"

Tensor: TypeAlias = tuple[str, str, str]  # name, type, dims and whatever else stands behind them


def _each(kind: str, *names: str, dims: str = "[ 1 ]", more: str = "optional: true") -> tuple[Tensor, ...]:
    return tuple((name, kind, f"dims: {dims} {more}") for name in names)


_SCALAR = "optional: true reshape: { shape: [ ] }"  # as the real ones have it for some of their flags
_TEXT = (("text_input", "STRING", "dims: [ 1 ]"),)
_RETURNS = tuple(f"return_{what}" for what in ("log_probs", "num_input_tokens", "num_output_tokens"))


def _trtllm_inputs(flags: str) -> tuple[Tensor, ...]:
    return (
        *_TEXT,
        ("max_tokens", "INT32", "dims: [ 1 ]"),
        *_each("STRING", "bad_words", "stop_words", dims="[ -1 ]"),
        *_each("BOOL", "exclude_input_in_output", "stream"),
        *_each("INT32", "end_id", "pad_id", "top_k", "min_tokens", "beam_width"),
        *_each("FP32", "top_p", "temperature", "length_penalty", "repetition_penalty"),
        *_each("FP32", "presence_penalty", "frequency_penalty"),
        *_each("UINT64", "seed"),
        *_each("BOOL", *_RETURNS, more=flags),
    )


_TRTLLM_OUTPUTS = (
    *_each("STRING", "text_output", dims="[ -1 ]", more=""),
    *_each("FP32", "cum_log_probs", dims="[ -1 ]", more=""),
    *_each("FP32", "output_log_probs", dims="[ -1, -1 ]", more=""),
    *_each("INT32", "batch_index", "sequence_index", "num_output_tokens", more=""),
)
_BLS_OUTPUTS = (*_TRTLLM_OUTPUTS, *_each("INT32", "num_input_tokens", more=""))
_INNER_INPUTS = (
    ("input_ids", "INT32", "dims: [ -1 ] allow_ragged_batch: true"),
    ("input_lengths", "INT32", "dims: [ 1 ] reshape: { shape: [ ] }"),
    ("request_output_len", "INT32", "dims: [ 1 ]"),
    *_each("INT32", "stop_words_list", "bad_words_list", dims="[ -1 ]"),
    *_each("INT32", "end_id", "pad_id", "runtime_top_k", "min_tokens", "beam_width", more=_SCALAR),
    *_each("FP32", "runtime_top_p", "temperature", "len_penalty", "repetition_penalty", more=_SCALAR),
    *_each("FP32", "presence_penalty", "frequency_penalty", more=_SCALAR),
    *_each("UINT64", "seed", more=_SCALAR),
    *_each("BOOL", "streaming", "stop", "exclude_input_in_output", *_RETURNS),
)
_INNER_OUTPUTS = (
    *_each("INT32", "output_ids", dims="[ -1, -1 ]", more=""),
    *_each("INT32", "sequence_length", dims="[ -1 ]", more=""),
    *_TRTLLM_OUTPUTS[1:],
)
_VLLM_INPUTS = (
    *_TEXT,
    *_each("STRING", "image", dims="[ -1 ]"),
    *_each("BOOL", "stream", "exclude_input_in_output"),
    *_each("STRING", "sampling_parameters"),
    *_each("BOOL", "return_finish_reason", "return_cumulative_logprob", "return_logprobs"),
    *_each("BOOL", "return_num_input_tokens", "return_num_output_tokens"),
)
_VLLM_OUTPUTS = (
    *_each("STRING", "text_output", "finish_reason", "logprobs", dims="[ -1 ]", more=""),
    *_each("FP32", "cumulative_logprob", dims="[ -1 ]", more=""),
    *_each("UINT32", "num_output_tokens", dims="[ -1 ]", more=""),
    *_each("UINT32", "num_input_tokens", more=""),
)
_SAMPLING = "sampling_param_"
_LLMAPI_INPUTS = (
    ("text_input", "STRING", "dims: [ -1 ]"),
    *_each("BOOL", "streaming", "stop", "return_finish_reason", "return_stop_reason", "return_cumulative_logprob"),
    *_each("INT32", *(_SAMPLING + name for name in ("best_of", "top_k", "max_tokens"))),
    *_each("FP32", *(_SAMPLING + name for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"))),
    *_each("STRING", _SAMPLING + "stop", dims="[ -1 ]"),
    *_each("UINT64", _SAMPLING + "seed"),
    *_each("BOOL", *(_SAMPLING + name for name in ("exclude_input_from_output", "return_perf_metrics"))),
)
_LLMAPI_OUTPUTS = (
    *_each("STRING", "text_output", "finish_reason", "stop_reason", dims="[ -1 ]", more=""),
    *_each("FP32", "cumulative_logprob", dims="[ -1 ]", more=""),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
    """One folder of the repository. `source`: module and class in triton_models/; none for an ensemble."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    source: tuple[str, str] = ("", "")
    batch: int = 4
    decoupled: bool = True
    parameters: tuple[str, ...] = ()  # switched on
    more: str = ""


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


_PASSED_ON = (
    *("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "min_tokens"),
    *("beam_width", "exclude_input_in_output", *_RETURNS),
)
_TOLD = ("cum_log_probs", "output_log_probs", "batch_index", "sequence_index", "num_output_tokens")
_STEPS = (
    _step(
        "preprocessing",
        {
            "QUERY": "text_input",
            "REQUEST_OUTPUT_LEN": "max_tokens",
            "END_ID": "end_id",
            "PAD_ID": "pad_id",
            "STOP_WORDS_DICT": "stop_words",
            "BAD_WORDS_DICT": "bad_words",
        },
        {
            **{name: f"_{name}" for name in ("INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN")},
            **{name: f"_{name}" for name in ("STOP_WORDS_IDS", "BAD_WORDS_IDS", "OUT_END_ID", "OUT_PAD_ID")},
        },
    ),
    _step(
        "tensorrt_llm",
        {
            "input_ids": "_INPUT_ID",
            "input_lengths": "_REQUEST_INPUT_LEN",
            "stop_words_list": "_STOP_WORDS_IDS",
            "bad_words_list": "_BAD_WORDS_IDS",
            "end_id": "_OUT_END_ID",
            "pad_id": "_OUT_PAD_ID",
            "request_output_len": "_REQUEST_OUTPUT_LEN",
            "runtime_top_k": "top_k",
            "runtime_top_p": "top_p",
            **{name: name for name in _PASSED_ON},
            "len_penalty": "length_penalty",
            "streaming": "stream",
        },
        {"output_ids": "_TOKENS", "sequence_length": "_LENGTH", **{name: name for name in _TOLD}},
    ),
    _step("postprocessing", {"TOKENS_BATCH": "_TOKENS", "SEQUENCE_LENGTH": "_LENGTH"}, {"OUTPUT": "text_output"}),
)
_BLS = _Model(inputs=_trtllm_inputs(_SCALAR), outputs=_BLS_OUTPUTS, source=("trtllm", "Bls"))
_QUEUE = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }"
_IMPATIENT = "dynamic_batching { default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 300000 } }"

MODELS = {
    "ensemble": _Model(
        inputs=_trtllm_inputs("optional: true"),
        outputs=_TRTLLM_OUTPUTS,
        more=f"ensemble_scheduling {{ step [ {', '.join(_STEPS)} ] }}",
    ),
    "preprocessing": _Model(
        inputs=(
            *_each("STRING", "QUERY", more=""),
            *_each("INT32", "REQUEST_OUTPUT_LEN", more=""),
            *_each("STRING", "STOP_WORDS_DICT", "BAD_WORDS_DICT", dims="[ -1 ]"),
            *_each("INT32", "END_ID", "PAD_ID"),
        ),
        outputs=(
            *_each("INT32", "INPUT_ID", "STOP_WORDS_IDS", "BAD_WORDS_IDS", dims="[ -1 ]", more=""),
            *_each("INT32", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "OUT_END_ID", "OUT_PAD_ID", more=""),
        ),
        source=("trtllm", "Preprocessing"),
        decoupled=False,
    ),
    "tensorrt_llm": _Model(inputs=_INNER_INPUTS, outputs=_INNER_OUTPUTS, source=("trtllm", "TensorrtLlm")),
    "postprocessing": _Model(
        inputs=(
            *_each("INT32", "TOKENS_BATCH", dims="[ -1, -1 ]", more=""),
            *_each("INT32", "SEQUENCE_LENGTH", dims="[ -1 ]", more=""),
        ),
        outputs=_each("STRING", "OUTPUT", dims="[ -1 ]", more=""),
        source=("trtllm", "Postprocessing"),
        decoupled=False,
    ),
    "tensorrt_llm_bls": _BLS,
    "bls_accumulating": dataclasses.replace(_BLS, parameters=("accumulate_tokens",)),
    "bls_queue": dataclasses.replace(_BLS, batch=1, parameters=("blocking",), more=_QUEUE),
    "bls_impatient": dataclasses.replace(_BLS, batch=1, parameters=("blocking",), more=_IMPATIENT),
    "vllm_model": _Model(inputs=_VLLM_INPUTS, outputs=_VLLM_OUTPUTS, source=("vllm_backend", "Vllm"), batch=0),
    "llmapi": _Model(inputs=_LLMAPI_INPUTS, outputs=_LLMAPI_OUTPUTS, source=("llmapi", "Llmapi"), batch=0),
}


def write(folder: Path, kinds: Mapping[str, str]) -> None:
    """Write models: the name that Triton is to know each by, and which of MODELS it is."""
    for name, kind in kinds.items():
        model, version = MODELS[kind], folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(_config(name, model), encoding="ascii")
        if model.source[0]:
            program = _PROGRAM.format(str(MODULES), *model.source)
            (version / "model.py").write_text(program, encoding="utf-8")


def _described(tensor: Tensor) -> str:
    name, kind, rest = tensor
    return f'{{ name: "{name}" data_type: TYPE_{kind} {rest} }}'


def _config(name: str, model: _Model) -> str:
    inputs, outputs = ", ".join(map(_described, model.inputs)), ", ".join(map(_described, model.outputs))
    lines = [f'name: "{name}"', f"max_batch_size: {model.batch}", f"input [ {inputs} ]", f"output [ {outputs} ]"]
    lines.append(model.more)
    if model.source[0]:
        lines += [
            'backend: "python"',
            f"model_transaction_policy {{ decoupled: {str(model.decoupled).lower()} }}",
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
            *(f'parameters: {{ key: "{key}" value: {{ string_value: "true" }} }}' for key in model.parameters),
        ]
    else:
        lines.append('platform: "ensemble"')
    return "\n".join(filter(None, lines)) + "\n"
