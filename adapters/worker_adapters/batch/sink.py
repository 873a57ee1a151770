"""The output: each key's row once, in the order of completion or of the input, under its name only when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from .disk import Disk
from .journal import Journal
from .keys import Keys
from .rows import duplicate_of, identify
from .source import NOT_YET, is_parquet, opened, parquet

__all__ = ["in_completion_order", "in_input_order", "written"]

BLOCK = 1024 * 1024
PARQUET_ROWS = 4096


def in_completion_order(journal: Journal, keys: Keys, gone: list[bytes] | None) -> Iterator[bytes]:
    """The rows of the journal that no later one supersedes.

    `gone`, where this run has met all rows that there are: failures of rows that the input has no more (a line that was
    still being written, a duplicate that stands elsewhere now) are put there, and given to nobody.
    """
    for line in journal.lines():
        if line.kind != "row" or keys.offset(line.digest) != line.offset:
            continue
        if gone is not None and line.failed and not keys.was_met(line.digest):
            gone.append(line.digest)
        else:
            yield journal.row_at(line)


def in_input_order(journal: Journal, keys: Keys, source: str, gone: list[bytes]) -> Iterator[bytes]:
    """The rows as the input has them, which is read once more; answers of those that it has no more come last."""
    keys.forget_meetings()
    given = 0
    for found in opened(source):
        if found is NOT_YET:
            continue
        number, line = found
        ident = identify(line)
        _, _, met = keys.meet(ident.digest)
        digest = ident.digest
        if met:
            digest = duplicate_of(ident, number).digest
            keys.meet(digest)
        offset = keys.offset(digest)
        if offset is not None:
            given += 1
            yield journal.read(offset)
    if given == keys.recorded:
        return
    for record in journal.lines():
        if record.kind != "row" or keys.offset(record.digest) != record.offset or keys.was_met(record.digest):
            continue
        if record.failed:
            gone.append(record.digest)
        else:
            yield journal.row_at(record)


def written(path: Path, rows: Iterator[bytes], disk: Disk) -> int:
    """Write them to a file beside it, which then takes its name; how many. Raises OSError, and leaves what was there.

    Who writes here has the journal's lock, so that file is what a run left that was killed.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.unlink(missing_ok=True)
        count = (_parquet if is_parquet(path.name) else _json_lines)(beside, rows, disk)
        disk.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return count


def _json_lines(path: Path, rows: Iterator[bytes], disk: Disk) -> int:
    count = size = 0
    block: list[bytes] = []
    descriptor = disk.open(path)
    try:

        def flush() -> None:
            data = memoryview(b"".join(block))
            while data:
                data = data[disk.write(descriptor, data) :]
            block.clear()

        for row in rows:
            count += 1
            block += (row, b"\n")
            size += len(row)
            if size >= BLOCK:
                flush()
                size = 0
        flush()
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return count


def _parquet(path: Path, rows: Iterator[bytes], disk: Disk) -> int:
    import pyarrow  # noqa: PLC0415  -- an extra, and heavy

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in PARQUET_COLUMNS.items()])
    count = 0
    some: list[dict[str, Any]] = []
    with parquet().ParquetWriter(path, schema) as writer:
        for row in rows:
            count += 1
            some.append(_columns(msgspec.json.decode(row)))
            if len(some) == PARQUET_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(some, schema))
                some.clear()
        writer.write_table(pyarrow.Table.from_pylist(some, schema))
    descriptor = disk.open(path)
    try:
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return count


PARQUET_COLUMNS = {
    "id": "string",
    "text": "string",
    "finish_reason": "string",
    "tokens_in": "int64",
    "tokens_out": "int64",
    "seed": "int64",
    "worker": "string",
    "engine": "string",
    "attempts": "int64",
    "first_token_ms": "float64",
    "total_ms": "float64",
    "code": "string",
    "reason": "string",
    "message": "string",
    "other": "string",
}


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """What has no column of its own stands as JSON in `other`; so do ids that are no strings, in `id`."""
    out = {name: row.pop(name) for name in PARQUET_COLUMNS.keys() & row.keys()}
    if not isinstance(out.get("id"), str):
        out["id"] = msgspec.json.encode(out.get("id")).decode()
    out["other"] = msgspec.json.encode(row).decode() if row else None
    return out
