"""The completion that the events of a stream come to."""

from __future__ import annotations

from ..api import Completion, End, Error, Event, Metrics, Started, StreamCancelledError, Token, TokenLogprob
from .envelope import exception_of
from .runs import TERMINAL

__all__ = ["collected", "is_whole"]


def is_whole(events: list[Event] | None) -> bool:
    """Whether the terminal event is among them."""
    return events is not None and bool(events) and isinstance(events[-1], TERMINAL)


def collected(events: list[Event]) -> Completion:
    """What they come to. Raises WorkerError, StreamCancelledError, with what had come."""
    started = next((e for e in events if type(e) is Started), None)
    terminal = events[-1]
    tokens = [e for e in events if type(e) is Token]
    ids: list[int] = [i for token in tokens for i in token.token_ids or ()]
    end = terminal if isinstance(terminal, End) else None
    if end is not None:
        ids += end.token_ids_tail or ()
    logprobs: list[TokenLogprob] = [p for token in tokens for p in token.logprobs or ()]
    metrics = next((e.values for e in reversed(events) if type(e) is Metrics), {})
    completion = Completion(
        text="".join([token.text for token in tokens]),
        started=started,
        end=end,
        token_ids=tuple(ids) if ids or (end is not None and end.token_ids_tail is not None) else None,
        logprobs=tuple(logprobs) if logprobs else None,
        metrics=metrics,
    )
    if isinstance(terminal, Error):
        error = exception_of(terminal)
        error.partial = completion
        raise error
    if end is not None and end.finish_reason == "cancelled":
        raise StreamCancelledError(completion)
    return completion
