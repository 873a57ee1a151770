"""The layers of a stream: plain generators around an iterator of runs, in one order, which `layered` fixes.

    measured(ending(retrying(leaving(attempt))))

Inside, exceptions: `Fault` for what went wrong, `Interrupted` for a tripped lifetime. `ending` is the one place where
they become the terminal event. All act per run of events, never per event.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from ..api import End, Error, ErrorCode, Event, Metrics, Reason, Started, Token, Upstream
from ..codec import SSEDecoder
from ..dialect import Fault, Finished, Item, Opened, Payload, Run
from ..lifetime import Cause, Interrupted
from ..transport import Exchange
from .again import wait_before_next
from .envelope import fault_of_cause
from .grade import Grade
from .leaving import leaving
from .log import log_end
from .metrics import Summary
from .reply import refused, require_event_stream
from .state import StreamState
from .validate import validate
from .worker import Worker

__all__ = ["TERMINAL", "Runs", "layered"]

_log = logging.getLogger("worker_adapters")

Runs: TypeAlias = Generator[list[Event], None, None]

TERMINAL = (End, Error)
DRAIN_SECONDS = 0.1  # a keep-alive server's chunk terminator follows its end sign at once, or not soon
PROGRESS_SECONDS = 0.5  # between two updates of the token counters: scrapes are many seconds apart
MIB = 1024 * 1024
LARGEST_EVENT = 1024 * MIB  # the codec's own bound


def layered(worker: Worker, state: StreamState) -> Runs:
    """The events of a stream in runs, the last of which ends with the terminal event. Blocks in `next`; never raises."""
    return measured(worker, state, ending(worker, state, retrying(worker, state)))


# --- attempt: one request, and what its response says: Started (Token | Metrics)* End ---------------------------------


def attempt(worker: Worker, state: StreamState, grade: Grade) -> Runs:
    """One exchange with the engine, as events in the order and with the indexes that the contract promises.

    Ends with the terminal event, in a run of its own with at most the last Metrics, so that it can always be handed over;
    raises where the engine gave no sign of the end.
    """
    dialect, lifetime, tally, clock = worker.dialect, state.lifetime, state.tally, state.lifetime.clock
    wire = dialect.encode(state.request, attempt=state.attempts)
    with worker.transport.open(wire, worker.auth_headers(), lifetime) as exchange:
        if exchange.status != 200:
            raise refused(exchange, dialect, worker.limits.max_error_body)
        require_event_stream(exchange, dialect)
        decoder = SSEDecoder(_event_limit(worker, len(wire.body)))
        counted, framed = 0, False
        batches, ended = exchange.payloads(decoder), list[bool]()
        if dialect.traits.ends_with_body:
            batches = _noting_the_end(batches, ended)
        for run in dialect.decode(batches, request=state.request, tally=tally):
            if len(run) == 1 and type(alone := run[0]) is Token and alone.index == state.tokens_seen > 0:
                # What most of a stream's life is made of, and all of it in one place: each function that a wake-up has to go
                # through costs it up to a microsecond of cold caches (benchmarks/bench_paced.py).
                state.tokens_seen += 1
                counted = tally.tokens_out
                state.last_token_at = now = clock()
                if now >= state.progress_due:
                    _progress(worker, state)
                lifetime.paused = True
                yield run  # type: ignore[misc]  # of Tokens alone
                lifetime.resume()
                continue
            framed = True
            if run and state.started is None:
                state.started = _started(worker, state, grade, run.pop(0))
                lifetime.pause()  # the first-token timer goes on after this, if nothing came with it
                yield [state.started]
                lifetime.resume()
            if not run and tally.tokens_out == counted:
                continue  # a sign of life, and no content
            counted = tally.tokens_out
            last = _taken(run)
            events = _checked(worker, state, run) if run else []
            if last is not None:
                if ended:
                    _require_proof(exchange, decoder)
                lifetime.disarm()  # the engine has done its part: how long the consumer takes is not charged to it
                exchange.settle(DRAIN_SECONDS)
                break
            lifetime.hand_over()
            if events:
                yield events
            lifetime.resume()
        else:
            raise _unfinished(exchange, decoder, framed=framed)
    if events:
        yield events
    yield _end(state, last)


def _taken(run: Run) -> Finished | None:
    """The Finished of the last run, which it loses."""
    if run and type(run[-1]) is Finished:
        last = run.pop()
        assert isinstance(last, Finished)  # noqa: S101  -- for mypy
        return last
    return None


def _event_limit(worker: Worker, encoded: int) -> int:
    """llama-server's last event echoes the whole prompt, in JSON that may escape it: 8 times, and room for the rest."""
    return min(worker.limits.max_event_size or min(max(MIB, 8 * encoded + 256 * 1024), 64 * MIB), LARGEST_EVENT)


