"""Makes the conditions happen, one after another, and records what came. One thread; no streams but the library's."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import attrs

from ..api import Adapter, DeterminismLevel, ErrorCode, GenerateRequest, InvalidRequestError, WorkerError
from ..api.about import VERSION
from .choosing import Choosing
from .evidence import UNCACHED, Evidence, evidence_of
from .planning import NAMES, Plan
from .records import Condition, Recording, Role, Trial
from .restarting import restart
from .rounds import Ask, Rounds
from .ruling import prompt_of
from .shrinking import Shrinking
from .tapping import Tap
from .verdicts import Report

__all__ = ["Progress", "Verification"]

Progress = Callable[[int, int, str], None]
"""Requests done, of about how many, and what is being done."""

HELD = 100_000  # tokens of a stream that is to be cut
STRICT = "strict keeps this engine from answering out of its cache: --determinism best_effort has it warm"
UNCOUNTED = "this worker does not tell how many tokens a prompt has"
NOT_SEEN = "not seen"
PATIENCE = 4  # times as many tries


def _silent(_done: int, _total: int, _what: str) -> None:
    return None


class Verification:
    """One run. `adapters` are of dialects that `tap` listens to; `rendered` makes a prompt of a text (a chat template)."""

    def __init__(
        self,
        adapters: Sequence[Adapter],
        tap: Tap,
        plan: Plan,
        *,
        progress: Progress = _silent,
        rendered: Callable[[str], str] = str,
        environment: dict[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.rounds: Rounds = Rounds(adapters, tap)
        self._adapters = adapters
        self._progress = progress
        self.rendered = rendered
        self._given = environment or {}
        self._references: dict[int, int] = {}
        self._conditions: list[Condition] = []
        self._planned = plan.planned(len(adapters))
        self._total = plan.requests(self._planned)
        self._tasks = 0
        self._look_from = 0.0
        self._chosen = Choosing(self)
        features = adapters[0].features
        self._logprobs = plan.logprobs if features.logprobs and plan.logprobs else None
        self._ids = features.token_ids
        self.whole: bool = features.ignore_eos and plan.ignore_eos  # answers of full length

    def record(self) -> Recording:
        """All conditions. Blocks; what a worker does wrong is part of the recording."""
        environment = self._environment()
        failed = self._reference()
        left_out: dict[str, str] = {}
        for condition in self._planned:
            self._progress(len(self.rounds.trials), self._total, condition.text)
            if self.plan.conditions is None and (why := condition.hindered or self._without(condition)):
                left_out[NAMES.get(condition.kind, condition.kind)] = why
            elif failed or condition.hindered:
                self._conditions.append(attrs.evolve(condition, hindered=failed or condition.hindered))
            else:
                self._conditions.append(self._tried(condition))
        self._progress(self._total, self._total, "done")
        return Recording(
            environment=environment | self._levels(),
            conditions=tuple(self._conditions),
            trials=tuple(self.rounds.trials),
            left_out=left_out,
        )

    def _without(self, condition: Condition) -> str:
        """Why this condition can't be had, or not be shown, whatever is tried; empty if it can."""
        if condition.kind == "prefix" and self._is_uncached():
            return STRICT
        if condition.kind == "length":
            answers = [trial.answer for trial in self.rounds.trials if trial.role is Role.REFERENCE]
            told = any(answer.failed or answer.tokens_in is not None for answer in answers)
            return "" if told or not answers else UNCOUNTED
        return ""

    def _is_uncached(self) -> bool:
        return self._adapters[0].traits.strict_uncached and self.plan.determinism is DeterminismLevel.STRICT

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(self, seed: int, given: dict[str, Any], *, max_tokens: int | None = None) -> GenerateRequest:
        """A request with all that the dialect can tell of tokens."""
        plan = self.plan
        self._tasks += 1
        return GenerateRequest(
            task_id=f"verify-{plan.nonce}-{self._tasks}",
            seed=seed,
            max_tokens=max_tokens or plan.max_tokens,
            temperature=plan.temperature,
            determinism=plan.determinism,
            logprobs=self._logprobs,
            return_token_ids=self._ids,
            ignore_eos=self.whole,
            engine_options=plan.engine_options,
            **given,
        )

    def renewed(self, request: GenerateRequest) -> GenerateRequest:
        """The same request under another name."""
        self._tasks += 1
        return attrs.evolve(request, task_id=f"verify-{self.plan.nonce}-{self._tasks}")

    def ask(self, seed: int, role: Role, *, worker: int = 0, longer: int = 1) -> Ask:
        """The request of a seed that all conditions share."""
        given = {"prompt": self.rendered(self._chosen.prompt(seed))}
        return Ask(
            request=self.request(seed, given, max_tokens=longer * self.plan.max_tokens),
            prompt="main",
            role=role,
            worker=worker,
            reference=self._references.get(seed) if role is Role.SUBJECT else None,
        )

    def _run(self, condition: str, asks: Sequence[Ask], **how: Any) -> list[Trial]:
        trials = self.rounds.run(condition, asks, **how)
        self._progress(len(self.rounds.trials), self._total, condition)
        return trials

    def alone(self, condition: str, ask: Ask) -> list[Trial]:
        """A request that nothing runs beside. Blocks; raises WorkerError."""
        return self._run(condition, [ask])

    def prompt(self, seed: int) -> str:
        """The text that the seed is asked for."""
        return self._chosen.prompt(seed)

    def _settle(self) -> None:
        """Find out what can be asked of tokens: the worker may take less than its dialect can say (Triton's models)."""
        asked = self._logprobs, self._ids, self.whole
        for likely in dict.fromkeys((self._logprobs, None if self._logprobs is None else 0, None)):
            for self._ids, self.whole in product(dict.fromkeys((asked[1], False)), dict.fromkeys((asked[2], False))):
                self._logprobs = likely
                if self._is_taken():
                    return
        self._logprobs, self._ids, self.whole = asked  # it is something else that it does not take: let it say so

    def _is_taken(self) -> bool:
        request = self.request(0, {"prompt": self.rendered(self.plan.prompt(0, "settle"))}, max_tokens=2)
        try:
            (trial,) = self.rounds.run("settle", [Ask(request=request, prompt="", role=Role.PRIMER)], keep=False)
        except InvalidRequestError:
            return False
        return not trial.answer.failed.startswith(ErrorCode.INVALID_PARAMS)

    def _reference(self) -> str:
        """Each seed, alone, on the first worker; why not, if that fails at once."""
        with suppress(WorkerError):  # which the first request raises again
            self._settle()
        for seed in self.plan.seeds:
            try:
                trial = self._chosen.reference(seed)
            except WorkerError as error:
                return str(error)
            if not self._references and trial.answer.failed:
                return trial.answer.failed
            self._references[seed] = trial.number
        return ""

    # --- conditions -------------------------------------------------------------------------------------------------

    def _tried(self, condition: Condition) -> Condition:
        try:
            return getattr(self, f"_try_{condition.kind}")(condition)  # type: ignore[no-any-return]  # one of those below
        except WorkerError as error:
            return attrs.evolve(condition, hindered=str(error))

    def _one_at_a_time(self, condition: Condition, seeds: Sequence[int], worker: int = 0) -> None:
        for seed in seeds:
            self._run(condition.name, [self.ask(seed, Role.SUBJECT, worker=worker)])

    def _missing(self, condition: Condition) -> list[int]:
        """Seeds for which the condition has not taken place yet."""
        evidence = Evidence(Recording(environment={}, conditions=(), trials=tuple(self.rounds.trials)))
        shown = {
            trial.seed
            for trial in self.rounds.trials
            if trial.condition == condition.name
            and trial.role is Role.SUBJECT
            and not trial.answer.failed
            and not evidence_of(condition, trial, evidence)
        }
        return [seed for seed in self.plan.seeds if seed not in shown]

    def _try_again(self, condition: Condition) -> Condition:
        self._one_at_a_time(condition, self.plan.seeds)
        return condition

    def _try_order(self, condition: Condition) -> Condition:
        """Backwards; what runs before the first of them has a prompt of its own."""
        given = {"prompt": self.rendered(self.plan.prompt(0, "order"))}
        self._run(condition.name, [Ask(request=self.request(0, given), prompt="order", role=Role.PRIMER)])
        self._one_at_a_time(condition, self.plan.seeds[::-1])
        return condition

    def _try_beside(self, condition: Condition) -> Condition:
        """All seeds in rounds of width + 1; then those again, with longer neighbours, that were not company enough."""
        told: dict[str, Any] = {}
        together = condition.width + 1
        for start in range(0, len(self.plan.seeds), together):
            seeds = self.plan.seeds[start : start + together]
            others = self.others(seeds, together - len(seeds), 1)
            asks = [self.ask(seed, Role.SUBJECT) for seed in seeds] + others
            self._run(condition.name, asks, when_all_speak=lambda: self._look(told))
        for seed in self._missing(condition):
            if not self._pressed(condition, seed, told) and len(self._missing(condition)) == len(self.plan.seeds):
                break  # the worker does not run so many at a time
        return attrs.evolve(condition, told=told)

    def _pressed(self, condition: Condition, seed: int, told: dict[str, Any]) -> bool:
        """A seed again, beside longer and longer neighbours, until the condition takes place; whether it does.

        More often where it did for other seeds: then the worker runs so many, and what is in the way is the machine's load.
        """
        tries = self.plan.tries
        for number in range(tries if len(self._missing(condition)) == len(self.plan.seeds) else PATIENCE * tries):
            asks = [*self.others([seed], condition.width, 2 + min(number, tries)), self.ask(seed, Role.SUBJECT)]
            self._run(condition.name, asks, when_all_speak=lambda: self._look(told))
            if seed not in self._missing(condition):
                return True
        return False

    def others(self, but: Sequence[int], count: int, longer: int) -> list[Ask]:
        """Neighbours of those seeds, with prompts and seeds of their own."""
        first = max(*self.plan.seeds, *but, 0) + 1
        return [self.ask(seed, Role.NEIGHBOUR, longer=longer) for seed in self._chosen.neighbours(first, count)]

    def _look(self, told: dict[str, Any]) -> None:
        """How many the worker says it is busy with, at most: as often as it bears to be asked. It may be over when it is."""
        if self.rounds.now() < self._look_from:
            return
        try:
            found = self._adapters[0].properties(scrape=True)  # which nothing else here reads: what it says is new
        except WorkerError:
            return
        finally:
            self._look_from = self.rounds.now() + self._adapters[0].traits.probe_interval
        if found.slots_total is not None and found.slots_free is not None:
            busy = found.slots_total - found.slots_free
            told["busy"] = max(busy, told["busy"]) if type(told.get("busy")) is int else busy or NOT_SEEN

    def _try_prefix(self, condition: Condition) -> Condition:
        told = {"cache": UNCACHED} if self._is_uncached() else {}
        for seed in self.plan.seeds:
            given = {"prompt": self.rendered(self.plan.prompt(seed, "prefix"))}
            self._twice(condition, seed, given)
        return attrs.evolve(condition, told=told)

    def _twice(self, condition: Condition, seed: int, given: dict[str, Any]) -> None:
        """A request and the same again, alone: the first is the reference."""
        reference = Ask(request=self.request(seed, given), prompt=condition.name, role=Role.REFERENCE)
        (first,) = self._run(condition.name, [reference])
        again = Ask(request=self.request(seed, given), prompt=condition.name, role=Role.SUBJECT, reference=first.number)
        self._run(condition.name, [again])

    def _try_length(self, condition: Condition) -> Condition:
        given = self._prompt_of(condition.length)
        if given is None:
            return attrs.evolve(condition, hindered="no prompt of that length could be made")
        for seed in self.plan.length_seeds:
            self._twice(condition, seed, given)
        return condition

    def _prompt_of(self, length: int) -> dict[str, Any] | None:
        def measure(text: str) -> int | None:
            request = self.request(0, {"prompt": text}, max_tokens=1)
            (trial,) = self.rounds.run("length", [Ask(request=request, prompt="", role=Role.PRIMER)], keep=False)
            return trial.answer.tokens_in

        return prompt_of(length, f"{self.plan.nonce[:4]} {length}", self._adapters[0], measure)

    def _try_cancelled(self, condition: Condition) -> Condition:
        seeds: Sequence[int] = self.plan.seeds
        for _ in range(self.plan.tries):
            for seed in seeds:
                asks = [*self.others([seed], 1, 2), self.ask(seed, Role.SUBJECT)]
                self._run(condition.name, asks, cancel=True)
            missing = self._missing(condition)
            if not missing or len(missing) == len(self.plan.seeds):
                break
            seeds = missing
        return condition

    def _try_worker(self, condition: Condition) -> Condition:
        self._one_at_a_time(condition, self.plan.seeds, worker=condition.worker)
        return condition

    def _try_restart(self, condition: Condition) -> Condition:
        assert self.plan.restart_cmd is not None  # noqa: S101  -- without it there is no such condition
        held = self.request(0, {"prompt": self.plan.prompt(0, "restart")}, max_tokens=HELD)
        told = restart(self._adapters[0], self.plan.restart_cmd, held)
        self._one_at_a_time(condition, self.plan.seeds)
        return attrs.evolve(condition, told=told)

    # --- the least that diverges ------------------------------------------------------------------------------------

    def bisect(self, report: Report) -> list[dict[str, Any]]:
        """Of each condition that diverged, for its first seed, the least that still does. Blocks; raises WorkerError."""
        planned = {condition.name: condition for condition in self._planned}
        found = []
        for verdict in report.verdicts:
            if verdict.divergences:
                least = Shrinking(self, planned[verdict.condition], verdict.divergences[0].seed).least()
                found.append({"condition": verdict.condition, "seed": verdict.divergences[0].seed, "least": least})
        return found

    # --- environment ------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, Any]:
        plan = attrs.asdict(self.plan) | {"seeds": list(self.plan.seeds)}
        return {
            "library": VERSION,
            "python": platform.python_version(),
            **self._given,
            "plan": {name: list(value) if isinstance(value, tuple) else value for name, value in plan.items()},
            "workers": [self._worker(adapter) for adapter in self._adapters],
        }

    def _worker(self, adapter: Adapter) -> dict[str, Any]:
        try:
            told = adapter.properties()
        except WorkerError as error:
            return {"failed": str(error)}
        names = ("engine", "engine_version", "trtllm_version", "model", "model_digest", "context_length", "slots_total")
        known = {name: getattr(told, name) for name in names}
        return {name: value for name, value in known.items() if value is not None} | dict(told.details)

    def _levels(self) -> dict[str, Any]:
        """What `Started` said: the level granted, and what stood against more."""
        granted = {trial.answer.level for trial in self.rounds.trials if trial.answer.level}
        reasons = {reason for trial in self.rounds.trials for reason in trial.answer.reasons}
        lowest = DeterminismLevel.BEST_EFFORT if DeterminismLevel.BEST_EFFORT in granted else min(granted, default="-")
        return {"profile": "v1", "determinism": str(lowest), "reasons": sorted(reasons)}
