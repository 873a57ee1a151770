"""What a response is by its labels, and by what its body begins with where these can't be believed.

There are proxies, and engines, that mislabel their streams: as JSON, not at all, or twice (a Triton did).
"""

from __future__ import annotations

import logging
import re

from ..api import Reason, Upstream
from ..dialect import Fault
from ..transport import Exchange
from ..waiting import Steps
from .reports import REPORTS, logged
from .worker import Worker

__all__ = ["is_event_stream"]

BLANK = 200  # bytes of blank lines before the first field that are borne
SHOWN = 80  # characters of a label
MARK = b"\xef\xbb\xbf"
FIELDS = (b"data", b"event", b"id", b"retry")
_field = re.compile(rb":|(?:data|event|id|retry)[:\r\n]").match


def is_event_stream(exchange: Exchange, worker: Worker) -> Steps[bool]:
    """Whether the body is server-sent events. A label that says so is believed, any other is not.

    Raises Fault where the body is coded, which nobody asked for.
    """
    if exchange.codings.names:
        raise Fault(
            Reason.PROTOCOL,
            f"the body is coded ({exchange.codings.said}), which was not asked for: is a proxy between?",
            upstream=Upstream(status=exchange.status),
        )
    label = exchange.headers.get("content-type", "")
    coding = exchange.headers.get("content-encoding", "")
    if _says_events(label) and coding.strip(" \t").lower() in ("", "identity"):
        return True
    begun = yield from exchange.peek(lambda begun: _begins_events(begun) is not None)
    if not _begins_events(begun):
        return False
    _warn(worker, label, coding)
    return True


def _says_events(label: str) -> bool:
    """Of two labels, joined by a comma, none is believed."""
    return "," not in label and label.partition(";")[0].strip(" \t").lower() == "text/event-stream"


def _begins_events(start: bytes) -> bool | None:
    """Whether these are the first bytes of an event stream; None: that takes more of them."""
    if MARK.startswith(start):
        return None
    text = start.removeprefix(MARK).lstrip(b"\r\n")
    if _field(text):
        return True
    undecided = any(field.startswith(text) for field in FIELDS) if text else len(start) < BLANK
    return None if undecided else False


def _warn(worker: Worker, label: str, coding: str) -> None:
    """Once per adapter."""
    if worker.mislabelled:
        return
    worker.mislabelled = True
    said = f"Content-Type {label[:SHOWN]!a}" if label else "no Content-Type"
    if coding:
        said += f" and Content-Encoding {coding[:SHOWN]!a}"
    REPORTS.add(
        logged,
        logging.WARNING,
        "%s labels its event stream with %s: taken for one by its first bytes",
        worker.dialect.name,
        worker.redactor.clean(said),
        extra={"engine": worker.dialect.name, "pool_id": worker.pool_id, "replica_id": worker.replica_id},
    )