def _unfinished(exchange: Exchange, decoder: SSEDecoder, *, framed: bool) -> Fault:
    """What it means that the body ended here."""
    shown = b""
    if (tail := decoder.close()) is not None:
        # A first event that was cut short, within its data or within the word itself.
        framed = framed or bool(tail.data) or any(b"data".startswith(name) for name, _ in tail.unknown)
        fields = (b": ".join(field) for field in tail.unknown)
        shown = b"\n".join((tail.data, *fields)).strip()[:2048]
    upstream = Upstream(message=shown.decode("utf-8", "replace")) if shown else None
    if framed:
        return Fault(Reason.TRUNCATED, "the body ended before the engine's own sign of the end", upstream=upstream)
    if exchange.content and not decoder.comments:
        return Fault(
            Reason.PROTOCOL, "the body holds no server-sent event: is this URL the engine's?", upstream=upstream
        )
    return Fault(Reason.EMPTY, "the engine answered 200 without a single event", upstream=upstream)


def _noting_the_end(batches: Iterator[Sequence[Payload]], ended: list[bool]) -> Iterator[Sequence[Payload]]:
    yield from batches
    ended.append(True)


def _require_proof(exchange: Exchange, decoder: SSEDecoder) -> None:
    """Raise Fault unless the end of the body, which was taken for the end of the stream, can be nothing else."""
    tail = decoder.close()
    if not exchange.framed or (tail is not None and (tail.data or tail.unknown)):
        raise Fault(Reason.TRUNCATED, "the body ended in a way that does not prove the end of the stream")


def _unlawful(worker: Worker, what: str) -> Fault:
    return Fault(Reason.BUG, f"the dialect {worker.dialect.name} broke the grammar of events: {what}")


def _checked(worker: Worker, state: StreamState, run: Run) -> list[Event]:
    """The run as events, counted. Indexes are checked at both ends of a run of Tokens, which a decoder fills in one loop."""
    events: list[Event] = run  # type: ignore[assignment]  # what is no event is not let through
    first, last, tokens = events[0], events[-1], len(events)
    if type(first) is not Token or type(last) is not Token or (tokens > 2 and len(set(map(type, events))) > 1):
        tokens = _checked_mixed(worker, state, events)
    elif first.index != state.tokens_seen or last.index != state.tokens_seen + tokens - 1:
        raise _unlawful(worker, f"Token {first.index} where {state.tokens_seen} was due")
    if tokens:
        state.tokens_seen += tokens
        now = state.last_token_at = state.lifetime.clock()
        if state.first_token_at is None:
            state.first_token_at = now
        if now >= state.progress_due:
            _progress(worker, state)
    return events


def _checked_mixed(worker: Worker, state: StreamState, events: list[Event]) -> int:
    """A run with Metrics in it; those that come before the first Token are dropped."""
    if strange := next((event for event in events if type(event) not in (Token, Metrics)), None):
        raise _unlawful(worker, f"{type(strange).__name__} came in mid-stream")
    tokens = [event for event in events if type(event) is Token]
    if [event.index for event in tokens] != list(range(state.tokens_seen, state.tokens_seen + len(tokens))):
        raise _unlawful(worker, f"Token indexes are not contiguous after {state.tokens_seen}")
    seen = state.tokens_seen > 0
    kept: list[Event] = []
    for event in events:
        seen = seen or type(event) is Token
        if seen or type(event) is not Metrics:
            kept.append(event)
    events[:] = kept
    return len(tokens)


