"""Which keys there are, and where the record of each stands: at most 24 bytes a key, whatever the keys are.

A key is its digest (`digest_of`, 80 bits: among ten million keys two that differ share one with a chance of 1 in 10¹⁰). The
table is linear hashing (Litwin 1980) over bytearrays of some 48 entries, which `bytes.find` looks through; a bucket is split
at a time, so nothing ever stops to rehash.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["DIGEST", "NOWHERE", "Keys", "digest_of"]

DIGEST = 10  # bytes of a key's digest
VALUE = 6
ENTRY = DIGEST + VALUE
LOAD = 32
NOWHERE = 2**46 - 1  # the place of a key that has no record yet
_from_bytes = int.from_bytes
FAILED, MET = 1, 2
_MET = (NOWHERE << 2 | MET).to_bytes(VALUE, "little")
_NOWHERE = (NOWHERE << 2).to_bytes(VALUE, "little")[1:]


def digest_of(key: bytes) -> bytes:
    """What stands for a key in the table and the journal."""
    return blake2b(key, digest_size=DIGEST).digest()


class Keys:
    """A key's value is the offset of its record (below 64 TiB), whether that failed, and whether this run has met it."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(64)]
        self._mask, self._wider = 63, 127
        self._split = 0
        self._count = 0
        self._room = 64 * LOAD
        self.recorded = 0  # keys that have a record
        self.failed = 0  # keys whose record is of a failure

    def __len__(self) -> int:
        return self._count

    def _find(self, digest: bytes) -> tuple[bytearray, int]:
        """Its bucket, and its place there; negative if it is not."""
        number = _from_bytes(digest[:4], "little")
        index = number & self._mask
        bucket = self._buckets[index if index >= self._split else number & self._wider]
        at = bucket.find(digest)
        while at > 0 and at % ENTRY:  # by chance, across two entries
            at = bucket.find(digest, at + 1)
        return bucket, at

    def put(self, digest: bytes, offset: int, *, failed: bool) -> None:
        """Its record stands there: a later one supersedes. Whether it was met stays as it was."""
        bucket, at = self._find(digest)
        value = (offset << 2 | failed).to_bytes(VALUE, "little")
        if at < 0:
            bucket += digest
            bucket += value
            self.recorded += 1
            self.failed += failed
            self._added()
            return
        at += DIGEST
        flags = bucket[at]
        self.recorded += bucket[at + 1 : at + VALUE] == _NOWHERE
        self.failed += failed - (flags & FAILED)
        bucket[at : at + VALUE] = value
        bucket[at] |= flags & MET

    def meet(self, digest: bytes) -> tuple[int, bool, bool]:
        """This run meets it: where its record stands (or NOWHERE), whether that failed, whether it was met before."""
        number = _from_bytes(digest[:4], "little")  # as _find: this is asked for each row of the input
        index = number & self._mask
        bucket = self._buckets[index if index >= self._split else number & self._wider]
        at = bucket.find(digest)
        if at < 0:
            bucket += digest
            bucket += _MET
            self._added()
            return NOWHERE, False, False
        if at % ENTRY:
            bucket, at = self._find(digest)
            if at < 0:
                bucket += digest + _MET
                self._added()
                return NOWHERE, False, False
        at += DIGEST
        first = bucket[at]
        bucket[at] = first | MET
        return _from_bytes(bucket[at : at + VALUE], "little") >> 2, first & FAILED == FAILED, first & MET == MET

    def offset(self, digest: bytes) -> int | None:
        """Where its record stands; None for a key that is unknown or has none."""
        bucket, at = self._find(digest)
        if at < 0:
            return None
        offset = _from_bytes(bucket[at + DIGEST : at + ENTRY], "little") >> 2
        return None if offset == NOWHERE else offset

    def was_met(self, digest: bytes) -> bool:
        """Whether this run has met it."""
        bucket, at = self._find(digest)
        return at >= 0 and bool(bucket[at + DIGEST] & MET)

    def forget_meetings(self) -> None:
        """As if this run had met none."""
        for bucket in self._buckets:
            for at in range(DIGEST, len(bucket), ENTRY):
                bucket[at] &= ~MET

    def _added(self) -> None:
        self._count += 1
        if self._count > self._room:
            self._split_one()

    def _split_one(self) -> None:
        old = self._buckets[self._split]
        bit = self._mask + 1
        stay, go = bytearray(), bytearray()
        for at in range(0, len(old), ENTRY):
            entry = old[at : at + ENTRY]
            if _from_bytes(entry[:4], "little") & bit:
                go += entry
            else:
                stay += entry
        self._buckets[self._split] = bytearray(bytes(stay))  # of its own size: what has grown has room to spare
        self._buckets.append(bytearray(bytes(go)))
        self._room += LOAD
        self._split += 1
        if self._split == bit:
            self._mask, self._wider, self._split = 2 * bit - 1, 4 * bit - 1, 0
