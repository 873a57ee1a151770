"""Whether a condition took place for one subject. What can't be shown is not established, however clean the answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from .records import Condition, Recording, Role, Trial

__all__ = ["Evidence", "evidence_of", "most_at_once"]

UNCACHED = "not to be used"
READS = 2  # of each while the other is under way: one may be a matter of the order in which sockets are looked at


class Evidence:
    """For the subjects of a recording."""

    def __init__(self, recording: Recording) -> None:
        self._trials = {trial.number: trial for trial in recording.trials}
        self._rounds: dict[int, list[Trial]] = {}
        for trial in recording.trials:
            self._rounds.setdefault(trial.round, []).append(trial)
        self._before: dict[int, Trial] = {}  # who ran before, one at a time, on the same worker
        last: dict[int, Trial] = {}
        for trial in recording.trials:
            if trial.worker in last:
                self._before[trial.number] = last[trial.worker]
            last[trial.worker] = trial

    def round_of(self, trial: Trial) -> Sequence[Trial]:
        """All that ran at once with it, itself included."""
        return self._rounds[trial.round]

    def reference_of(self, trial: Trial) -> Trial | None:
        """Whom it is compared with."""
        return None if trial.reference is None else self._trials.get(trial.reference)

    def before(self, trial: Trial) -> Trial | None:
        """The one that ran on the worker before it."""
        return self._before.get(trial.number)


def evidence_of(condition: Condition, subject: Trial, all_of: Evidence) -> str:
    """Empty if the condition took place for this subject; else what is missing."""
    return _KINDS[condition.kind](condition, subject, all_of)


def _again(_condition: Condition, subject: Trial, all_of: Evidence) -> str:
    return _alone(subject, all_of)


def _alone(subject: Trial, all_of: Evidence) -> str:
    return "" if len(all_of.round_of(subject)) == 1 else "it did not run alone"


def _order(_condition: Condition, subject: Trial, all_of: Evidence) -> str:
    reference = all_of.reference_of(subject)
    if reference is None or subject.number == reference.number:
        return "there is nothing to compare its place with"
    now, then = all_of.before(subject), all_of.before(reference)
    if now is not None and then is not None and (now.seed, now.prompt) == (then.seed, then.prompt):
        return "the same request ran before it as the first time"
    return _alone(subject, all_of)


def _beside(condition: Condition, subject: Trial, all_of: Evidence) -> str:
    most = most_at_once(subject, all_of.round_of(subject))
    return "" if most >= condition.width else f"{most} of {condition.width} others were answered at the same time"


def most_at_once(subject: Trial, everybody: Sequence[Trial]) -> int:
    """How many others were being answered at one moment of the subject's answer, by our own clock.

    Two are answered at the same time if each has been heard of twice while the other was under way.
    """
    spans = [
        (max(_first(subject), _first(other)), min(_last(subject), _last(other)))
        for other in everybody
        if other.number != subject.number and _together(subject, other)
    ]
    return max((sum(start <= at <= end for start, end in spans) for at, _ in spans), default=0)


def _together(one: Trial, other: Trial) -> bool:
    start, end = max(_first(one), _first(other)), min(_last(one), _last(other))
    return all(sum(start <= at <= end for at in trial.answer.reads) >= READS for trial in (one, other))


def _first(trial: Trial) -> float:
    return trial.answer.reads[0] if trial.answer.reads else trial.answer.ended


def _last(trial: Trial) -> float:
    return trial.answer.reads[-1] if trial.answer.reads else trial.answer.ended


def _prefix(condition: Condition, subject: Trial, all_of: Evidence) -> str:
    if condition.told.get("cache") == UNCACHED:
        return "strict keeps the request from being answered out of the cache"
    cold = all_of.reference_of(subject)
    if cold is None:
        return "there was no cold one"
    then, now = cold.answer.cached, subject.answer.cached
    if then is not None and now is not None and now <= then:
        return f"the engine says that {now} tokens were cached, and {then} of the first one"
    before = all_of.before(subject)
    if before is None or before.prompt != subject.prompt:
        return "another prompt ran in between"
    return _alone(subject, all_of)


def _length(condition: Condition, subject: Trial, all_of: Evidence) -> str:
    told = subject.answer.tokens_in
    if told is None:
        return "the engine does not tell how many tokens the prompt has"
    if told != condition.length:
        return f"the engine says that the prompt has {told} tokens"
    return _alone(subject, all_of)


def _cancelled(_condition: Condition, subject: Trial, all_of: Evidence) -> str:
    neighbours = [other for other in all_of.round_of(subject) if other.role is Role.NEIGHBOUR]
    for other in neighbours:
        if other.answer.finish != "cancelled" or not other.answer.reads:
            continue
        if _first(subject) <= other.answer.ended <= _last(subject):
            return ""
    return "no neighbour was cancelled while both were being answered"


def _workers(_condition: Condition, subject: Trial, all_of: Evidence) -> str:
    reference = all_of.reference_of(subject)
    if reference is None or reference.worker == subject.worker:
        return "it did not run on another worker"
    return _alone(subject, all_of)


def _restart(condition: Condition, subject: Trial, all_of: Evidence) -> str:
    told: Mapping[str, object] = condition.told
    if told.get("status") != 0:
        return f"the command ended with status {told.get('status')}"
    if not (told.get("cut") or told.get("down")):
        return (
            "the worker was there all the time: a stream across the restart was not cut, and every look found it live"
        )
    return _alone(subject, all_of)


_Judge: TypeAlias = Callable[[Condition, Trial, Evidence], str]
_KINDS: Mapping[str, _Judge] = {
    "again": _again,
    "order": _order,
    "beside": _beside,
    "prefix": _prefix,
    "length": _length,
    "cancelled": _cancelled,
    "worker": _workers,
    "restart": _restart,
}
