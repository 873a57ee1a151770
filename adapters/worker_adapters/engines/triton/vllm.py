"""vLLM's backend for Triton: text_input, and everything about sampling as JSON in one string."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from typing import Any

import attrs

from ...api import Features, GenerateRequest, Reason
from ...determinism import sampling_fields
from ...dialect import CancelNotice, Dialect, Fault, Knob, Profile, Traits, WireRequest
from .errors import not_a_stream, parse_error
from .probes import NAME, health, identify, properties
from .request import UNSAFE, against_unchecked, post
from .stream import decode

__all__ = ["VLLM", "fitted", "is_mine"]

MODEL = "vllm_model"
SAMPLING, LOGPROBS, REASON = "sampling_parameters", "return_logprobs", "return_finish_reason"


def _all_as_minus_one(top_k: int) -> int:
    return top_k or -1


PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="max_tokens", note="unset would be 16"),
        Knob(field="seed", wire="seed"),
        Knob(field="temperature", wire="temperature", neutral=1.0, note="0 takes the likeliest token"),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(
            field="top_k",
            wire="top_k",
            neutral=-1,
            convert=_all_as_minus_one,
            note="0 is refused by the vLLM of older releases, -1 by none",
        ),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
        Knob(field="logprobs", wire="logprobs", neutral=None, absent="null is no number to the backend"),
        Knob(wire="n", neutral=1),
        Knob(wire="min_tokens", neutral=0),
        Knob(wire="stop_token_ids", neutral=()),
        Knob(wire="include_stop_str_in_output", neutral=False),
        Knob(wire="skip_special_tokens", neutral=True),
    ),
)
# A stream with exclude_input_in_output false is refused.
OUTPUTS = {
    "stream": True,
    "exclude_input_in_output": True,
    REASON: True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}
ALWAYS = frozenset({"text_input", "stream", SAMPLING})


def is_mine(inputs: Collection[str]) -> bool:
    """Whether a model with these inputs speaks this dialect."""
    return {"text_input", SAMPLING} <= {*inputs}


def encode(request: GenerateRequest, /, *, attempt: int, inputs: Collection[str] | None = None) -> WireRequest:  # noqa: ARG001  -- Encoder's signature; no id is sent
    """One JSON string of sampling parameters: lists can't be request parameters, and beside it those are ignored.

    A flag that is no input would be one, and vLLM's backend refuses whatever it does not know.
    """
    fields, outputs = sampling_fields(PROFILE, request), dict(OUTPUTS)
    if _weighs(request):
        fields["logprobs"], outputs[LOGPROBS] = request.logprobs or 0, True
    sampling = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    body: dict[str, Any] = {"text_input": request.prompt, **outputs, SAMPLING: sampling}
    if inputs is not None:
        body = {name: value for name, value in body.items() if name in inputs or name in ALWAYS}
    return post(request, MODEL, body)


def _weighs(request: GenerateRequest) -> bool:
    """Whether logprobs are wanted, or token ids, which come with them only."""
    return request.logprobs is not None or request.return_token_ids


def _check(request: GenerateRequest, inputs: Collection[str]) -> None:
    if _weighs(request) and LOGPROBS not in inputs:
        raise Fault(Reason.UNSUPPORTED, f"the model has no input {LOGPROBS}: it can't tell logprobs or token ids")


def fitted(inputs: Collection[str]) -> Dialect:
    """The dialect for a model with these inputs: releases of 2024 have no return_*."""
    return attrs.evolve(
        VLLM,
        encode=partial(encode, inputs=inputs),
        check=partial(_check, inputs=inputs),
        decode=partial(decode, reasoned=REASON in inputs),
        traits=attrs.evolve(VLLM.traits, ends_with_body=REASON not in inputs),
    )


VLLM = Dialect(
    name=NAME,
    encode=encode,
    decode=partial(decode, reasoned=True),
    parse_error=parse_error,
    not_a_stream=not_a_stream,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(
        min_p=True,
        logprobs=True,
        token_ids=True,
        ignore_eos=True,
        adds_bos=True,
        engine_options=frozenset({"unchecked", UNSAFE}),
    ),
    # A closed connection is noticed when the next response is written to it; before the first there is none.
    traits=Traits(cancel=CancelNotice.NEXT_WRITE, keep_alive=60.0, probe_interval=1.0),
    profile=PROFILE,
    max_seed=2**63 - 1,
    against_strict=against_unchecked,
)
