"""Response heads: what is a stream, and what a reply that is none says."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from ..api import Reason, Upstream
from ..dialect import Dialect, Fault, Reply, fault_of_status, redirected
from ..transport import REFUSAL_SECONDS, Exchange
from ..waiting import Steps
from ..wordings import is_error, status_in, wait_told
from .labels import is_event_stream
from .worker import Worker

__all__ = ["refused", "require_event_stream", "retry_after", "said"]

SHOWN = 200  # bytes of a strange body that an error shows
SINCE_1970 = 1.4e9  # seconds, of 2014: nobody is asked to wait for 44 years
LONGEST = 86400.0  # seconds; a server that asks for more is as good as gone, and its number may be beyond all bounds


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, or `Retry-After` (RFC 9110, 10.2.3: seconds or an HTTP date).

    Counted by the response's own clock, its `Date`, where it has one: ours may be wrong, or theirs. A number of seconds
    that is a time since 1970 is taken for one. At most a day. Anything else (negative, NaN, words, dates that are not
    in GMT) is as if it were not there.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(max(0.0, seconds - _now(headers)) if seconds >= SINCE_1970 else seconds, LONGEST)
    until = _date(headers.get("retry-after", ""))
    return None if until is None else min(max(0.0, until - _now(headers)), LONGEST)


def _now(headers: Mapping[str, str]) -> float:
    told = _date(headers.get("date", ""))
    return time.time() if told is None else told


def _date(text: str) -> float | None:
    """An HTTP date, which is in GMT, as Unix time."""
    text = text.strip()
    if not text.endswith(" GMT") or len(text) > 40:
        return None
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  -- dear to import, and dates are rare

    try:
        return parsedate_to_datetime(text).timestamp()
    except Exception:  # noqa: BLE001  -- a parser fed by strangers: email.utils promises ValueError and raises more
        return None


def refused(exchange: Exchange, dialect: Dialect, limit: int) -> Steps[Fault]:
    """The fault that a status other than 200 stands for. Its body may stall: what counts stands in the head."""
    status = exchange.status
    if 300 <= status < 400:
        return redirected(Reply(status=status, headers=exchange.headers, body=b""))
    body = yield from exchange.read(limit, REFUSAL_SECONDS)
    fault = _classified(dialect, Reply(status=status, headers=exchange.headers, body=body))
    if not exchange.codings.known:
        fault.message += f"; what it says can't be read ({exchange.codings.said})"
    return fault


def said(text: bytes, exchange: Exchange, dialect: Dialect) -> Fault | None:
    """The engine's error that came under a 200 where an event was due, without the framing of one; None if it is none."""
    body = text.strip()
    if not body.startswith(b"{") or not is_error(body):
        return None
    status = status_in(body) or exchange.status
    return _classified(dialect, Reply(status=status, headers=exchange.headers, body=body))


def _classified(dialect: Dialect, reply: Reply) -> Fault:
    try:
        fault = dialect.parse_error(reply)
    except (ArithmeticError, RecursionError, ValueError):  # a body made to break who reads it: the status counts
        fault = fault_of_status(dialect.name, reply)
    if fault.retry_after is None:
        fault.retry_after = retry_after(reply.headers)
    if fault.retry_after is None and fault.reason in (Reason.LOADING, Reason.OVERLOADED):
        fault.retry_after = wait_told(reply.body)
    return fault


def require_event_stream(exchange: Exchange, worker: Worker) -> Steps[None]:
    """Raise Fault unless the body is server-sent events, uncoded; say what it is instead."""
    if (yield from is_event_stream(exchange, worker)):
        return
    dialect, kind = worker.dialect, exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
    start = yield from exchange.read(worker.limits.max_error_body, REFUSAL_SECONDS)
    if not start:
        raise Fault(Reason.EMPTY, "the server answered 200 with an empty body", upstream=Upstream(status=200))
    if fault := dialect.not_a_stream(Reply(status=exchange.status, headers=exchange.headers, body=start)):
        raise fault
    if fault := said(start, exchange, dialect):
        raise fault
    text = start[:SHOWN].decode("utf-8", "replace")
    raise Fault(
        Reason.PROTOCOL,
        f"the server answered 200 with {kind or 'no content type'} instead of text/event-stream: is this URL the engine's?",
        upstream=Upstream(status=200, message=text),
    )
