"""A strict reader of Prometheus' text format, written from its description and sharing no code with what writes it."""

from __future__ import annotations

import re
from collections import defaultdict
from math import inf

import attrs

__all__ = ["Exposed", "exposed"]

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ENDINGS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}


@attrs.define
class Exposed:
    """One family of a page."""

    name: str
    kind: str = ""
    text: str = ""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = attrs.field(factory=dict)

    def labels(self) -> set[frozenset[str]]:
        """The names of the labels of its series, but for a bucket's bound."""
        return {frozenset(name for name, _ in labels if name != "le") for _, labels in self.samples}

    def bounds(self) -> set[tuple[float, ...]]:
        """The bounds of the buckets, by series."""
        return {tuple(bound for bound, _ in buckets) for buckets in self._buckets().values()}

    def _buckets(self) -> dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]:
        found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
        for (ending, labels), value in self.samples.items():
            if ending == "_bucket":
                others = tuple(pair for pair in labels if pair[0] != "le")
                found[others].append((float(dict(labels)["le"]), value))
        return found

    def check(self) -> None:
        """What must hold within a family."""
        assert self.kind in _ENDINGS, f"{self.name} has no type"
        assert self.text, f"{self.name} has no help"
        assert len(self.labels()) <= 1, f"{self.name} has series with other labels"
        for labels, buckets in self._buckets().items():
            bounds, counts = [b for b, _ in buckets], [c for _, c in buckets]
            assert bounds == sorted(set(bounds)), f"{self.name}: buckets out of order"
            assert bounds[-1] == inf, f"{self.name}: no last bucket"
            assert counts == sorted(counts), f"{self.name}: buckets are not cumulative"
            assert counts[-1] == self.samples["_count", labels]
            assert ("_sum", labels) in self.samples


def exposed(page: str) -> dict[str, Exposed]:
    """The families of a page, each held to the format. Raises AssertionError."""
    families: dict[str, Exposed] = {}
    assert page.endswith("\n")
    for line in page.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, what, name, rest = line.split(" ", 3)
            assert re.fullmatch(_NAME, name)
            family = families.setdefault(name, Exposed(name))
            assert not family.samples, f"{name} comes twice"
            setattr(family, "kind" if what == "TYPE" else "text", rest)
        elif line and not line.startswith("#"):
            _read(line, families)
    for family in families.values():
        family.check()
    return families


def _read(line: str, families: dict[str, Exposed]) -> None:
    sample = _SAMPLE.fullmatch(line)
    assert sample, line
    labels, at = [], 0
    text = sample[2] or ""
    while at < len(text):
        label = _LABEL.match(text, at)
        assert label, line
        labels.append((label[1], re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])))
        at = label.end()
    assert len({name for name, _ in labels}) == len(labels), line
    of = [
        (families[sample[1][: -len(e) or None]], e)
        for e in ("", "_bucket", "_count", "_sum")
        if _is(sample[1], e, families)
    ]
    assert len(of) == 1, line
    family, ending = of[0]
    key = (ending, tuple(labels))
    assert key not in family.samples, f"twice: {line}"
    family.samples[key] = float(sample[3])


def _is(name: str, ending: str, families: dict[str, Exposed]) -> bool:
    family = families.get(name[: -len(ending) or None]) if name.endswith(ending) else None
    return family is not None and ending in _ENDINGS.get(family.kind, ())
