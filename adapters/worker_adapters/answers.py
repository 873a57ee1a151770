"""JSON that a worker answers a probe with: read within bounds, whoever wrote it. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
import msgspec

from .api import Reason
from .dialect import Fault, Probe, Reply, WireRequest

__all__ = ["Answers", "Id", "Tokens", "json_of"]

JSON = {"Content-Type": "application/json"}
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


@attrs.frozen
class Answers:
    """Of one engine: what becomes of a reply that is no 200, and who should have answered ("a llama-server")."""

    parse_error: Callable[[Reply], Fault]
    who: str

    def read(self, reply: Reply, target: str, kind: Any = Any) -> Any:
        """See json_of. Raises Fault."""
        if reply.status != 200:
            raise self.parse_error(reply)
        try:
            return json_of(reply.body, kind)
        except ValueError as exc:
            raise Fault(Reason.PROTOCOL, f"{target} did not answer in JSON: is this {self.who}?") from exc

    def ask(self, wire: WireRequest, kind: Any = Any) -> Probe[Any]:
        """Send a request and read its reply."""
        return self.read((yield wire), wire.target, kind)

    def post(self, target: str, body: Mapping[str, Any], kind: Any = Any, *, model: str | None = None) -> Probe[Any]:
        """Send this as JSON, with the model that is meant, and read the reply."""
        encoded = msgspec.json.encode(body if model is None else {**body, "model": model})
        return (yield from self.ask(WireRequest(method="POST", target=target, headers=JSON, body=encoded), kind))
