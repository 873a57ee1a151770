"""Rounds of requests that run at once, on the library's merged streams, and what came of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ..api import Adapter, End, Error, Event, GenerateRequest, Metrics, Started, Stream, Token, TokenLogprob
from ..registry import merge
from .records import Answer, Role, Trial
from .tapping import Heard, Tap

__all__ = ["Ask", "Rounds"]

CACHED = ("cached_tokens", "cache_n")  # what engines call the tokens that they took from their cache


@attrs.frozen(kw_only=True)
class Ask:
    """One request of a round."""

    request: GenerateRequest
    prompt: str
    role: Role
    worker: int = 0
    reference: int | None = None


class _Heard:
    """What has come of one stream."""

    def __init__(self, ask: Ask, submitted: float) -> None:
        self.ask = ask
        self.submitted = submitted
        self.ended = 0.0
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.started: Started | None = None
        self.metrics: dict[str, Any] = {}
        self.last: End | Error | None = None

    def take(self, event: Event, now: float) -> None:
        """One event."""
        if isinstance(event, Token):
            self.texts.append(event.text)
            self.ids += event.token_ids or ()
            self.logprobs += event.logprobs or ()
        elif isinstance(event, Started):
            self.started = event
        elif isinstance(event, Metrics):
            self.metrics.update(event.values)
        else:
            self.last, self.ended = event, now

    def answer(self, heard: Heard, begin: float) -> Answer:
        """All of it, and what was heard of it on its way."""
        started, last, request = self.started, self.last, self.ask.request
        end = last if isinstance(last, End) else None
        complete = end is not None and end.token_ids_complete
        cached = next((self.metrics[name] for name in CACHED if name in self.metrics), None)
        return Answer(
            text="".join(self.texts),
            finish="" if end is None else str(end.finish_reason),
            submitted=self.submitted,
            reads=tuple(at - begin for at in heard.reads),
            marks=tuple(heard.marks) if heard.counted and heard.marks else None,
            ended=self.ended,
            token_ids=(*self.ids, *((end.token_ids_tail if end else None) or ())) if complete else None,
            logprobs=tuple(self.logprobs) if request.logprobs is not None and self.logprobs else None,
            tokens_in=(end.tokens_in if end else None) or (started.tokens_in if started else None),
            tokens_out=end.tokens_out if end else 0,
            cached=cached if isinstance(cached, int) else None,
            failed=f"{last.code}/{last.reason}: {last.message}" if isinstance(last, Error) else "",
            level=str(started.determinism) if started else "",
            reasons=started.determinism_reasons if started else (),
            engine_version=started.engine_version if started else None,
            model=started.model if started else None,
            model_digest=started.model_digest if started else None,
        )


class Rounds:
    """Runs rounds and numbers them; `trials` is all that came. One thread."""

    def __init__(self, adapters: Sequence[Adapter], tap: Tap) -> None:
        self.trials: list[Trial] = []
        self._adapters = adapters
        self._tap = tap
        self._begin = tap.clock()
        self._round = 0

    def demote(self, trials: Sequence[Trial]) -> None:
        """They were tried and not chosen: nothing is compared with them."""
        for trial in trials:
            self.trials[trial.number] = attrs.evolve(trial, role=Role.PRIMER)

    def now(self) -> float:
        """Seconds since the run began."""
        return self._tap.clock() - self._begin

    def run(
        self,
        condition: str,
        asks: Sequence[Ask],
        *,
        cancel: bool = False,
        when_all_speak: Callable[[], None] | None = None,
        keep: bool = True,
    ) -> list[Trial]:
        """Submit them together and read them to the end. Blocks; raises WorkerError where one can't be submitted.

        `cancel`: neighbours are cancelled once everybody has said something. `when_all_speak` is called then, while
        they go on. `keep`: among the trials.
        """
        heard: dict[Stream, _Heard] = {}
        try:
            for ask in asks:
                submitted = self.now()
                stream = self._adapters[ask.worker].submit(ask.request, block=True)
                heard[stream] = _Heard(ask, submitted)
            self._read(heard, cancel=cancel, when_all_speak=when_all_speak)
        finally:
            for stream in heard:
                stream.close()
        self._round += 1
        trials = [self._trial(condition, each, len(self.trials) + n) for n, each in enumerate(heard.values())]
        if keep:
            self.trials += trials
        return trials

    def _read(self, heard: Mapping[Stream, _Heard], *, cancel: bool, when_all_speak: Callable[[], None] | None) -> None:
        silent = len(heard)
        with merge(list(heard)) as merged:
            for stream, event in merged:
                each = heard[stream]
                first = isinstance(event, Token) and not each.texts
                each.take(event, self.now())
                silent -= first
                if first and not silent and when_all_speak is not None:
                    when_all_speak()
                over = each.last is not None and each.ask.role is not Role.NEIGHBOUR
                if cancel and ((first and not silent) or over):
                    for other, its in heard.items():
                        if its.ask.role is Role.NEIGHBOUR:
                            other.cancel()

    def _trial(self, condition: str, heard: _Heard, number: int) -> Trial:
        ask = heard.ask
        sent, on_the_way = self._tap.taken(ask.request.task_id)
        return Trial(
            number=number,
            condition=condition,
            round=self._round,
            role=ask.role,
            worker=ask.worker,
            seed=ask.request.seed or 0,
            prompt=ask.prompt,
            reference=ask.reference,
            sent=sent,
            answer=heard.answer(on_the_way, self._begin),
        )
