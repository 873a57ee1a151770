"""A request to the mock, played: its answer with the faults that the request asks for."""

from __future__ import annotations

import msgspec

from ...api import GenerateRequest, Reason
from ...dialect import Fault, WireRequest
from ...faults import parse_many
from . import server
from .faulty import spoil

__all__ = ["answer", "check"]


def check(request: GenerateRequest) -> None:
    """Refuse options that can't be read."""
    options = request.engine_options
    try:
        parse_many(options.get("fault") or "")
    except ValueError as exc:
        raise Fault(Reason.VALIDATION, str(exc)) from exc
    rate = options.get("rate")
    if rate is not None and not (isinstance(rate, int | float) and rate > 0):
        raise Fault(Reason.VALIDATION, f"rate must be a number of tokens per second above 0, got {rate!r}")


def answer(wire: WireRequest) -> server.Answer:
    """What a scripted transport delivers for a request. A fault with `*n` strikes the first n attempts."""
    body = msgspec.json.decode(wire.body)
    faults = parse_many(body.get("fault") or "")
    attempt = body.get("attempt", 1)
    return spoil(server.answer(wire), [fault for fault in faults if attempt <= (fault.times or 1)])
