"""The determinism key: what has to be the same for the same answer to be promised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import attrs

from ..api import GenerateRequest, Started

__all__ = ["DeterminismKey", "determinism_key"]

IDS = b"\xff"  # which no text begins with: "[1, 2]" is another prompt than two token ids

# What is no parameter of the text: who asks, how long they wait, what is told beside the text, and what has a field of its
# own in the key.
BESIDE = frozenset(
    {
        "correlation_id",
        "deadline",
        "determinism",
        "logprobs",
        "model",
        "on_degraded",
        "priority",
        "prompt",
        "prompt_tokens",
        "return_token_ids",
        "sampler_profile_version",
        "seed",
        "session_id",
        "task_id",
    }
)


@attrs.frozen(kw_only=True)
class DeterminismKey:
    """A value to print, store and compare. It holds the prompt's digest, never the prompt.

    Two answers with equal keys are the same within a replica set where `Started.determinism` says strict, if the keys are
    `complete`: what an engine does not tell (None) is compared as unknown, and promises nothing. `parameters` are those that
    differ from the request's defaults, as JSON.
    """

    engine: str
    engine_version: str | None
    model: str | None
    model_digest: str | None
    trtllm_version: str | None
    seed: int
    sampler_profile_version: str
    prompt_digest: str
    parameters: str

    @property
    def complete(self) -> bool:
        """Whether version and model are known."""
        return self.engine_version is not None and self.model_digest is not None

    @property
    def digest(self) -> str:
        """sha256 of the key, in hex."""
        return sha256(_canonical(attrs.asdict(self)).encode()).hexdigest()

    def __str__(self) -> str:
        shown = {
            self.engine: self.engine_version,
            "model": self.model,
            "model_digest": self.model_digest,
            **({"trtllm": self.trtllm_version} if self.trtllm_version else {}),
            "profile": self.sampler_profile_version,
            "seed": self.seed,
            "prompt": f"sha256:{self.prompt_digest[:16]}",
            "parameters": f"sha256:{sha256(self.parameters.encode()).hexdigest()[:16]}",
        }
        return " ".join(f"{name}={'?' if value is None else value}" for name, value in shown.items())


def determinism_key(started: Started, request: GenerateRequest) -> DeterminismKey:
    """The key of an answer: what `started` says of worker and seed, and what of `request` decides on the text."""
    fields = [field for field in attrs.fields(GenerateRequest) if field.name not in BESIDE]
    given = {
        field.name: getattr(request, field.name) for field in fields if getattr(request, field.name) != field.default
    }
    return DeterminismKey(
        engine=started.engine,
        engine_version=started.engine_version,
        model=started.model or request.model,
        model_digest=started.model_digest,
        trtllm_version=started.trtllm_version,
        seed=started.seed,
        sampler_profile_version=started.sampler_profile_version,
        prompt_digest=_digest_of_prompt(request),
        parameters=_canonical({name: _number(value) for name, value in given.items()}),
    )


def _number(value: Any) -> Any:
    """2 is 2.0 wherever it stands for a number."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _digest_of_prompt(request: GenerateRequest) -> str:
    if request.prompt_tokens is not None:
        return sha256(IDS + json.dumps(list(request.prompt_tokens)).encode()).hexdigest()
    return sha256((request.prompt or "").encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)  # in the same order in every process
    return list(value) if isinstance(value, tuple) else str(value)
