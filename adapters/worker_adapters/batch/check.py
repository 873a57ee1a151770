"""A look through the input before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..api import GenerateRequest, InvalidRequestError
from .keys import Keys
from .rows import Template, identify, row_of
from .source import NOT_YET, can_be_read_again, opened

__all__ = ["Checked", "check"]

TOLD = 20  # findings of each kind


@attrs.frozen(kw_only=True)
class Checked:
    """What stands in an input. `duplicates` and `refused`: the first of them, as line number and what is wrong."""

    rows: int
    duplicate_count: int
    refused_count: int
    duplicates: tuple[tuple[int, str], ...]
    refused: tuple[tuple[int, str], ...]
    carried: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether each row can be asked for, once."""
        return not self.duplicate_count and not self.refused_count


def check(
    source: str | Path, *, parameters: Mapping[str, Any] | None = None, template: Template | None = None
) -> Checked:
    """Read all rows, and say which can't be asked for and which keys come twice. Needs no worker. Raises OSError."""
    path = str(source)
    if not can_be_read_again(path):
        raise ValueError(f"{path} can't be read twice: only a file can be checked before it is answered")
    keys = Keys()
    rows = duplicates = refused = 0
    twice: list[tuple[int, str]] = []
    wrong: list[tuple[int, str]] = []
    carried: set[str] = set()
    for found in opened(path):
        if found is NOT_YET:
            continue
        number, line = found
        rows += 1
        ident = identify(line)
        if keys.meet(ident.digest)[2]:
            duplicates += 1
            if len(twice) < TOLD:
                twice.append((number, f"the key {ident.id!r} was met before"))
            continue
        row = row_of(number, line, ident, parameters=parameters or {}, template=template)
        carried.update(row.extra or ())
        why = row.refused if row.request is None else _judged(row.request)
        if why is not None:
            refused += 1
            if len(wrong) < TOLD:
                wrong.append((number, why))
    return Checked(
        rows=rows,
        duplicate_count=duplicates,
        refused_count=refused,
        duplicates=tuple(twice),
        refused=tuple(wrong),
        carried=tuple(sorted(carried)),
    )


def _judged(request: GenerateRequest) -> str | None:
    """What is wrong with it whatever the engine."""
    try:
        request.validate()
    except InvalidRequestError as error:
        return error.message
    return None
