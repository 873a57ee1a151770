"""A strict reader of Prometheus' text format and of OpenMetrics, from their descriptions: no code of what writes them."""

from __future__ import annotations

import re
from collections import defaultdict
from math import inf

import attrs

__all__ = ["Exposed", "exposed"]

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABELS = r'\{(?:[^"\\{}]|"(?:[^"\\]|\\.)*")*\}'
_SAMPLE = re.compile(rf"({_NAME})(?P<labels>{_LABELS})? (\S+)(?P<exemplar> # (?P<of>{_LABELS}) \S+(?: \S+)?)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ENDINGS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
_NEWER = {"histogram": ("_bucket", "_count", "_sum", "_created"), "counter": ("_total", "_created"), "gauge": ("",)}
LONGEST_EXEMPLAR = 128  # characters of the names and values of its labels


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


def exposed(page: str, *, openmetrics: bool = False) -> dict[str, Exposed]:
    """The families of a page, each held to the format. Raises AssertionError."""
    families: dict[str, Exposed] = {}
    assert page.endswith("\n# EOF\n" if openmetrics else "\n")
    for line in page.removesuffix("# EOF\n" if openmetrics else "").split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            _, what, name, rest = line.split(" ", 3)
            assert re.fullmatch(_NAME, name)
            family = families.setdefault(name, Exposed(name))
            assert not family.samples, f"{name} comes twice"
            setattr(family, "kind" if what == "TYPE" else "text", rest)
        elif line and not line.startswith("#"):
            _read(line, families, _NEWER if openmetrics else _ENDINGS)
        else:
            assert not (line and openmetrics), f"a comment, which OpenMetrics has not: {line}"
    for family in families.values():
        family.check()
    return families


def _read(line: str, families: dict[str, Exposed], endings: dict[str, tuple[str, ...]]) -> None:
    sample = _SAMPLE.fullmatch(line)
    assert sample, line
    labels = _labels_of(sample["labels"] or "{}", line)
    of = [
        (families[sample[1].removesuffix(e)], e)
        for e in ("", "_bucket", "_count", "_sum", "_total", "_created")
        if _is(sample[1], e, families, endings)
    ]
    assert len(of) == 1, line
    family, ending = of[0]
    if sample["exemplar"]:
        assert endings is _NEWER, line
        assert ending in ("_bucket", "_total"), line
        assert sum(len(name + value) for name, value in _labels_of(sample["of"], line)) <= LONGEST_EXEMPLAR, line
    key = (ending, tuple(labels))
    assert key not in family.samples, f"twice: {line}"
    family.samples[key] = float(sample[3])


def _labels_of(text: str, line: str) -> list[tuple[str, str]]:
    labels, at = [], 0
    text = text[1:-1]
    while at < len(text):
        label = _LABEL.match(text, at)
        assert label, line
        labels.append((label[1], re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])))
        at = label.end()
    assert len({name for name, _ in labels}) == len(labels), line
    return labels


def _is(name: str, ending: str, families: dict[str, Exposed], endings: dict[str, tuple[str, ...]]) -> bool:
    family = families.get(name.removesuffix(ending)) if name.endswith(ending) else None
    return family is not None and ending in endings.get(family.kind, ())
