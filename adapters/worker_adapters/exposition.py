"""Reads the Prometheus text format, which is where engines tell what no other route does. A pure function, one pass.

Only the families asked for are parsed: an engine's page has a thousand lines, of which a probe needs ten. What a worker
writes there costs time in proportion to its length, whatever it writes: no pattern goes back over what it has read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from math import isfinite

import attrs

__all__ = ["Sample", "samples"]

LONGEST = 16 * 1024  # bytes of a line; longer ones are passed over
MOST = 10_000  # samples of a page that are read

_name = re.compile(rb"\s*+([A-Za-z_:][A-Za-z0-9_:]*+)\s*+(\{?)").match
_label = re.compile(r'[\s,]*+([A-Za-z_][A-Za-z0-9_]*+)\s*+=\s*+"((?:[^"\\]|\\.)*+)"').match
_close = re.compile(r"[\s,]*+\}").match
_escape = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}


@attrs.frozen(kw_only=True)
class Sample:
    """One line of a page: a series of the family `name`, and its value now."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: bytes, names: Collection[str]) -> Iterator[Sample]:
    """The samples of these names, in the page's order; what is no number, or infinite, is passed over.

    `names` are those of samples, not of families: a counter's ends in `_total`, and a histogram has `_count` and `_sum`.
    """
    wanted = {name.encode(): name for name in names}
    found = 0
    for line in io.BytesIO(page):
        begin = _name(line, 0, LONGEST)
        if begin is None or (name := wanted.get(begin[1])) is None or len(line) > LONGEST:
            continue
        rest = line[begin.end() :].decode("utf-8", "replace")
        if (sample := _sample(name, rest, labelled=bool(begin[2]))) is not None:
            yield sample
            found += 1
            if found == MOST:
                return


def _sample(name: str, rest: str, *, labelled: bool) -> Sample | None:
    at, labels = 0, {}
    if labelled:
        while (label := _label(rest, at)) is not None:
            labels[label[1]] = _plain(label[2])
            at = label.end()
        if (close := _close(rest, at)) is None:
            return None
        at = close.end()
    try:
        value = float(rest[at:].split(None, 1)[0])  # a timestamp may follow
    except (ValueError, IndexError):
        return None
    return Sample(name=name, labels=labels, value=value) if isfinite(value) else None


def _plain(text: str) -> str:
    return text if "\\" not in text else _escape.sub(lambda found: _ESCAPED.get(found[1], found[1]), text)
