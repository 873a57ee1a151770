"""The dialects under fault: whatever the registry names, with the folders of transcripts that there are for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from worker_adapters import registry
from worker_adapters.testing import Transcripts

if TYPE_CHECKING:
    from worker_adapters.dialect import Dialect

__all__ = ["RECORDED", "SUBJECTS", "TRANSCRIPTS", "Subject", "chunked"]

REASON = re.compile(rb'"finish_reason":"(stop|length)"')
TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts"


def chunked(data: bytes, *, end: bool = True) -> bytes:
    """One chunk, and the terminator unless the body is to be left open."""
    return b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if end else b"") if data else b""


@attrs.frozen
class Subject:
    """One dialect, and the recorded stream that the faults are put into."""

    name: str
    dialect: Dialect
    transcripts: Transcripts
    model: str | None

    @property
    def good(self) -> str:
        return self.transcripts.good()

    @property
    def frames(self) -> list[bytes]:
        """Each with the comments before it."""
        return re.findall(rb"(?::.*?\n\n)*(?!:).*?\n\n", self.transcripts.recorded(self.good).body, re.DOTALL)

    @property
    def proof(self) -> int:
        """The frame that is the engine's own sign of the end; where the end of the body is, the one after the last."""
        told = next((n for n, frame in enumerate(self.frames) if REASON.search(frame)), None)
        if self.dialect.traits.ends_with_body:  # of the dialect that is not told yet: two of the three have a reason
            return len(self.frames) if told is None else told
        proven = self.transcripts.proven(b"".join(self.frames))
        return next(n for n in range(len(self.frames)) if len(b"".join(self.frames[: n + 1])) >= proven)

    @property
    def half(self) -> int:
        """Frames that have begun the stream and do not end it."""
        return max(1, self.proof // 2)

    def head(self, *lines: str, status: str = "200 OK", drop: str = "-") -> bytes:
        """The recorded head, as one without framing headers; `lines` are added."""
        recorded = self.transcripts.recorded(self.good).headers
        kept = [
            f"{name}: {value}"
            for name, value in recorded.items()
            if name not in ("transfer-encoding", "content-length", "connection", "keep-alive", drop)
        ]
        return "\r\n".join([f"HTTP/1.1 {status}", *kept, *lines, "", ""]).encode()

    def answer(self, *frames: bytes, end: bool = True) -> bytes:
        """A 200 in chunks, one per frame."""
        body = b"".join(chunked(frame, end=False) for frame in frames)
        return self.head("transfer-encoding: chunked") + body + (b"0\r\n\r\n" if end else b"")

    def replayed(self, name: str) -> bytes:
        """A recorded answer, be it a stream or not."""
        recorded = self.transcripts.recorded(name)
        head = [f"HTTP/1.1 {recorded.status} -", f"content-length: {len(recorded.body)}", "connection: close"]
        framing = ("transfer-encoding", "content-length", "connection", "keep-alive")
        head += [f"{k}: {v}" for k, v in recorded.headers.items() if k not in framing]
        return "\r\n".join([*head, "", ""]).encode() + recorded.body


def _subject(folder: Path) -> Subject:
    transcripts = Transcripts(folder)
    asked = transcripts.probes.get("resolve", {}).get("replies", {})
    models = [found[1] for target in asked if (found := re.fullmatch(r"/v2/models/([^/]+)", target))]
    return Subject(
        f"{folder.parent.name} {folder.name}",
        registry.dialect(folder.parent.name),
        transcripts,
        models[0] if models else None,
    )


RECORDED = [_subject(index.parent) for index in sorted(TRANSCRIPTS.glob("*/*/suite.json")) if index.parts[-3] != "mine"]
# Of the dialect of the first three: their own streams are cut at each byte, and no other faults are put into them.
WITNESSES = frozenset({"litellm-1.108.7", "max-26.6.0"})
SUBJECTS = [subject for subject in RECORDED if subject.transcripts.folder.name not in WITNESSES]
