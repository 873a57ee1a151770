"""What scripted faults do to one exchange. Bytes go through `Out` and time passes there or in the job: never here."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from worker_adapters.codec import encode

from ..faults import FaultSpec, Place, parse_many
from .seam import RefusedError, Reply, Wording

if TYPE_CHECKING:
    from .exchange import Out

__all__ = ["Trouble", "brought", "refusal", "stumbled"]

_LOG = logging.getLogger("worker_adapters.simulator")

NO_HTTP = b"220 mail.example ESMTP ready\r\n\r\n"
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
)
NO_EVENT = b"\x00\xff\xfe upstream went away \x80\n\n"
PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>\n"

Stall: TypeAlias = Callable[[float], None]


def brought(header: str) -> tuple[FaultSpec, ...]:
    """The faults that a request brings along. Raises ValueError, also for those that must come sooner."""
    faults = parse_many(header)
    for fault in faults:
        if fault.place is Place.ACCEPT:
            raise ValueError(f"fault '{fault}': a request comes too late to act at accept")
    return faults


def refusal(status: int, text: str, *headers: tuple[str, str]) -> Reply:
    """What something in front of an engine would say; the content type follows the text."""
    kind = {"<": "text/html", "{": "application/json"}.get(text[:1], "text/plain")
    return Reply(status=status, headers=(("Content-Type", f"{kind}; charset=utf-8"), *headers), body=text.encode())


def stumbled(wording: Wording, error: Exception) -> RefusedError:
    """An exception that nobody foresaw, in the engine's words; no thread tells of it. The log does, at level DEBUG."""
    _LOG.debug("an answer of the simulator failed", exc_info=error)
    return wording.failure(f"{type(error).__name__}: {error}")