def _started(worker: Worker, state: StreamState, grade: Grade, opened: Item) -> Started:
    if type(opened) is not Opened:
        raise _unlawful(worker, f"{type(opened).__name__} came before Opened")
    request, known = state.request, worker.known_for_started()
    return Started(
        task_id=request.task_id,
        engine=worker.dialect.name,
        engine_version=known.engine_version,
        model=opened.model or request.model or known.model,
        model_digest=known.model_digest,
        trtllm_version=known.trtllm_version,
        seed=request.seed or 0,
        sampler_profile_version=request.sampler_profile_version,
        determinism=grade.level,
        determinism_reasons=grade.reasons,
        attempt=state.attempts,
        tokens_in=opened.tokens_in,
    )


def _end(state: StreamState, finished: Finished) -> list[Event]:
    tally = state.tally
    end = End(
        finish_reason=finished.finish_reason,
        finish_reason_raw=finished.finish_reason_raw,
        finish_reason_source=finished.finish_reason_source,
        stop_text=finished.stop_text,
        tokens_out=state.tokens_out(),
        tokens_in=tally.tokens_in,
        usage_source=tally.usage_source,
        token_ids_tail=finished.token_ids_tail,
        token_ids_complete=finished.token_ids_complete,
        decode_time_ms=state.decode_ms(),
    )
    state.terminal = end
    if state.first_token_at is None:
        return [end]
    values: dict[str, float | int | str] = {
        **finished.metrics,
        "latency_first_token_ms": (state.first_token_at - state.submitted_at) * 1000,
        "latency_decode_ms": end.decode_time_ms,
        "tokens_out": end.tokens_out,
    }
    if end.tokens_in is not None:
        values["tokens_in"] = end.tokens_in
    return [Metrics(values=values), end]


# --- retrying: only before Started ------------------------------------------------------------------------------------


def retrying(worker: Worker, state: StreamState) -> Runs:
    """Attempts, until one has started or what went wrong would go wrong again."""
    lifetime = state.lifetime
    lifetime.check()
    if _resolved(worker, state):
        validate(state.request, worker.dialect)
    grade = Grade.of(worker, state.request, lifetime)
    lifetime.check()
    worker.begin_version_probe()
    while True:
        state.attempts += 1
        try:
            yield from leaving(worker, state, attempt(worker, state, grade))
        except Interrupted as exc:
            if exc.cause is not Cause.CONNECT_TIMEOUT:
                raise
            failed = fault_of_cause(exc.cause, lifetime, state.request.deadline)
            failed.__cause__ = exc
        except Fault as fault:
            failed = fault
        else:
            return
        _try_again(failed, worker, state)


def _resolved(worker: Worker, state: StreamState) -> bool:
    """Find out what the worker speaks, where that takes asking: each failure is an attempt of the stream's."""
    while True:
        try:
            return worker.resolve_within(state.lifetime)
        except Fault as fault:
            failed = fault
        state.attempts += 1
        _try_again(failed, worker, state)


def _try_again(failed: Fault, worker: Worker, state: StreamState) -> None:
    """Wait for the next attempt. Raises the failure where it is the answer, and Interrupted."""
    wait = wait_before_next(failed, worker, state)
    if wait is None:
        raise failed
    state.lifetime.next_attempt()
    _quietly(worker.recorder.retried)
    state.lifetime.sleep(wait)


# --- ending: exceptions → the terminal event --------------------------------------------------------------------------


