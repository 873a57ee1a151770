"""The sampling knobs of TGI (GenerateParameters in router/src/lib.rs), all of them.

`parameters` is always there: without it do_sample would be true, with it do_sample is false unless it says otherwise.
Any of temperature, top_k, top_p and typical_p makes it sample, whatever do_sample says; so none of them is sent with greedy.
"""

from __future__ import annotations

from ...dialect import Knob, Profile

__all__ = ["PROFILE"]

ABSENT = "absent means so, and {} is refused"


def _sampled(temperature: float) -> bool:
    return temperature > 0


def _or_none_listed(top: int | None) -> int:
    return top or 0


PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(
            field="max_tokens",
            wire="max_new_tokens",
            note="absent would be 100 until 2.4, and all there is room for since 3.0",
        ),
        Knob(field="temperature", wire="do_sample", convert=_sampled, neutral=True, greedy=False),
        Knob(
            field="temperature",
            wire="temperature",
            neutral=1.0,
            greedy=1.0,
            absent="absent means 1, and 0 is refused: do_sample says it",
        ),
        Knob(
            field="seed",
            wire="seed",
            greedy=None,
            note="unsigned, 64 bits; none with greedy, where nothing is drawn",
        ),
        Knob(field="top_p", wire="top_p", neutral=1.0, greedy=1.0, absent=ABSENT.format("1")),
        Knob(field="top_k", wire="top_k", neutral=0, greedy=0, absent=ABSENT.format("0")),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0, note="ignored before 1.4"),
        Knob(field="stop", wire="stop", neutral=(), note="the engine leaves it in the text: it is cut on our side"),
        Knob(field="logprobs", wire="top_n_tokens", convert=_or_none_listed, neutral=0, note="at most 5"),
        Knob(wire="typical_p", neutral=1.0, absent=ABSENT.format("1"), note="engine_options may set it"),
        Knob(wire="truncate", neutral=None, absent="null, which is the same", note="engine_options may set it"),
        Knob(wire="watermark", neutral=False, note="engine_options may set it"),
        Knob(wire="best_of", neutral=1, note="more is refused in a stream"),
        Knob(wire="return_full_text", neutral=False),
        Knob(wire="decoder_input_details", neutral=False, note="true is refused in a stream"),
        Knob(wire="details", neutral=True, note="without it there is no finish reason"),
    ),
)
