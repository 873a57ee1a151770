"""The journal of a batch: what was answered, line by line, in an order in which nothing that counts can be lost.

A line is JSON:

    {"len":57,"crc":"9ae0b1f2","sync":4096,"key":"a41c…","failed":false,"row":{…}}

`len` counts the bytes of the row, `crc` is the CRC-32 of everything behind it, `key` the digest of the row's key, and `sync`
says how much of the journal was on the disk for certain when the line was written. That is how a torn tail is told from
damage: a line that can't be read is torn if nothing behind it knows of its having been on the disk. The first line holds
the header in place of a row, and a journal that was closed in order ends with a line without one.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .disk import Disk
from .keys import DIGEST, Keys

__all__ = ["Journal", "JournalError", "Line", "StoppedError"]

BLOCK = 4 * 1024 * 1024  # bytes read at once
LONGEST = 512 * 1024 * 1024  # bytes: no row is longer, so a `len` that is says the line is damaged
SHORT, AROUND = 4096, 256 * 1024  # bytes read at once of rows that are read one by one
HEAD = 256  # bytes: what stands in front of a row is shorter
HEADER, CLOSED, ROW = "header", "closed", "row"
KINDS = {kind.encode(): kind for kind in (HEADER, CLOSED, ROW)}
START = b'{"len":'
NO_KEY = "00" * DIGEST

_LINE = re.compile(
    rb'\{"len":(\d+),"crc":"([0-9a-f]{8})",("sync":(\d+),"key":"([0-9a-f]{%d})","failed":(true|false),"(row|header|closed)":)'
    % (2 * DIGEST)
)


class JournalError(Exception):
    """The journal can't be gone on with: it is damaged, another run holds it, or it is of another job."""


class StoppedError(Exception):
    """The run was stopped while it read."""


class Line(NamedTuple):
    """A record: where its row stands in the journal, and what it says without being read."""

    offset: int
    end: int
    digest: bytes
    failed: bool
    kind: str


def made(kind: str, digest: str, row: bytes, *, failed: bool, synced: int) -> bytes:
    """A line, with its end."""
    rest = b'"sync":%d,"key":"%s","failed":%s,"%s":%s}\n' % (
        synced,
        digest.encode(),
        b"true" if failed else b"false",
        kind.encode(),
        row,
    )
    return b'{"len":%d,"crc":"%08x",%s' % (len(row), zlib.crc32(rest), rest)


