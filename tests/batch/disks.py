"""A disk that fails where it is told to, and forgets at a power cut what was not synced."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from worker_adapters.batch.disk import Disk

__all__ = ["QUICK", "FaultyDisk", "PowerCutError"]


class _Quick(Disk):
    """For tests that no power cut is the subject of: a sync takes milliseconds."""

    def sync(self, descriptor: int) -> None:
        return

    def sync_folder(self, folder: Path) -> None:
        return


QUICK = _Quick()


class PowerCutError(BaseException):
    """The machine is off: nothing of the program runs on."""


class FaultyDisk(Disk):
    """Counts its calls that change something; at the one numbered `at` (from 0 on) the fault comes.

    - `cut`: the power goes, in the middle of a write after half of it, else before the call is done.
    - `after`: the power goes when the call is done.
    - `full`: from there on no byte more fits; half of the write does.
    - `sync`: that sync fails.
    """

    def __init__(self, fault: str = "", at: int = -1) -> None:
        self.fault, self.at = fault, at
        self.calls = 0
        self.kept: dict[Path, int] = {}  # bytes that a power cut leaves
        self._open: dict[int, Path] = {}

    def open(self, path: Path) -> int:
        descriptor = super().open(path)
        self._open[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._open[descriptor]

    def _comes(self) -> bool:
        self.calls += 1
        return self.calls - 1 == self.at or (self.fault == "full" and 0 <= self.at < self.calls)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self._comes():
            return super().write(descriptor, data)
        if self.fault in ("cut", "full") and len(data) > 1 and self.calls - 1 == self.at:
            os.write(descriptor, data[: len(data) // 2])
        if self.fault == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.fault == "after":
            os.write(descriptor, data)
        raise PowerCutError

    def sync(self, descriptor: int) -> None:
        comes = self._comes()
        if comes and self.fault == "sync":
            raise OSError(errno.EIO, "Input/output error")
        if comes and self.fault == "cut":
            raise PowerCutError
        if comes and self.fault == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        # nothing is synced: a power cut is what `die` makes of it
        self.kept[self._open[descriptor]] = os.fstat(descriptor).st_size
        if comes:
            raise PowerCutError

    def sync_folder(self, folder: Path) -> None:
        return

    def die(self, draw: random.Random | None = None) -> None:
        """The process is gone; with `draw` the power, too: of what was not synced there are parts, or zeros, or nothing."""
        for descriptor, path in list(self._open.items()):
            self.close(descriptor)
            kept, size = self.kept.get(path, 0), path.stat().st_size
            if draw is None or size <= kept:
                continue
            end = draw.randrange(kept, size + 1)
            os.truncate(path, end)
            if end > kept and draw.random() < 0.5:
                start = draw.randrange(kept, end)
                with path.open("r+b") as file:
                    file.seek(start)
                    file.write(bytes(min(end - start, draw.choice([1, 100, 4096]))))
