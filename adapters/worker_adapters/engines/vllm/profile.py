"""The sampling knobs of vLLM (CompletionRequest in entrypoints/openai/completion/protocol.py), all of them.

What is not sent is taken from the model's generation_config.json: temperature, top_p, top_k, min_p, repetition_penalty.
"""

from __future__ import annotations

from ...dialect import Knob, Profile

__all__ = ["PROFILE"]

OPTION = "engine_options may set it"

PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="max_tokens", note="null would be 16; cut in silence to what fits the context"),
        Knob(field="seed", wire="seed", note="signed, 64 bits; -1 means none"),
        Knob(
            field="temperature",
            wire="temperature",
            neutral=1.0,
            note="0 takes the likeliest token; what is below 0.01 would be raised to it, and is refused",
        ),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(field="top_k", wire="top_k", neutral=0),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
        Knob(field="logprobs", wire="logprobs", neutral=None),
        Knob(wire="n", neutral=1),
        Knob(wire="min_tokens", neutral=0, note=OPTION),
        Knob(wire="stop_token_ids", neutral=(), note=f"{OPTION}; the model's own end tokens come on top"),
        Knob(wire="bad_words", neutral=(), note=OPTION),
        Knob(wire="logit_bias", neutral=None, note=OPTION),
        Knob(wire="allowed_token_ids", neutral=None, note=OPTION),
        Knob(wire="repetition_detection", neutral=None, note=OPTION),
        Knob(wire="thinking_token_budget", neutral=None, note=OPTION),
        Knob(wire="truncate_prompt_tokens", neutral=None, note=OPTION),
        Knob(wire="truncation_side", neutral=None, note=OPTION),
        Knob(wire="add_special_tokens", neutral=True, note=f"{OPTION}. BOS before a prompt in text"),
        Knob(wire="use_beam_search", neutral=False),
        Knob(wire="length_penalty", neutral=1.0, note="means nothing without beams"),
        Knob(wire="watermarking", neutral=None, note="left to the server: no request can switch it off"),
        Knob(wire="echo", neutral=False),
        Knob(wire="suffix", neutral=None),
        Knob(wire="skip_special_tokens", neutral=True),
        Knob(wire="spaces_between_special_tokens", neutral=True),
        Knob(wire="include_stop_str_in_output", neutral=False),
    ),
)
