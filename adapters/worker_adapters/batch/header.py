"""What answers depend on beside the row: told by the journal's header, and compared when a job is taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from ..api import Properties

__all__ = ["FORMAT", "difference", "header_of"]

FORMAT = 1
PROFILE = "v1"


def header_of(
    parameters: Mapping[str, Any], facts: Iterable[Properties], template_digest: str | None
) -> dict[str, Any]:
    """The header. What no worker tells is not in it."""
    models = sorted({found.model_digest or found.model or "" for found in facts} - {""})
    header: dict[str, Any] = {
        "format": FORMAT,
        "profile": parameters.get("sampler_profile_version", PROFILE),
        "parameters": dict(parameters),
        "models": models,
        "template": template_digest,
    }
    header["fingerprint"] = sha256(msgspec.json.encode(header, order="deterministic")).hexdigest()
    return header


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """In what a job differs from the one whose journal it is; None if it goes on with it.

    A worker that could not be asked tells no model: only one that is known and was not there before makes a difference.
    """
    for name in ("format", "profile", "template"):
        if old.get(name) != new.get(name):
            return f"{name}: it was {old.get(name)}, now it is {new.get(name)}"
    before, now = old.get("parameters") or {}, new.get("parameters") or {}
    # Through JSON, as it was written: tuples are lists there.
    now = msgspec.json.decode(msgspec.json.encode(now))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{name}: it was {before.get(name)}, now it is {now.get(name)}"
    models = set(old.get("models") or ())
    others = set(new.get("models") or ()) - models
    if models and others:
        return f"the model: it was {', '.join(sorted(models))}, now there is {', '.join(sorted(others))}"
    return None