class Journal:
    """One writer's, by a lock on the file from `open` to `close`. `group` holds what was added and is not on the disk yet.

    Nothing is known to be kept until `sync` has returned. After an OSError of a write or a sync the journal takes no more:
    what of it reached the disk shows when it is opened again. Reading takes long where there is much: it raises
    StoppedError once `stopped` says so.
    """

    def __init__(self, path: Path, disk: Disk, stopped: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self._disk = disk
        self._stopped = stopped
        self._group: list[bytes] = []
        self._size = self._synced = self._good = 0
        self._broken = True  # until it has been recovered
        self.rows: int = 0  # in the group
        self._block, self._block_at = b"", 0  # what `read` has read last
        self._descriptor = -1

    def open(self) -> None:
        """Take it. Raises JournalError where another has it; whatever strikes, `close` gives it back."""
        self._descriptor = self._disk.open(self.path)
        try:
            self._disk.lock(self._descriptor)
        except BlockingIOError:
            self.close(in_order=False)
            raise JournalError(f"another run writes {self.path}") from None

    def recover(self, header: dict[str, Any], keys: Keys) -> bytes | None:
        """Put what there is into the table; the header that it has. Before anything is added.

        The tail that a crash has torn is cut off. A journal that is new gets the header given, and has none. Raises
        JournalError for damage.
        """
        start = self._disk.read(self._descriptor, len(START), 0)
        if not START.startswith(start):
            raise JournalError(f"{self.path} is there, and is no journal of a batch")
        found = None
        for line in self.lines(keys):
            if line.kind == HEADER and found is None:
                found = self.row_at(line)
            elif line.kind == ROW:
                keys.put(line.digest, line.offset, failed=line.failed)
        good, size = self._good, self._disk.size(self._descriptor)
        if good < size:
            self._require_torn(good, size)
            self._disk.truncate(self._descriptor, good)
            self._disk.sync(self._descriptor)
        self._size = self._synced = good
        self._broken = False
        if not good:
            self._add(HEADER, NO_KEY, msgspec.json.encode(header), failed=False)
            self.sync()
            self._disk.sync_folder(self.path.parent)
        return found

    def lines(self, keys: Keys | None = None) -> Iterator[Line]:
        """The records up to the first that is not whole; those of rows go into the table, if there is one, unseen."""
        match, crc32, read, unhexlify, kinds = _LINE.match, zlib.crc32, self._disk.read, binascii.unhexlify, KINDS
        base = at = self._good = 0
        block = b""
        while True:
            if keys is not None:
                at += keys.scan(block, at, base)
            found = match(block, at)
            if found is not None:
                length, crc, _, _, key, failed, kind = found.groups()
                row, end = found.end(), found.end() + int(length) + 2
                if end <= len(block):
                    if block[end - 2 : end] != b"}\n" or crc32(block[found.start(3) : end]) != int(crc, 16):
                        break
                    yield Line(base + row, base + end, unhexlify(key), failed == b"true", kinds[kind])
                    at = end
                    continue
                if int(length) > LONGEST:
                    break
            elif len(block) - at > HEAD:
                break
            self._look_up()
            more = read(self._descriptor, BLOCK, base + len(block))
            if not more:
                break
            block, base, at = block[at:] + more, base + at, 0
        self._good = base + at

    def _look_up(self) -> None:
        """Between two blocks."""
        if self._stopped():
            raise StoppedError

    def _require_torn(self, good: int, size: int) -> None:
        """Nothing behind the last good record knows of its having been on the disk. Raises JournalError."""
        at, tail = good, b""
        while at < size:
            block = self._disk.read(self._descriptor, BLOCK, at)
            if not block:
                break
            tail = tail[-HEAD:] + block
            for found in _LINE.finditer(tail):
                if good < int(found[4]):
                    raise JournalError(
                        f"{self.path} is damaged at byte {good}: records behind that place are whole, so no crash tore "
                        "it. Bring it back from a copy, or move it away to begin anew"
                    )
            at += len(block)

    def read(self, line_offset: int) -> bytes:
        """The row that begins there, and what follows it up to the end of its line."""
        at = line_offset - self._block_at
        if at >= 0 and (end := self._block.find(b"\n", at)) >= 0:
            return self._block[at : end - 1]
        self._look_up()
        # Mostly they are wanted in about the order in which they stand: the next ones are in a block around this one.
        near = -AROUND <= at <= len(self._block) + AROUND
        start, size = (max(0, line_offset - AROUND // 4), AROUND) if near else (line_offset, SHORT)
        while True:
            self._block_at, self._block = start, self._disk.read(self._descriptor, size, start)
            end = self._block.find(b"\n", line_offset - start)
            if end >= 0:
                return self._block[line_offset - start : end - 1]
            if len(self._block) < size:
                raise JournalError(f"{self.path} has changed while it was read")
            size *= 8

    def row_at(self, line: Line) -> bytes:
        """The row of a record."""
        return self._disk.read(self._descriptor, line.end - 2 - line.offset, line.offset)

    def add(self, digest: bytes, row: bytes, *, failed: bool) -> int:
        """One more record, in the group; where its row will stand."""
        self.rows += 1
        return self._add("row", digest.hex(), row, failed=failed)

    def _add(self, kind: str, digest: str, row: bytes, *, failed: bool) -> int:
        line = made(kind, digest, row, failed=failed, synced=self._synced)
        self._group.append(line)
        self._size += len(line)
        return self._size - len(row) - 2

    def sync(self) -> None:
        """Write the group and have it on the disk. Raises OSError, of a full disk for example."""
        if not self._group or self._broken:
            return
        self._broken = True
        data = memoryview(b"".join(self._group))
        while data:
            data = data[self._disk.write(self._descriptor, data) :]
        self._disk.sync(self._descriptor)
        self._broken = False
        self._group.clear()
        self.rows = 0
        self._synced = self._size

    def close(self, *, in_order: bool = True) -> None:
        """With what is in the group, if it can still be written; idempotent."""
        if self._descriptor < 0:
            return
        try:
            if in_order and not self._broken:
                self.sync()
                self._add(CLOSED, NO_KEY, b"true", failed=False)
                self.sync()
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)
