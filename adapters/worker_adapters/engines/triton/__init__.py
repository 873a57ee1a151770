"""NVIDIA Triton's generate extension, in three dialects (facts and transcripts: docs/engines/triton.md).

`DIALECT` finds out which one the model speaks when the first stream asks; the others are named by the caller, and hold the
model to it. All have the name of the engine: which one it is shows in nothing but the requests.
"""

from __future__ import annotations

from functools import partial

import attrs

from ...api import Features, GenerateRequest
from ...dialect import Dialect
from . import llmapi, probes, resolve, trtllm, vllm

__all__ = ["DIALECT", "LLMAPI", "TRTLLM", "VLLM"]


def _named(dialect: Dialect, name: str) -> Dialect:
    """Held to what the caller calls it, whose model has a name by default: for streams and probes alike."""
    default = resolve.DEFAULT_MODELS[name]
    return attrs.evolve(
        dialect,
        resolve=partial(resolve.resolve, named=name),
        health=partial(probes.health, default=default),
        properties=partial(probes.properties, default=default),
    )


VLLM = _named(vllm.VLLM, resolve.VLLM)
TRTLLM = _named(trtllm.TRTLLM, resolve.TRTLLM)
LLMAPI = _named(llmapi.LLMAPI, resolve.LLMAPI)


def _judged_later(_request: GenerateRequest) -> None:
    """By the dialect that is found."""


# What any of the three can express, and the least that all promise; the one found judges again. The table of knobs is
# that of vLLM's backend because it has them all; nothing is encoded from it.
DIALECT = attrs.evolve(
    vllm.VLLM,
    resolve=resolve.resolve,
    traits=TRTLLM.traits,
    features=Features(
        min_p=True,
        logprobs=True,
        token_ids=True,
        ignore_eos=True,
        adds_bos=True,
        engine_options=VLLM.features.engine_options | TRTLLM.features.engine_options | LLMAPI.features.engine_options,
    ),
    check=_judged_later,
)
