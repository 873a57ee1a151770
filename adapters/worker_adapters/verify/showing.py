"""A report for people: a table of the conditions, then each divergence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .planning import NAMES
from .verdicts import Divergence, Report, State, Verdict

__all__ = ["lines", "rows"]

COLUMNS = ("condition", "verdict", "established", "exact", "compared by", "logprobs", "bound")
MOST = 20  # divergences shown


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table, without its head (`COLUMNS`)."""
    return [_row(verdict) for verdict in report.verdicts]


def _row(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.text,
        str(verdict.state),
        f"{verdict.established} of {verdict.seeds}" + _told(verdict.told),
        f"{verdict.exact} of {verdict.seeds}",
        verdict.by or "-",
        _likely(verdict),
        _bound(verdict),
    )


def _bound(verdict: Verdict) -> str:
    if verdict.bound is None:
        return "-"
    off = sum(each.established for each in verdict.divergences)
    counted = f"{off} of {verdict.established} diverged" if off else ""
    allowed = f"diverges in less than {verdict.bound * 100:.1f} % at 95 %" if verdict.bound < 1 else ""
    return ": ".join(filter(None, (counted, allowed)))


def _told(told: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in told.items())


def _likely(verdict: Verdict) -> str:
    if verdict.bitwise is None:
        return "-"
    return f"{verdict.bitwise} bitwise" + (f", ±{verdict.largest:.2g}" if verdict.largest else "")


def lines(report: Report) -> Iterator[str]:
    """What follows the table: what is missing, each divergence, the groups, and the verdict on all."""
    yield from _missing(report)
    shown = [(verdict, each) for verdict in report.verdicts for each in verdict.divergences]
    shown.sort(key=lambda one: one[1].parting is None)  # other tokens before other likelihoods
    for verdict, each in shown[:MOST]:
        yield f"{verdict.condition}: {_divergence(each)}"
    if len(shown) > MOST:
        yield f"… and {len(shown) - MOST} more"
    for verdict in report.verdicts:
        if verdict.divergences and verdict.agree:
            shares = ", ".join(f"{share:.0%} after {tokens}" for tokens, share in verdict.agree.items())
            yield f"{verdict.condition}: the same up to there: {shares} tokens"
    for group in report.groups[:MOST]:
        yield f"seed {group.seed} ({group.prompt}): {group}"
    for name, why in report.left_out.items():
        yield f"left out: {name}: {why}"
    yield from _advice(report)
    yield _conclusion(report)


def _missing(report: Report) -> Iterator[str]:
    """What stands against conditions; what is the same for many of them is said once."""
    found: dict[tuple[str, int], list[str]] = {}
    for verdict in report.verdicts:
        for why, count in verdict.missing.items():
            found.setdefault((why, count), []).append(verdict.condition)
    for (why, count), names in found.items():
        of = "every condition" if len(names) == len(report.verdicts) > 1 else ", ".join(names)
        yield f"{of}: not established for {count}: {why}"


def _divergence(each: Divergence) -> str:
    where = f"seed {each.seed}"
    if each.token is not None:
        where += f", token {each.token}"
    if each.parting is None:
        return f"{where}: {each.kind}: the same tokens, likelihoods differ by {each.largest:.3g} at most"
    parting = each.parting
    gap = "" if parting.gap is None else f", the two best {parting.gap:.3g} apart"
    doubt = "" if each.established else " (in a try in which the condition is not shown to have taken place)"
    return f"{where}, byte {parting.byte}: {each.kind}: {parting.expected!r} became {parting.got!r}{gap}{doubt}"


def _advice(report: Report) -> Iterator[str]:
    """What to ask for where a whole kind of condition can't be had."""
    shown: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        kind = verdict.condition.partition("-")[0]
        shown.setdefault(NAMES.get(kind, kind), []).append(verdict)
    never = [name for name, found in shown.items() if not any(one.established or one.divergences for one in found)]
    rest = [name for name in shown if name not in never]
    if never and rest:
        yield (
            f"not once shown to take place: {', '.join(never)}. If these workers can't be so (one slot, a cache that strict "
            f"switches off, no count of tokens), ask for the rest: --conditions {','.join(rest)}"
        )
    widths = [one for one in shown.get("beside", ()) if "beside" in rest]
    if some := [one for one in widths if not one.established]:
        had = ",".join(one.condition.partition("-")[2] for one in widths if one not in some)
        yield f"not so many at a time: {', '.join(one.text for one in some)}; ask for the rest: --widths {had}"


def _conclusion(report: Report) -> str:
    return {
        State.CLEAN: "clean: every condition took place, and every answer was the same",
        State.DIVERGED: "diverged: the same request did not always have the same answer",
        State.NOT_ESTABLISHED: "not established: not every condition that was asked for could be shown to take place",
    }[report.state]
