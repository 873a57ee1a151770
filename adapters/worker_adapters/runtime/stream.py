"""The handle of a stream, and its two ways to run: on the calling thread, or on a worker thread with a hand-over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Self

from ..api import CancelOutcome, Completion, End, Error, Event, Metrics, Started, Token, TokenLogprob
from ..lifetime import Cause, Interrupted
from .channel import Channel
from .envelope import exception_of
from .layers import TERMINAL, Runs
from .state import StreamState

__all__ = ["RunningStream", "on_calling_thread", "on_worker_thread"]


def _nothing_to_drop() -> None:
    return None


class _Handed:
    """The runs as they reach the consumer, the terminal event in one of its own. Refers to the stream, not to its handle.

    A cancel empties the run in the consumer's hand, the lifetime's `handed`: no Token comes after it, although
    `itertools.chain` iterates the list without asking anybody.
    """

    __slots__ = ("_abandon", "_next_run", "_state", "begun", "terminal")

    def __init__(self, state: StreamState, next_run: Callable[[], list[Event]], abandon: Callable[[], None]) -> None:
        self._state = state
        self._next_run = next_run
        self._abandon = abandon
        self.terminal: Event | None = None  # has come, and follows what is in the consumer's hand
        self.begun = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sequence[Event]:
        self.begun = True
        state, lifetime = self._state, self._state.lifetime
        if state.delivered:
            raise StopIteration
        run: list[Event] = []
        if self.terminal is None and not lifetime.cancelled:
            run = self._next_run()
            if run and type(run[-1]) in TERMINAL:
                self.terminal = run.pop()
            lifetime.handed = run
        if lifetime.cancelled or not (run or self.terminal):  # perhaps meanwhile: what came with it is dropped
            lifetime.handed.clear()
            self._abandon()
            run, self.terminal = [], state.cancelled()
        if run:
            return run
        assert self.terminal is not None  # noqa: S101  -- for mypy: one of the two is there
        state.delivered = True
        return (self.terminal,)


def _holding(_handle: object) -> Iterator[Event]:
    """Nothing, but keeps the handle alive as long as somebody iterates: dropping it would cancel."""
    yield from ()


class RunningStream:
    """A Stream (see api.adapter). Nothing that runs refers to it, so dropping it is noticed: it cancels."""

    __slots__ = ("__weakref__", "_abandon", "_drop", "_events", "_handed", "_kept", "_lifetime", "_state")

    def __init__(
        self,
        state: StreamState,
        next_run: Callable[[], list[Event]],
        abandon: Callable[[], None],
        drop: Callable[[], None],
        *,
        collect: bool,
    ) -> None:
        self._state = state
        self._lifetime = state.lifetime
        self._abandon = abandon  # frees what the stream holds
        self._drop = drop  # the same for the garbage collector, which may be inside of any lock: takes none but ours
        self._handed = _Handed(state, next_run, abandon)
        self._events = chain.from_iterable(self._handed)
        self._kept: list[Event] | None = [] if collect else None

    @property
    def task_id(self) -> str:
        """See Stream."""
        return self._state.request.task_id

    def __iter__(self) -> Iterator[Event]:
        # All in C: a method of ours per event would cost more than making the event does.
        if self._kept is not None:
            return self
        return chain(self._events, chain.from_iterable(self._handed), _holding(self))

    def __next__(self) -> Event:
        for event in self._events:
            if self._kept is not None:
                self._kept.append(event)
            return event
        if self._state.delivered:
            raise StopIteration
        self._events = chain.from_iterable(self._handed)  # an exception ended it: Ctrl-C
        return next(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._handed.terminal is None:
            self._lifetime.trip(Cause.CANCELLED)
            self._drop()

    def cancel(self) -> CancelOutcome:
        """See Stream."""
        if self._state.delivered:
            return CancelOutcome.UNKNOWN
        self._lifetime.trip(Cause.CANCELLED)
        return CancelOutcome.CLOSED

    def close(self) -> None:
        """See Stream."""
        if not self._state.delivered:
            self._lifetime.trip(Cause.CANCELLED)
        self._abandon()
        self._drop = _nothing_to_drop

    def result(self) -> Completion:
        """See Stream."""
        if self._kept is None:
            if self._handed.begun:
                raise RuntimeError("result() after iteration has begun needs a stream made with collect=True")
            self._kept = list(self)
        for _ in self:
            pass
        return _collected(self._kept)


def _collected(events: list[Event]) -> Completion:
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
    return completion


def on_calling_thread(state: StreamState, runs: Runs, release: Callable[[], None], *, collect: bool) -> RunningStream:
    """The stream runs in its consumer's `next`."""

    def next_run() -> list[Event]:
        try:
            run = next(runs)
        except (StopIteration, ValueError):  # closed, or just being closed, by another thread
            return []
        except BaseException:  # Ctrl-C: the layers themselves let nothing out
            state.lifetime.trip(Cause.CANCELLED)
            release()
            raise
        if type(run[-1]) in TERMINAL:
            runs.close()
            release()
        return run

    def abandon() -> None:
        # ValueError: the generator is running, on another thread, which the tripped lifetime makes leave by itself.
        with contextlib.suppress(ValueError):
            runs.close()
            release()

    def drop() -> None:
        state.lifetime.later(abandon)
        release()

    return RunningStream(state, next_run, abandon, drop, collect=collect)


def on_worker_thread(
    state: StreamState,
    runs: Runs,
    release: Callable[[], None],
    *,
    size: int,
    spawn: Callable[[Callable[[], None]], None],
    collect: bool,
) -> RunningStream:
    """The stream runs on a worker thread, which hands its events over."""
    channel: Channel[Event] = Channel(size, state.lifetime, state.lifetime.clock)
    state.lifetime.attach(channel.wake)

    def work() -> None:
        try:
            _pump(state, runs, channel)
        finally:
            state.lifetime.detach(channel.wake)
            channel.finish([])  # nobody waits for a thread that is gone, whatever it died of
            release()

    try:
        spawn(work)
    except BaseException:
        release()
        raise
    return RunningStream(state, channel.take, lambda: None, lambda: None, collect=collect)


def _pump(state: StreamState, runs: Runs, channel: Channel[Event]) -> None:
    run = next(runs)
    while type(run[-1]) not in TERMINAL:
        try:
            channel.put(run)
        except Interrupted as exc:
            state.blocked_seconds = channel.blocked_seconds
            run = runs.throw(exc)  # the layers turn it into the terminal event, like one raised in a read
        else:
            state.blocked_seconds = channel.blocked_seconds
            run = next(runs)
    runs.close()
    channel.finish(run)
