"""Recorded responses with an index that says what they are evidence of.

A folder holds `NAME.bin` (a response as the engine sent it, byte for byte) and `suite.json` (the index):

    streams   NAME → what the whole text, the number of deltas, the finish and the counts are; `tags` name what it shows
    errors    NAME → [code, reason] of a reply that is no stream
    probes    {"health": …, "properties": …}: replies by target, and the facts they must give
    absent    tag → why this engine can't show it, with the proof
    end_sign  a regular expression that finds the engine's own sign of the end in a body; missing: the last frame is it

An entry's `bin` names another file, or `made` holds bytes written by hand (with `why`), where no engine could be recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

__all__ = ["TAGS", "Expected", "Recorded", "Transcripts"]

TAGS = frozenset({"length", "stop", "stop_string", "split_character", "zero_tokens", "error_in_stream", "error_first"})
_BLANK = re.compile(rb"\n\r?\n")  # of lines that end in LF or CR LF
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


@attrs.frozen(kw_only=True)
class Recorded:
    """One response: status, headers (names in lower case), and its body without transfer coding."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Recorded:
        """The first response in recorded bytes. Raises ValueError where it is not whole."""
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("the recorded bytes hold no response head")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = _dechunked(rest)
        else:
            length = _LENGTH.search(head)
            body = rest[: int(length[1])] if length else rest
        return cls(status=int(first.split()[1]), headers=headers, body=body)


def _dechunked(data: bytes) -> bytes:
    body = bytearray()
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            break
        body += data[:length]
        data = data[length + 2 :]
    return bytes(body)


@attrs.frozen(kw_only=True)
class Expected:
    """What a recorded stream must come to. `error` is [code, reason] where it does not end well."""

    text: str
    deltas: int
    request: Mapping[str, Any] = attrs.field(factory=dict)
    tags: tuple[str, ...] = ()
    finish_reason: str | None = None
    stop_text: str | None = None
    tokens_out: int | None = None
    error: tuple[str, str] | None = None


def _expected(entry: Mapping[str, Any]) -> Expected:
    known = {a.name for a in attrs.fields(Expected)}
    fields: dict[str, Any] = {key: value for key, value in entry.items() if key in known}
    for key in ("tags", "error"):
        if key in fields:
            fields[key] = tuple(fields[key])
    return Expected(**fields)


class Transcripts:
    """A folder of recorded responses. Reads lazily, and keeps what it read."""

    def __init__(self, folder: Path | str) -> None:
        self.folder: Path = Path(folder)
        self._read: dict[str, Recorded] = {}

    @cached_property
    def _index(self) -> dict[str, Any]:
        index: dict[str, Any] = json.loads((self.folder / "suite.json").read_text(encoding="utf-8"))
        return index

    def recorded(self, name: str) -> Recorded:
        """A response by its name in the index, or its file's."""
        if name not in self._read:
            entry = self._index["streams"].get(name) or {}
            if "made" in entry:
                like = self.recorded(entry["like"])
                self._read[name] = attrs.evolve(like, body=entry["made"].encode())
            else:
                data = (self.folder / f"{entry.get('bin', name)}.bin").read_bytes()
                self._read[name] = Recorded.parse(data)
        return self._read[name]

    @cached_property
    def streams(self) -> Mapping[str, Expected]:
        """Streams by name, and what they must come to."""
        return {name: _expected(entry) for name, entry in self._index["streams"].items()}

    @cached_property
    def errors(self) -> Mapping[str, tuple[str, str]]:
        """Replies that are no stream, with the code and reason they stand for."""
        return {name: (code, reason) for name, (code, reason) in self._index["errors"].items()}

    @cached_property
    def probes(self) -> Mapping[str, Any]:
        """Probes: the replies they get, and the facts they must give."""
        probes: dict[str, Any] = self._index["probes"]
        return probes

    @cached_property
    def absent(self) -> Mapping[str, str]:
        """Tags that this engine can't show, each with its proof."""
        absent: dict[str, str] = self._index.get("absent", {})
        return absent

    def proven(self, body: bytes) -> int:
        """How much of a body it takes to know that the stream has ended: up to the end of the frame with the sign."""
        pattern = self._index.get("end_sign")
        found = re.search(pattern.encode(), body) if pattern else None
        if found is None:
            return len(body)
        blank = _BLANK.search(body, found.end())
        return len(body) if blank is None else blank.end()

    def good(self) -> str:
        """The smallest stream that ends well."""
        ends = [name for name, e in self.streams.items() if e.error is None and e.deltas > 1]
        return min(ends, key=lambda name: len(self.recorded(name).body))

    def tagged(self, tag: str) -> list[str]:
        """Streams that show a thing."""
        return [name for name, expected in self.streams.items() if tag in expected.tags]
