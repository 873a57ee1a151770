"""The sampling knobs of SGLang (`SamplingParams` in srt/sampling/sampling_params.py) that all releases of 0.5 know.

What is not sent is taken from the model's generation_config.json, or from the server's --preferred-sampling-params. A name
that a release does not know is a 400, so what the newest add (beam_width, watermark) is not sent.
"""

from __future__ import annotations

from ...dialect import Knob, Profile

__all__ = ["PROFILE"]

OPTION = "engine_options may set it"
CONSTRAINT = "a constraint of the request sets it"


def _all_is_minus_one(top_k: int) -> int:
    return top_k or -1


PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="max_new_tokens", note="null would be all that the context holds, left out 128"),
        Knob(field="seed", wire="sampling_seed", note="read by servers with --enable-deterministic-inference only"),
        Knob(field="temperature", wire="temperature", neutral=1.0, note="below 0.000001 the likeliest token is taken"),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(field="top_k", wire="top_k", neutral=-1, convert=_all_is_minus_one),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0, note="at most 2"),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
        Knob(
            field="logprobs",
            wire="top_logprobs_num",
            neutral=None,
            absent="none are asked for",
            note="beside sampling_params",
        ),
        Knob(wire="n", neutral=1),
        Knob(wire="min_new_tokens", neutral=0, note=OPTION),
        Knob(wire="stop_token_ids", neutral=(), note=f"{OPTION}; the model's own end tokens come on top"),
        Knob(wire="logit_bias", neutral=None, note=OPTION),
        Knob(wire="json_schema", neutral=None, note=CONSTRAINT),
        Knob(wire="regex", neutral=None, note=CONSTRAINT),
        Knob(wire="ebnf", neutral=None, note=CONSTRAINT),
        Knob(wire="structural_tag", neutral=None, note=OPTION),
        Knob(wire="custom_params", neutral=None, note=OPTION),
        Knob(wire="skip_special_tokens", neutral=True),
        Knob(wire="spaces_between_special_tokens", neutral=True),
        Knob(wire="no_stop_trim", neutral=False),
    ),
)
