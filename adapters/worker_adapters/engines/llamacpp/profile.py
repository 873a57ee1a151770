"""The sampling knobs of llama-server (make_llama_cmpl_schema in server-schema.cpp), all of them."""

from __future__ import annotations

from ...dialect import Knob, Profile

__all__ = ["PROFILE"]

# In the server's default order, which decides what a sampler gets to see (common_params_sampling).
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
OFF_WITH = "means nothing while {} is off"


def _or_none_listed(top: int | None) -> int:
    return top or 0  # no lambda: adapters are pickled with their dialect


PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="n_predict", note="0 would generate one token, and -1 would never end"),
        Knob(field="seed", wire="seed", note="wraps at 2³² in silence, and 4294967295 means random"),
        Knob(field="temperature", wire="temperature", neutral=1.0, note="0 takes the likeliest token"),
        Knob(field="top_k", wire="top_k", neutral=0),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repeat_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=(), note="none: the server's own --reverse-prompt, if it has one"),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
        Knob(field="logprobs", wire="n_probs", neutral=0, convert=_or_none_listed),
        Knob(wire="samplers", neutral=SAMPLERS, note="which there are, in which order"),
        Knob(wire="dynatemp_range", neutral=0.0),
        Knob(wire="dynatemp_exponent", neutral=1.0, note=OFF_WITH.format("dynatemp_range")),
        Knob(wire="top_n_sigma", neutral=-1.0),
        Knob(wire="xtc_probability", neutral=0.0),
        Knob(wire="xtc_threshold", neutral=0.1, note=OFF_WITH.format("xtc_probability")),
        Knob(wire="typical_p", neutral=1.0),
        Knob(
            wire="repeat_last_n",
            neutral=64,
            note="the window of the penalties. -1 (the context) is refused by builds of 2026 and taken by older ones",
        ),
        Knob(wire="dry_multiplier", neutral=0.0),
        Knob(wire="dry_base", neutral=1.75, note=OFF_WITH.format("dry_multiplier")),
        Knob(wire="dry_allowed_length", neutral=2, note=OFF_WITH.format("dry_multiplier")),
        Knob(wire="dry_penalty_last_n", neutral=0),
        Knob(wire="dry_sequence_breakers", neutral=("\n", ":", '"', "*"), note="must not be empty"),
        Knob(wire="mirostat", neutral=0),
        Knob(wire="mirostat_tau", neutral=5.0, note=OFF_WITH.format("mirostat")),
        Knob(wire="mirostat_eta", neutral=0.1, note=OFF_WITH.format("mirostat")),
        Knob(wire="adaptive_target", neutral=-1.0),
        Knob(wire="adaptive_decay", neutral=0.9, note=OFF_WITH.format("adaptive_target")),
        Knob(wire="min_keep", neutral=0),
        Knob(wire="logit_bias", neutral=()),
        Knob(wire="lora", neutral=(), note="engine_options may name adapters"),
        Knob(wire="reasoning_budget_tokens", neutral=-1),
        Knob(wire="reasoning_control", neutral=False),
        Knob(wire="n_keep", neutral=0),
        Knob(wire="n_discard", neutral=0),
        Knob(wire="n_cache_reuse", neutral=0, note="shifts cached keys and values to where a prompt has them too"),
        Knob(wire="n_cmpl", neutral=1),
        Knob(wire="n_indent", neutral=0),
        Knob(wire="t_max_predict_ms", neutral=-1),
        Knob(wire="post_sampling_probs", neutral=False),
        Knob(wire="backend_sampling", neutral=False),
        Knob(wire="timings_per_token", neutral=False),
        Knob(wire="return_progress", neutral=False),
    ),
)
