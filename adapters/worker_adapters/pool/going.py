"""Going on with a stream elsewhere, from the ids of its prompt and those that have come so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import msgspec

from ..api import (
    DeterminismLevel,
    End,
    ErrorCode,
    FinishReason,
    FinishReasonSource,
    GenerateRequest,
    OnDegraded,
    Reason,
    Resumption,
    Token,
)
from ..api.errors import code_of, is_retriable
from ..dialect import Dialect, Fault, Finished, Opened, Payload, Run, Tally
from ..helpers import HELPERS
from ..runtime.running import Running
from ..runtime.worker import Worker
from ..waiting import Steps

__all__ = ["AGAINST_STRICT", "Story", "can_go_on", "is_death"]

AGAINST_STRICT = ("the stream may go on at another worker (resume=continue)",)
_DEATHS = frozenset({ErrorCode.WORKER_RESET, ErrorCode.DECODE_TIMEOUT})


def is_death(failed: Fault) -> bool:
    """Whether a stream that had started may go on elsewhere after this; and one that was about to, at a third worker."""
    code, reason = code_of(failed.reason, started=False)
    return code_of(failed.reason, started=True)[0] in _DEATHS or is_retriable(code, reason)


def can_go_on(request: GenerateRequest, dialect: Dialect) -> None:
    """Raise Fault for a request with which no stream could be continued."""
    features = dialect.features
    if not (features.prompt_tokens and features.token_ids):
        raise Fault(Reason.UNSUPPORTED, f"{dialect.name} can't go on elsewhere: it takes, or tells, no token ids")
    if request.prompt is not None and dialect.tokenize is None:
        raise Fault(
            Reason.UNSUPPORTED, f"{dialect.name} has no tokenizer to ask: resume='continue' needs prompt_tokens"
        )
    if not (request.json_schema is None and request.regex is None and request.grammar is None):
        raise Fault(Reason.UNSUPPORTED, "an output constraint can't be continued elsewhere (resume='continue')")
    if request.determinism is DeterminismLevel.STRICT and request.on_degraded is OnDegraded.REFUSE:
        why = f"determinism strict can't be granted (on_degraded=refuse): {AGAINST_STRICT[0]}"
        raise Fault(Reason.VALIDATION, why)


@attrs.define(eq=False)
class Story:
    """What a stream has said so far. The driver's.

    `whole`: every Token had its ids, and they are as many as the engine has counted. `prompt`: the ids of the prompt.
    """

    request: GenerateRequest
    ids: list[int] = attrs.field(factory=list)
    whole: bool = True
    prompt: tuple[int, ...] | None = None
    resumed: list[Resumption] = attrs.field(factory=list)

    @property
    def is_known(self) -> bool:
        """Whether it can be told to another worker. Stop strings are held back by engines, whose ids have come already."""
        return self.whole and (not self.ids or not self.request.stop)

    @property
    def is_told(self) -> bool:
        """Whether nothing is left to say."""
        return len(self.ids) >= self.request.max_tokens

    def end(self, running: Running) -> End:
        """Of a stream whose worker died after its last token."""
        return End(
            finish_reason=FinishReason.LENGTH,
            finish_reason_source=FinishReasonSource.INFERRED,
            tokens_out=running.tokens_out(),
            tokens_in=running.tokens_in(),
            usage_source=running.tally.usage_source,
            token_ids_complete=True,
            decode_time_ms=running.decode_ms(),
            resumed=running.resumed,
        )

    def goes_on(self, running: Running, worker: Worker) -> Steps[None]:
        """Make the request that goes on there, where it has a place. Raises Fault, Interrupted."""
        if not self.ids:
            return  # nothing was said: the request as it was
        if self.prompt is None:
            self.prompt = yield from self._prompt(running, worker)
        running.request = attrs.evolve(
            running.request,
            prompt=None,
            prompt_tokens=(*self.prompt, *self.ids),
            max_tokens=self.request.max_tokens - len(self.ids),
        )
        running.wire = None

    def _prompt(self, running: Running, worker: Worker) -> Steps[tuple[int, ...]]:
        if self.request.prompt_tokens is not None:
            return self.request.prompt_tokens
        tokenize, text = worker.dialect.tokenize, self.request.prompt
        assert tokenize is not None  # noqa: S101  -- `can_go_on` has seen to it
        assert text is not None  # noqa: S101  -- one of them is there
        ask = partial(worker.probe, tokenize(text, True, worker.target()))
        ids: tuple[int, ...] = yield from HELPERS.call(("tokenize", id(worker)), ask, running.lifetime)
        if running.tokens_in() != len(ids):
            raise Fault(Reason.PROTOCOL, "the prompt has another number of tokens there")
        return ids

    def resumes(self, running: Running) -> None:
        """An attempt at going on has come to speak."""
        self.resumed.append(Resumption(index=running.tokens_seen, replica_id=running.worker.replica_id))
        running.resumed = tuple(self.resumed)

    def decoded(self, dialect: Dialect, batches: Iterator[Sequence[Payload]], running: Running) -> Iterator[Run]:
        """The runs of an attempt, its Tokens numbered on from what was there, and its counts added to that."""
        first, out, before = running.tokens_seen, len(self.ids), running.tally
        own = before if running.started is None else Tally()
        speaks = running.started is None or not first
        for run in dialect.decode(batches, request=running.request, tally=own):
            if running.started is not None and run and type(run[0]) is Opened:
                del run[0]
                self.resumes(running)
            for n, item in enumerate(run):
                if type(item) is Token:
                    run[n] = self._told(item, first)
                elif type(item) is Finished:
                    run[n] = attrs.evolve(item, token_ids_complete=item.token_ids_complete and self.whole)
            if own is not before:
                before.tokens_out = max(before.tokens_out, out + own.tokens_out)
                before.usage_source = own.usage_source
            if not speaks and run:
                speaks = True
                running.lifetime.content()
            yield run

    def _told(self, token: Token, first: int) -> Token:
        if token.token_ids:
            self.ids += token.token_ids
        else:
            self.whole = False
        return token if not first else msgspec.structs.replace(token, index=token.index + first)

    def counted(self, running: Running) -> None:
        """After a failure: whether the engine has counted more than it has told."""
        if running.tally.usage_source == "engine" and running.tally.tokens_out != len(self.ids):
            self.whole = False
