"""The table of a batch's keys, over `csrc/keys.h`: at most 24 bytes a key, and journals of millions of lines in seconds."""

from __future__ import annotations

from typing import Any

from . import _native

__all__ = ["DIGEST", "NOWHERE", "Keys"]

_ffi: Any = _native.ffi
_lib: Any = _native.lib
_put, _meet, _get = _lib.keys_put, _lib.keys_meet, _lib.keys_get

DIGEST: int = _lib.KEYS_DIGEST
FAILED: int = _lib.KEYS_FAILED
MET: int = _lib.KEYS_MET
NOWHERE: int = _lib.KEYS_NOWHERE
NO_MEMORY: int = _lib.KEYS_E_MEMORY


class Keys:
    """A key's value is the offset of its record (below 64 TiB), whether that failed, and whether this run has met it.

    A key is given as its digest, of `DIGEST` bytes. One thread at a time.
    """

    def __init__(self) -> None:
        table = _lib.keys_new()
        if not table:
            raise MemoryError
        self._table = _ffi.gc(table, _lib.keys_free)

    def __len__(self) -> int:
        count: int = _lib.keys_count(self._table)
        return count

    @property
    def recorded(self) -> int:
        """Keys that have a record."""
        count: int = _lib.keys_recorded(self._table)
        return count

    @property
    def failed(self) -> int:
        """Keys whose record is of a failure."""
        count: int = _lib.keys_failed(self._table)
        return count

    def put(self, digest: bytes, offset: int, *, failed: bool) -> None:
        """Its record stands there: a later one supersedes. Whether it was met stays as it was."""
        if len(digest) != DIGEST or not 0 <= offset < NOWHERE:
            raise ValueError(f"a digest has {DIGEST} bytes, and an offset lies below {NOWHERE}")
        if _put(self._table, digest, offset, failed):
            raise MemoryError

    def meet(self, digest: bytes) -> tuple[int, bool, bool]:
        """This run meets it: where its record stands (or NOWHERE), whether that failed, whether it was met before."""
        if len(digest) != DIGEST:
            raise ValueError(f"a digest has {DIGEST} bytes")
        value = _meet(self._table, digest)
        if value < 0:
            raise MemoryError
        return value >> 2, value & FAILED == FAILED, value & MET == MET

    def _get(self, digest: bytes) -> int:
        if len(digest) != DIGEST:
            raise ValueError(f"a digest has {DIGEST} bytes")
        value: int = _get(self._table, digest)
        return value

    def offset(self, digest: bytes) -> int | None:
        """Where its record stands; None for a key that is unknown or has none."""
        value = self._get(digest)
        return None if value < 0 or value >> 2 == NOWHERE else value >> 2

    def was_met(self, digest: bytes) -> bool:
        """Whether this run has met it."""
        value = self._get(digest)
        return value >= 0 and value & MET == MET

    def forget_meetings(self) -> None:
        """As if this run had met none."""
        _lib.keys_forget(self._table)

    def scan(self, block: bytes, at: int, base: int) -> int:
        """Put in what the rows of whole lines from there on say, block standing at base in its journal; the bytes taken.

        It stops in front of the first line that is anything else.
        """
        buffer = _ffi.from_buffer(block)
        taken: int = _lib.keys_scan(self._table, buffer + at, len(block) - at, base + at)
        if taken == NO_MEMORY:
            raise MemoryError
        return max(taken, 0)
