"""TensorRT-LLM's C++ backend behind Triton: the `ensemble` and `tensorrt_llm_bls` models of inflight_batcher_llm."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import attrs

from ...api import Features, GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import CancelNotice, Dialect, Fault, Knob, Profile, Traits, WireRequest
from .errors import not_a_stream, parse_error
from .probes import NAME, health, identify, properties
from .request import UNSAFE, against_unchecked, post, refuse_missing, wire_id
from .routes import model_path
from .stream import appended, decode, replaced

__all__ = ["TRTLLM", "fitted", "is_mine"]

MODEL, LOGPROBS = "ensemble", "return_log_probs"
NO_WORDS = ("",)  # an empty list is refused where the input is required (v0.5), and a list of nothing is none
RENAMED = {"seed": "random_seed", "min_tokens": "min_length"}  # as releases up to 0.17 call them


def _words(stop: tuple[str, ...]) -> tuple[str, ...]:
    return stop or NO_WORDS


PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="max_tokens"),
        Knob(field="seed", wire="seed", note="`random_seed` where the model calls it that; unset would be 0 for all"),
        Knob(
            field="temperature",
            wire="temperature",
            neutral=1.0,
            greedy=1.0,
            note="without top_k or top_p it would have no effect",
        ),
        Knob(field="top_k", wire="top_k", neutral=0, greedy=1),
        Knob(field="top_p", wire="top_p", neutral=1.0, greedy=1.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(
            field="stop",
            wire="stop_words",
            neutral=NO_WORDS,
            convert=_words,
            note="BLS leaves them in: cut on our side",
        ),
        Knob(wire="bad_words", neutral=NO_WORDS),
        Knob(wire="beam_width", neutral=1),
        Knob(wire="length_penalty", neutral=1.0),
        Knob(wire="min_tokens", neutral=1, note="`min_length` where the model calls it that"),
    ),
)
OUTPUTS = {
    "stream": True,
    "exclude_input_in_output": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}


def is_mine(inputs: Collection[str]) -> bool:
    """Whether a model with these inputs speaks this dialect."""
    return {"text_input", "max_tokens"} <= {*inputs}


def encode(
    request: GenerateRequest, /, *, attempt: int, inputs: Collection[str] | None = None, named: bool = False
) -> WireRequest:
    """Tensors by name. What is no input of the model is not sent: it would be a request parameter, and ignored.

    `named`: with an id, by which `abort` ends it.
    """
    body: dict[str, Any] = {"text_input": request.prompt, **OUTPUTS, **sampling_fields(PROFILE, request)}
    if request.logprobs is not None:
        body[LOGPROBS] = True
    if inputs is not None:
        for new, old in RENAMED.items():
            if new not in inputs:
                body[old] = body[new]
        body = {name: value for name, value in body.items() if name in inputs}
    if named:
        body["id"] = wire_id(request, attempt)
    return post(request, MODEL, body)


def abort(request: GenerateRequest, /, *, attempt: int, engine: str) -> WireRequest:
    """`stop` on the model within the ensemble, which hands its id on (not so BLS, which makes one up).

    Its other inputs are required, and not read.
    """
    body = {
        "input_ids": [0],
        "input_lengths": 1,
        "request_output_len": 0,
        "stop": True,
        "id": wire_id(request, attempt),
    }
    return WireRequest.for_stream(model_path(engine, "/generate_stream"), body)


def check(request: GenerateRequest) -> None:
    """Refuse what can't be expressed."""
    if request.logprobs:
        raise Fault(
            Reason.UNSUPPORTED, "TensorRT-LLM tells no alternatives: logprobs=0 asks for those of the tokens alone"
        )


def _check(request: GenerateRequest, inputs: Collection[str]) -> None:
    check(request)
    refuse_missing(request, PROFILE, inputs, "stop")  # which we cut
    if request.logprobs is not None and LOGPROBS not in inputs:
        raise Fault(Reason.UNSUPPORTED, f"the model has no input {LOGPROBS}")


def _against_strict(request: GenerateRequest, inputs: Collection[str]) -> tuple[str, ...]:
    seedless = {"seed", "random_seed"}.isdisjoint(inputs)
    return against_unchecked(request) + (("the model has no input for a seed",) if seedless else ())


def fitted(inputs: Collection[str], *, accumulates: bool, engine: str | None = None) -> Dialect:
    """The dialect for a model with these inputs. `engine`: the model within an ensemble that takes `stop`."""
    return attrs.evolve(
        TRTLLM,
        encode=partial(encode, inputs=inputs, named=engine is not None),
        abort=None if engine is None else partial(abort, engine=engine),
        decode=partial(decode, mode=replaced if accumulates else appended, accumulates=accumulates),
        check=partial(_check, inputs=inputs),
        against_strict=partial(_against_strict, inputs=inputs),
    )


TRTLLM = Dialect(
    name=NAME,
    encode=encode,
    decode=decode,
    parse_error=parse_error,
    not_a_stream=not_a_stream,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(logprobs=True, adds_bos=True, engine_options=frozenset({"unchecked", UNSAFE})),
    # An ensemble generates to its end for nobody (disconnect_mid_ensemble_fin), a queued request keeps its place
    # (queued_after_disconnect): the least that can be promised of a model of which neither is known.
    traits=Traits(cancel=CancelNotice.NEVER_WHILE_QUEUED, ends_with_body=True, keep_alive=60.0, probe_interval=1.0),
    profile=PROFILE,
    max_seed=2**63 - 1,
    check=check,
    against_strict=against_unchecked,
)