@attrs.define(kw_only=True, eq=False)
class Trouble:
    """The faults of one exchange, those that have not acted yet; `fired` is told of each that begins to.

    Events go through `event`, so that faults stand between them. Used by the connection's thread only.
    """

    faults: Sequence[FaultSpec]
    out: Out
    wording: Wording
    fired: Callable[[str], None]
    _tokens: int = 0
    _ended: bool = False
    _last: bytes = b""
    _sign: list[bytes] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.faults = list(self.faults)
        self.out.next_break = self._next_break

    def before(self) -> Reply | None:
        """Act in front of the answer, and choose the one to give instead of the engine's, if any.

        Blocks. Raises GoneError and BrokenError.
        """
        if any(fault.kind == "eof" for fault in self.faults):
            self.out.framed = False
        for fault in [fault for fault in self.faults if fault.place is Place.HEAD]:
            reply = self._act_before(self._take(fault))
            if reply is not None:
                return reply
        return None

    def dressed(self, reply: Reply) -> Reply:
        """The reply as it goes out, compressed if it shall be."""
        if self.out.zipper is None:
            return reply
        encoded = attrs.evolve(reply, headers=(*reply.headers, ("Content-Encoding", "gzip")))
        if not reply.body or reply.chunked:
            return encoded
        return attrs.evolve(encoded, body=gzip.compress(reply.body, mtime=0))

    def event(self, payload: bytes, *, sign: bool, stall: Stall) -> None:
        """Send one event of a stream, with all that happens before it or to it; `sign`: it belongs to the end sign."""
        for fault in self._due(payload, end=sign):
            payload = self._act(self._take(fault), payload, stall)
        self._tokens += 1
        if sign:
            self._ended = True
            self._sign.append(payload)
        else:
            self._last = payload
        self.out.event(payload)

    def token(self, *, last: bool, stall: Stall) -> None:
        """One more token of an answer that is sent whole: what needs an event to act on does not act."""
        for fault in self._due(None, end=last):
            self._act(self._take(fault), b"", stall)
        self._tokens += 1

    def finish(self, stall: Stall) -> None:
        """All events of a stream are sent, the end of its body is not."""
        for fault in list(self.faults):
            if fault.kind in AFTER_END:
                extra = self._sign if fault.kind == "dup-end" else [self._last] * cast(int, fault.value)
                self._take(fault)
                for payload in extra:
                    self.out.event(payload)
            elif fault.place is Place.END and not self._ended:
                self._act(self._take(fault), b"", stall)

    def _take(self, fault: FaultSpec) -> FaultSpec:
        self.faults = [other for other in self.faults if other is not fault]
        self.fired(fault.kind)
        return fault

    def _due(self, payload: bytes | None, *, end: bool) -> list[FaultSpec]:
        return [
            fault
            for fault in self.faults
            if fault.kind not in AFTER_END
            and (end if fault.place is Place.END else fault.place is Place.TOKEN and fault.at <= self._tokens)
            and (payload is not None or fault.kind in WITHOUT_EVENT)
            and (fault.kind != "half-char" or (payload is not None and not payload.isascii()))
        ]

    def _next_break(self, end: int) -> tuple[int, Callable[[], None]] | None:
        """See Out.next_break."""
        due = [fault for fault in self.faults if fault.place is Place.BYTE and fault.at < end]
        if not due:
            return None
        fault = min(due, key=lambda one: one.at)
        return fault.at, lambda: self._act_at_byte(self._take(fault))

    def _act_at_byte(self, fault: FaultSpec) -> None:
        if fault.kind == "stall":
            self.out.pause(cast(float, fault.value))
        elif fault.kind == "trickle":
            self.out.interval = cast(float, fault.value)
        elif fault.kind == "garbage":
            self.out.interim(_garbage(fault, NO_EVENT))
        else:
            self.out.leave(reset=fault.kind == "reset")

    def _act_before(self, fault: FaultSpec) -> Reply | None:
        """What acts in front of a head; the reply, if it is to be given."""
        if fault.kind == "garbage":
            self.out.interim(_garbage(fault, NO_HTTP))
            self.out.leave()
        elif fault.kind == "interim":
            for number in range(cast(int, fault.value)):
                self.out.interim(INTERIM[number % len(INTERIM)])
        elif fault.kind == "gzip":
            self.out.zipper = zlib.compressobj(wbits=31)
        elif fault.kind in REPLIES:
            return REPLIES[fault.kind](fault, self.wording)
        else:
            self._act_at_byte(fault)
        return None

    def _act(self, fault: FaultSpec, payload: bytes, stall: Stall) -> bytes:
        """What acts in front of an event, or on it; the event as it is to be sent."""
        out = self.out
        out.flush()
        match fault.kind:
            case "stall":
                stall(cast(float, fault.value))
            case "cut" | "half-char":
                half = len(payload) // 2
                first = next((at for at, byte in enumerate(payload) if byte >= 0x80), half)
                out.part(payload, half if fault.kind == "cut" else first + 1)
                out.leave()
            case "error":
                raise self.wording.failure(str(fault.value or self.wording.broken))
            case "garbage":
                out.chunk(_garbage(fault, NO_EVENT))
            case "not-json":
                out.chunk(encode(None, str(fault.value).encode()))
            case "comments":
                while True:
                    out.chunk(self.wording.comment)
                    out.pause(cast(float, fault.value))
            case "huge":
                # JSON may have any amount of space behind it: one event, and still the engine's.
                said = payload.rstrip(b"\r\n")
                return said + b" " * (cast(int, fault.value) - len(payload)) + payload[len(said) :]
            case _:
                self._act_at_byte(fault)
        return payload


def _garbage(fault: FaultSpec, default: bytes) -> bytes:
    return default if fault.value is None else str(fault.value).encode("utf-8", "surrogatepass")


def _overloaded(_fault: FaultSpec, wording: Wording) -> Reply:
    return wording.overloaded or refusal(503, "Service Unavailable\n")


def _busy(fault: FaultSpec, _wording: Wording) -> Reply:
    if fault.value is None:
        return refusal(429, "Too Many Requests\n")
    text = str(fault.value)
    name = "Retry-After-Ms" if text.startswith("ms=") else "Retry-After"
    return refusal(429, "Too Many Requests\n", (name, text.removeprefix("ms=")))


def _status(fault: FaultSpec, _wording: Wording) -> Reply:
    status, body = cast("tuple[int, str]", fault.value)
    phrase = next((known.phrase for known in HTTPStatus if known == status), "Odd Status")
    return refusal(status, body or PAGE.format(f"{status} {phrase}"))


AFTER_END = frozenset({"dup-end", "after-end"})
WITHOUT_EVENT = frozenset({"stall", "reset", "close", "error", "trickle"})
REPLIES: dict[str, Callable[[FaultSpec, Wording], Reply]] = {
    "loading": lambda _, wording: wording.loading,
    "overloaded": _overloaded,
    "busy": _busy,
    "status": _status,
    "redirect": lambda fault, _: refusal(307, "Moved\n", ("Location", str(fault.value))),
    "html": lambda fault, _: refusal(200, str(fault.value or PAGE.format("Welcome"))),
    "error": lambda fault, wording: wording.failure(str(fault.value or wording.broken)).reply,
}