def ending(worker: Worker, state: StreamState, runs: Runs) -> Runs:
    """Exactly one terminal event, whatever happens below."""
    lifetime = state.lifetime
    terminal: End | Error
    try:
        yield from runs
    except Interrupted as exc:
        if exc.cause is Cause.CANCELLED:
            terminal = state.cancelled()
        else:
            terminal = _error(worker, state, fault_of_cause(exc.cause, lifetime, state.request.deadline))
    except Fault as fault:
        terminal = _error(worker, state, fault)
    except Exception as exc:  # noqa: BLE001  -- a bug of ours must end the stream as an Error, not its thread
        bug = _described(exc)
        _log.error("a stream met a bug of its adapter: %s", bug, extra={"task_id": state.request.task_id})
        terminal = _error(worker, state, Fault(Reason.BUG, f"a bug of the adapter: {bug}"))
    else:
        return
    state.terminal = terminal
    yield [terminal]


def _described(exc: BaseException) -> str:
    """What an operator needs to find a bug, and not its message: a decoder's exceptions quote what it was decoding."""
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(exc.__traceback__)]
    return f"{type(exc).__name__} at {' < '.join(reversed(places[-4:]))}"


def _error(worker: Worker, state: StreamState, fault: Fault) -> Error:
    error = worker.error(fault, phase=state.lifetime.phase, attempts=state.attempts, started=state.started is not None)
    if error.code is ErrorCode.WORKER_RESET or error.reason in (Reason.CONNECT, Reason.CONNECT_TIMEOUT):
        worker.forget_version()  # it may come back as another
    return error


# --- measured: metrics and the log line -------------------------------------------------------------------------------


def measured(worker: Worker, state: StreamState, runs: Runs) -> Runs:
    """Reports the stream once, also one whose consumer went away. Its tokens are counted while they come (`_progress`).

    An Interrupted that is thrown in (the hand-over was blocked when the lifetime was tripped) goes on to the layers below,
    which end the stream as they do for one raised in a read.
    """
    _quietly(worker.recorder.started)
    try:
        yield from runs
    finally:
        _progress(worker, state)
        _quietly(_report, worker, state, state.terminal or state.cancelled())


def _progress(worker: Worker, state: StreamState) -> None:
    """Bring the token counters up to date: not with every read, which would cost as much as decoding it."""
    tokens_in, tokens_out = state.tally.tokens_in or 0, state.tokens_out()
    more_in, more_out = tokens_in - state.reported_in, tokens_out - state.reported_out
    if more_in > 0 or more_out > 0:
        _quietly(
            worker.recorder.tokens, state.request.priority, worker.known_version, tokens_in=more_in, tokens_out=more_out
        )
        state.reported_in, state.reported_out = tokens_in, tokens_out
    state.progress_due = state.lifetime.clock() + PROGRESS_SECONDS


def _quietly(report: Callable[..., None], *args: object, **named: object) -> None:
    """A registry or a log handler that raises is no reason for a stream to fail."""
    try:
        report(*args, **named)
    except Exception as exc:  # noqa: BLE001  -- whatever an application plugged in
        with contextlib.suppress(Exception):  # perhaps it is logging itself that fails
            _log.error("a stream could not be reported: %s", _described(exc))


def _report(worker: Worker, state: StreamState, terminal: End | Error) -> None:
    first, spacing = state.first_token_at, None
    if first is not None and state.last_token_at is not None and state.tokens_seen > 1:
        spacing = (state.last_token_at - first) * 1000 / (state.tokens_seen - 1)
    worker.recorder.ended(
        Summary(
            priority=state.request.priority,
            version=worker.known_version,
            outcome="error" if isinstance(terminal, Error) else str(terminal.finish_reason),
            code=terminal.code if isinstance(terminal, Error) else None,
            reason=terminal.reason if isinstance(terminal, Error) else None,
            first_token_ms=None if first is None else (first - state.submitted_at) * 1000,
            decode_ms=None if first is None else state.decode_ms(),
            inter_token_ms=spacing,
            blocked_seconds=state.blocked_seconds,
        )
    )
    log_end(worker, state, terminal)
