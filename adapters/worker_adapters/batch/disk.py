"""What the batch asks of the disk, as one small record: a test passes one that fails, tears and forgets."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

__all__ = ["DISK", "Disk"]


class Disk:
    """The calls as the operating system has them; each raises OSError."""

    def open(self, path: Path) -> int:
        """A file to append to and read from, made if it is not there."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def lock(self, descriptor: int) -> None:
        """This process alone, until it ends or closes it, however it ends. Raises BlockingIOError."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def size(self, descriptor: int) -> int:
        """Bytes in the file."""
        return os.fstat(descriptor).st_size

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """At most that many bytes from there."""
        return os.pread(descriptor, size, offset)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Append; how many bytes went in."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """What was written survives a power cut from here on."""
        os.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(descriptor, size)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, and have the name survive a power cut, too."""
        source.replace(target)
        self.sync_folder(target.parent)

    def sync_folder(self, folder: Path) -> None:
        """The names in it survive a power cut from here on. Some file systems have no such call."""
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    # Let go of the file, and of its lock. No function of ours, at whose beginning a signal could strike.
    close: staticmethod[[int], None] = staticmethod(os.close)


DISK = Disk()
