"""Where rows come from, read as they are needed: JSON Lines, Parquet, a pipe."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Generator, Mapping
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

    Raises OSError, and ValueError where Parquet can't be read here.
    """
    if is_parquet(path):
        return _parquet_rows(path)
    descriptor = os.dup(sys.stdin.fileno()) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return _file_lines(descriptor)
    return _pipe_lines(descriptor)


def can_be_read_again(path: str) -> bool:
    """Whether it is a file, and no pipe."""
    return path != "-" and Path(path).is_file()


def require_possible(source: str, output: Path, order: str | None) -> None:
    """Raises OSError for an input that is not there, ValueError for what can't be done with it."""
    if source != "-" and stat.S_ISDIR(Path(source).stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), source)
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
    if source != "-" and output.exists() and output.samefile(source):
        raise ValueError(f"the output {output} is the input: its answers would take the place of its rows")
    if is_parquet(source) or is_parquet(output.name):
        parquet()
    if order == "input" and not can_be_read_again(source):
        raise ValueError(
            f"the order of the input needs one that can be read again, which {source} can't: order=completion"
        )


def _file_lines(descriptor: int) -> Source:
    with open(descriptor, "rb", buffering=BLOCK) as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield number, line


def _pipe_lines(descriptor: int) -> Source:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    number, rest, begun = 0, b"", b""
    try:
        while True:
            if not poll.poll(0):
                yield NOT_YET
                continue
            block = os.read(descriptor, BLOCK)
            if not block:
                break
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                if line and not line.isspace():
                    yield number, line
        begun = rest
        if begun and not begun.isspace():
            yield number + 1, begun
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
