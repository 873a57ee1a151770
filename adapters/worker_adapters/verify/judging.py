"""From a recording to a report. Pure: the same recording gives the same report, whenever and wherever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .bounds import upper_bound
from .comparing import Compared, compare
from .evidence import Evidence, evidence_of
from .records import Answer, Condition, Recording, Role, Trial
from .verdicts import Class, Divergence, Groups, Report, State, Verdict

__all__ = ["judge"]


class _Pair:
    """A subject beside its reference."""

    def __init__(self, subject: Trial, reference: Trial, missing: str) -> None:
        self.subject = subject
        self.reference = reference
        self.compared: Compared = compare(reference.answer, subject.answer)
        self.missing = missing


def judge(recording: Recording) -> Report:
    """The verdict of each condition, and the groups of answers."""
    evidence = Evidence(recording)
    pairs = {condition.name: _pairs(condition, recording, evidence) for condition in recording.conditions}
    noise = max(
        (pair.compared.largest for found, _ in pairs.values() for pair in found if pair.compared.largest is not None),
        default=None,
    )
    return Report(
        environment=recording.environment,
        verdicts=tuple(_verdict(condition, *pairs[condition.name], noise) for condition in recording.conditions),
        groups=_groups(recording.trials),
        left_out=recording.left_out,
    )


def _pairs(condition: Condition, recording: Recording, evidence: Evidence) -> tuple[list[_Pair], Counter[str]]:
    """What can be compared, the last try of each seed; and what is missing of the rest."""
    latest: dict[tuple[int, str], Trial] = {}
    tried: dict[tuple[int, str], list[_Pair]] = {}
    lost: Counter[str] = Counter()
    for trial in recording.trials:
        if trial.condition == condition.name and trial.role is Role.SUBJECT:
            key = trial.seed, trial.prompt
            latest[key] = trial
            reference = evidence.reference_of(trial)
            if reference is not None and not trial.answer.failed and not reference.answer.failed:
                tried.setdefault(key, []).append(_Pair(trial, reference, evidence_of(condition, trial, evidence)))
    for key, trial in latest.items():
        if key not in tried:
            reference = evidence.reference_of(trial)
            lost[trial.answer.failed or (reference.answer.failed if reference else "") or "no reference"] += 1
    return [_best(found) for found in tried.values()], lost


def _best(tries: Sequence[_Pair]) -> _Pair:
    """Of several tries for a seed one that diverged, and one that is established, if there is."""
    return max(tries, key=lambda pair: (not pair.compared.same, not pair.missing))


def _verdict(condition: Condition, pairs: Sequence[_Pair], lost: Counter[str], noise: float | None) -> Verdict:
    missing = lost + Counter(pair.missing for pair in pairs if pair.missing)
    if condition.hindered:
        missing[condition.hindered] += 1
    shown = [pair for pair in pairs if not pair.missing]
    off = [pair for pair in shown if not pair.compared.same]
    divergences = tuple(_divergence(pair, noise) for pair in pairs if not pair.compared.same)
    undisturbed = State.CLEAN if shown and not missing else State.NOT_ESTABLISHED
    known = [pair.compared for pair in pairs if pair.compared.bitwise is not None]
    return Verdict(
        condition=condition.name,
        text=condition.text,
        state=State.DIVERGED if divergences else undisturbed,
        seeds=len(pairs) + lost.total(),
        established=len(shown),
        exact=sum(pair.compared.parting is None for pair in pairs),
        by=" and ".join(sorted({pair.compared.by for pair in pairs})),
        bitwise=sum(bool(one.bitwise) for one in known) if known else None,
        largest=max((one.largest or 0.0 for one in known), default=None),
        bound=upper_bound(len(shown), len(off)) if shown else None,
        agree=_agreement(pairs),
        told=condition.told,
        missing=dict(missing),
        divergences=divergences,
    )


def _divergence(pair: _Pair, noise: float | None) -> Divergence:
    compared = pair.compared
    parting = compared.parting
    return Divergence(
        seed=pair.subject.seed,
        kind=_class(compared, noise),
        token=compared.first_off if parting is None else parting.token,
        parting=parting,
        largest=compared.largest,
        reference=pair.reference.number,
        trial=pair.subject.number,
        established=not pair.missing,
    )


def _class(compared: Compared, noise: float | None) -> Class:
    if compared.parting is None:
        return Class.LOGPROBS
    gap = compared.parting.gap
    if gap is None:
        return Class.UNKNOWN
    if gap == 0:
        return Class.TIE
    return Class.NEAR_TIE if noise is not None and gap < noise else Class.REAL


def _agreement(pairs: Sequence[_Pair]) -> Mapping[int, float]:
    """After 1, 2, 4, … tokens, and after all."""
    counted = [pair.compared for pair in pairs if pair.compared.agreed is not None]
    if not counted:
        return {}
    longest = max(one.agreed or 0 for one in counted)
    marks = [1 << bit for bit in range(longest.bit_length()) if 1 << bit < longest] + [max(longest, 1)]
    return {
        mark: sum(one.parting is None or (one.agreed or 0) >= mark for one in counted) / len(counted) for mark in marks
    }


def _groups(trials: Sequence[Trial]) -> tuple[Groups, ...]:
    """By seed and prompt; those with one answer only are left out."""
    asked: dict[tuple[int, str], list[Answer]] = {}
    for trial in trials:
        if trial.role in {Role.REFERENCE, Role.SUBJECT} and not trial.answer.failed:
            asked.setdefault((trial.seed, trial.prompt), []).append(trial.answer)
    groups = []
    for (seed, prompt), answers in asked.items():
        by_ids = all(answer.token_ids is not None for answer in answers)
        found = Counter((answer.token_ids if by_ids else answer.text, answer.finish) for answer in answers)
        if len(found) > 1:
            groups.append(Groups(seed=seed, prompt=prompt, sizes=tuple(sorted(found.values(), reverse=True))))
    return tuple(groups)
