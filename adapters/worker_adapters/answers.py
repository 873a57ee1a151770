"""JSON that a worker answers a probe with: read within bounds, whoever wrote it. A pure function."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = ["Id", "Tokens", "json_of"]

MOST = 200_000  # values of a reply that is read whole: each costs up to 100 bytes, whatever it costs to send

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Tokens(msgspec.Struct):
    """What most tokenizer routes answer."""

    tokens: list[Id]


def json_of(body: bytes, kind: Any = Any) -> Any:
    """What the body says, or of it what `kind` names: only that is kept, whatever else is there.

    Raises ValueError for anything that can't be read: no JSON, another shape, nested too deeply, or too much of it.
    """
    if kind is Any and body.count(b",") + body.count(b"[") + body.count(b"{") > MOST:
        raise ValueError(f"it holds more than {MOST} values")
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
