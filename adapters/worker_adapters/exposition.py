"""Reads the Prometheus text format, which is where engines tell what no other route does. A pure function, one pass.

Only the families asked for are parsed: an engine's page has a thousand lines, of which a probe needs ten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import attrs

__all__ = ["Sample", "samples"]

_label = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"').findall
_escape = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}


@attrs.frozen(kw_only=True)
class Sample:
    """One line of a page: a series of the family `name`, and its value now."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: bytes, names: Collection[str]) -> Iterator[Sample]:
    """The samples of these names, in the page's order; lines that are no samples are passed over, NaN is a value.

    `names` are those of samples, not of families: a counter's ends in `_total`, and a histogram has `_count` and `_sum`.
    """
    for line in page.decode("utf-8", "replace").splitlines():
        name, brace, rest = line.partition("{")
        if not brace:
            name, _, rest = line.partition(" ")
        if name not in names:
            continue
        labels, _, tail = rest.rpartition("}") if brace else ("", "", rest)
        try:
            value = float(tail.split(None, 1)[0])  # a timestamp may follow
        except (ValueError, IndexError):
            continue
        yield Sample(name=name, labels={key: _plain(text) for key, text in _label(labels)}, value=value)


def _plain(text: str) -> str:
    return text if "\\" not in text else _escape.sub(lambda found: _ESCAPED.get(found[1], found[1]), text)
