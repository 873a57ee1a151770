"""Where rows come from, read as they are needed: JSON Lines, Parquet, a pipe."""

from __future__ import annotations

import errno
import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

__all__ = [
    "NOT_YET",
    "Line",
    "NotYet",
    "Source",
    "can_be_read_again",
    "is_parquet",
    "opened",
    "parquet",
    "require_possible",
]

BLOCK = 256 * 1024
PARQUET_ROWS = 1024  # read at once
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
OTHER_KINDS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet: its name must end in .parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
PARQUET_EXTRA = "Parquet needs pyarrow: pip install 'worker-adapters[arrow]'"


class _Signal(Enum):
    NOT_YET = "not yet"


NOT_YET: Final = _Signal.NOT_YET
"""A pipe has nothing just now."""
NotYet: TypeAlias = Literal[_Signal.NOT_YET]
Line: TypeAlias = "tuple[int, bytes | Mapping[str, Any]]"
"""A row's number in the input, from 1 on, and the row: a line, or its columns."""
Source: TypeAlias = "Generator[Line | NotYet]"


def is_parquet(path: str) -> bool:
    """By its name."""
    return path.lower().endswith((".parquet", ".pq"))


def opened(path: str) -> Source:
    """The rows of a file, of `-` (standard input) or of a pipe; of the latter two without ever blocking.

    A file may be gzip's. Raises OSError, and ValueError where Parquet can't be read here.
    """
    if is_parquet(path):
        return _parquet_rows(path)
    descriptor = os.dup(sys.stdin.fileno()) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    source = _file_lines(descriptor, path) if is_file else _pipe_lines(descriptor)
    next(source)  # it has begun, so that closing it closes the descriptor
    return source


def can_be_read_again(path: str) -> bool:
    """Whether it is a file, and no pipe."""
    return path != "-" and Path(path).is_file()


def require_possible(source: str, output: Path, order: str | None) -> None:
    """Raises OSError for an input that is not there, ValueError for what can't be done with it."""
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
    if output.name == "-" or (output.exists() and not output.is_file()):
        raise ValueError(
            f"the output takes the place of what is there once it is whole, so it must be a file: {output}"
        )
    if source != "-":
        _require_readable(source)
        if output.exists() and output.samefile(source):
            raise ValueError(f"the output {output} is the input: its answers would take the place of its rows")
    if output.name.endswith(".gz"):
        raise ValueError(f"{output}: an output is not compressed, so it can't be called .gz")
    if is_parquet(source) or is_parquet(output.name):
        parquet()
    if order == "input" and not can_be_read_again(source):
        raise ValueError(
            f"the order of the input needs one that can be read again, which {source} can't: order=completion"
        )


def _require_readable(path: str) -> None:
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode) or is_parquet(path):
        return
    with Path(path).open("rb") as file:
        start = file.read(4)
    for magic, kind in OTHER_KINDS.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is no JSON Lines in UTF-8, but {kind}")


def _file_lines(descriptor: int, path: str) -> Source:
    with io.BufferedReader(io.FileIO(descriptor), BLOCK) as file:
        yield NOT_YET
        lines: Iterable[bytes] = _unpacked(file, path) if file.peek(2).startswith(GZIP) else file
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BOM)  # noqa: PLW2901  -- the same line
            if line and not line.isspace():
                yield number, line
            if not line.endswith(b"\n"):
                return  # what somebody still writes behind it is no line of its own


def _unpacked(file: io.BufferedReader[io.FileIO], path: str) -> Iterator[bytes]:
    """Lines of gzip's. Raises OSError for what is damaged or cut off."""
    try:
        yield from gzip.GzipFile(fileobj=file)
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(errno.EIO, f"its gzip can't be read: {error}", path) from error


def _pipe_lines(descriptor: int) -> Source:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    number, parts = 0, list[bytes]()  # of the line that has begun
    try:
        yield NOT_YET
        while True:
            if not poll.poll(0):
                yield NOT_YET
                continue
            block = os.read(descriptor, BLOCK)
            if not block:
                break
            *lines, rest = block.split(b"\n")
            for line in lines:
                number += 1
                whole = b"".join((*parts, line))
                parts.clear()
                if number == 1:
                    whole = whole.removeprefix(BOM)
                if whole and not whole.isspace():
                    yield number, whole
            parts.append(rest)
        whole = b"".join(parts)
        if whole and not whole.isspace():
            yield number + 1, whole
    finally:
        os.close(descriptor)


def _parquet_rows(path: str) -> Source:
    file = parquet().ParquetFile(path)
    number = 0
    for batch in file.iter_batches(batch_size=PARQUET_ROWS):
        for row in batch.to_pylist():
            number += 1
            yield number, {name: value for name, value in row.items() if value is not None}


def parquet() -> Any:
    """The module. Raises ValueError with what to install."""
    try:
        import pyarrow.parquet  # noqa: PLC0415  -- an extra, and heavy
    except ImportError:
        raise ValueError(PARQUET_EXTRA) from None
    return pyarrow.parquet
