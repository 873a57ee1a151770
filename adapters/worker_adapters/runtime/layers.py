"""The layers of a stream: plain generators around an iterator of runs, in one order, which `layered` fixes.

    measured(ending(retrying(lawful(attempt))))

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

from ..api import End, Error, ErrorCode, Event, Metrics, Phase, Reason, Started, Token, Upstream
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Fault, Finished, Opened, Payload, Run
from ..lifetime import Cause, Interrupted
from ..transport import Exchange
from .envelope import fault_of_cause
from .grade import Grade
from .log import log_end
from .metrics import Summary
from .reply import refused, require_event_stream
from .state import StreamState
from .worker import Worker

__all__ = ["TERMINAL", "Runs", "layered"]

_log = logging.getLogger("worker_adapters")

Runs: TypeAlias = Generator[list[Event], None, None]

TERMINAL = (End, Error)
DRAIN_SECONDS = 0.1  # a keep-alive server's chunk terminator follows its end sign at once, or not soon
MIB = 1024 * 1024
LARGEST_EVENT = 1024 * MIB  # the codec's own bound


def layered(worker: Worker, state: StreamState) -> Runs:
    """The events of a stream in runs, the last of which ends with the terminal event. Blocks in `next`; never raises."""
    return measured(worker, state, ending(worker, state, retrying(worker, state)))


# --- attempt: one request, and what its response says ---------------------------------------------------------------


def attempt(worker: Worker, state: StreamState) -> Iterator[Run]:
    """One exchange with the engine. Ends after the run with `Finished`; raises where there is none."""
    dialect, lifetime, tally = worker.dialect, state.lifetime, state.tally
    wire = dialect.encode(state.request, attempt=state.attempts)
    last: Run = []
    with worker.transport.open(wire, worker.auth_headers(), lifetime) as exchange:
        if exchange.status != 200:
            raise refused(exchange, dialect, worker.limits.max_error_body)
        require_event_stream(exchange)
        frames = _Frames(exchange, SSEDecoder(_event_limit(worker, len(wire.body))))
        counted = 0
        for run in dialect.decode(iter(frames), request=state.request, tally=tally):
            if len(run) > 1 or tally.tokens_out != counted or (run and type(run[0]) is not Opened):
                counted = tally.tokens_out
                lifetime.content()
            if not run:
                continue
            if type(run[-1]) is Finished:
                exchange.settle(DRAIN_SECONDS)
                last = run
                break
            lifetime.pause()
            yield run
            lifetime.resume()
        else:
            raise frames.unfinished()
    yield last


def _event_limit(worker: Worker, encoded: int) -> int:
    """llama-server's last event echoes the whole prompt, in JSON that may escape it: 8 times, and room for the rest."""
    return min(worker.limits.max_event_size or min(max(MIB, 8 * encoded + 256 * 1024), 64 * MIB), LARGEST_EVENT)


class _Frames:
    """Chunks of the body → batches of payloads, one batch per read that completes any."""

    def __init__(self, exchange: Exchange, decoder: SSEDecoder) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._bytes = 0
        self._batches = 0
        self._tail = b""
        self._began = False

    def __iter__(self) -> Iterator[Sequence[Payload]]:
        decoder = self._decoder
        payloads = decoder.payloads
        for chunk in self._exchange.chunks():
            self._bytes += len(chunk)
            try:
                batch = payloads(chunk)
            except EventTooLargeError as exc:
                if exc.frames:
                    yield exc.frames
                raise Fault(
                    Reason.EVENT_TOO_LARGE,
                    f"one event is larger than {exc.limit} bytes: raise Limits.max_event_size if that is right",
                ) from exc
            if batch:
                self._batches += 1
                yield batch
        tail = decoder.close()
        if tail is not None:
            # A first event that was cut short, within its data or within the word itself.
            self._began = bool(tail.data) or any(b"data".startswith(name) for name, _ in tail.unknown)
            fields = (b": ".join(field) for field in tail.unknown)
            self._tail = b"\n".join((tail.data, *fields)).strip()[:2048]

    def unfinished(self) -> Fault:
        """What it means that the body ended here."""
        upstream = Upstream(message=self._tail.decode("utf-8", "replace")) if self._tail else None
        if self._batches or self._began:
            return Fault(Reason.TRUNCATED, "the body ended before the engine's own sign of the end", upstream=upstream)
        if self._bytes and not self._decoder.comments:
            return Fault(
                Reason.PROTOCOL, "the body holds no server-sent event: is this URL the engine's?", upstream=upstream
            )
        return Fault(Reason.EMPTY, "the engine answered 200 without a single event", upstream=upstream)


# --- lawful: Started (Token | Metrics)* End -------------------------------------------------------------------------


def lawful(worker: Worker, state: StreamState, grade: Grade) -> Runs:
    """What a dialect yields → events, in the order and with the indexes that the contract promises.

    The terminal event comes in a run of its own, with at most the last Metrics: it can always be handed over.
    """
    for run in attempt(worker, state):
        if state.started is None:
            if type(run[0]) is not Opened:
                raise _unlawful(worker, f"{type(run[0]).__name__} came before Opened")
            state.started = _started(worker, state, grade, run[0])
            yield [state.started]
            del run[0]
        last = run.pop() if run and type(run[-1]) is Finished else None
        if run:
            events: list[Event] = run  # type: ignore[assignment]  # Opened and Finished are gone
            _count(worker, state, events)
            if events:
                yield events
        if type(last) is Finished:
            yield _end(state, last)


def _unlawful(worker: Worker, what: str) -> Fault:
    return Fault(Reason.BUG, f"the dialect {worker.dialect.name} broke the grammar of events: {what}")


def _count(worker: Worker, state: StreamState, events: list[Event]) -> None:
    """Check indexes at both ends of the run, which a decoder fills in one loop, and take the time of its Tokens."""
    first, last, tokens = events[0], events[-1], len(events)
    if type(first) is not Token or type(last) is not Token or (tokens > 2 and len(set(map(type, events))) > 1):
        tokens = _count_mixed(worker, state, events)
    elif first.index != state.tokens_seen or last.index != state.tokens_seen + tokens - 1:
        raise _unlawful(worker, f"Token {first.index} where {state.tokens_seen} was due")
    if tokens:
        state.tokens_seen += tokens
        state.last_token_at = state.lifetime.clock()
        if state.first_token_at is None:
            state.first_token_at = state.last_token_at


def _count_mixed(worker: Worker, state: StreamState, events: list[Event]) -> int:
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


def _started(worker: Worker, state: StreamState, grade: Grade, opened: Opened) -> Started:
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
    if state.first_token_at is None:
        return [end]
    values: dict[str, float | int] = {
        **finished.metrics,
        "latency_first_token_ms": (state.first_token_at - state.submitted_at) * 1000,
        "latency_decode_ms": end.decode_time_ms,
        "tokens_out": end.tokens_out,
    }
    if end.tokens_in is not None:
        values["tokens_in"] = end.tokens_in
    return [Metrics(values=values), end]


# --- retrying: only before Started ------------------------------------------------------------------------------------

_RETRIED = frozenset({Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.LOADING, Reason.OVERLOADED})
_RETRIED_STATUS = frozenset({502, 503, 504})


def retrying(worker: Worker, state: StreamState) -> Runs:
    """Attempts, until one has started or what went wrong would go wrong again."""
    lifetime = state.lifetime
    lifetime.check()
    grade = Grade.of(worker, state.request, lifetime)
    lifetime.check()
    worker.begin_version_probe()
    while True:
        state.attempts += 1
        try:
            yield from lawful(worker, state, grade)
        except Interrupted as exc:
            if exc.cause is not Cause.CONNECT_TIMEOUT:
                raise
            failed = fault_of_cause(exc.cause, lifetime, state.request.deadline)
            failed.__cause__ = exc
        except Fault as fault:
            failed = fault
        else:
            return
        wait = _wait_before_next(failed, worker, state)
        if wait is None:
            raise failed
        lifetime.next_attempt()
        _quietly(worker.recorder.retried)
        lifetime.sleep(wait)


def _wait_before_next(failed: Fault, worker: Worker, state: StreamState) -> float | None:
    """Seconds until the next attempt, or None if this failure is the answer."""
    retry = worker.retry
    if state.started is not None or state.attempts >= retry.attempts or not _is_worth_retrying(failed, state):
        return None
    wait = retry.delay(state.attempts)
    if failed.retry_after is not None:
        if failed.retry_after > retry.max_retry_after:
            return None
        wait = max(wait, failed.retry_after)
    return wait if wait < state.lifetime.remaining() else None


def _is_worth_retrying(failed: Fault, state: StreamState) -> bool:
    if failed.reason is Reason.DISCONNECTED:
        return state.lifetime.phase in (Phase.CONNECT, Phase.QUEUE)  # not a byte of a response had come
    if failed.reason is Reason.ENGINE_ERROR:
        return failed.upstream is not None and failed.upstream.status in _RETRIED_STATUS
    return failed.reason in _RETRIED


# --- ending: exceptions → the terminal event --------------------------------------------------------------------------


def ending(worker: Worker, state: StreamState, runs: Runs) -> Runs:
    """Exactly one terminal event, whatever happens below."""
    lifetime = state.lifetime
    try:
        yield from runs
    except Interrupted as exc:
        if exc.cause is Cause.CANCELLED:
            terminal: Event = state.cancelled()
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
    """Counts tokens while they come, and reports the stream once, also one whose consumer went away.

    An Interrupted that is thrown in (the hand-over was blocked when the lifetime was tripped) goes on to the layers below,
    which end the stream as they do for one raised in a read.
    """
    recorder, priority = worker.recorder, state.request.priority
    reported_in = reported_out = 0
    terminal: Event | None = None
    _quietly(recorder.started)
    try:
        run = next(runs)
        while True:
            terminal = run[-1] if type(run[-1]) in TERMINAL else None
            tokens_in, tokens_out = state.tally.tokens_in or 0, state.tokens_out()
            if tokens_out > reported_out or tokens_in > reported_in:
                _quietly(
                    recorder.tokens,
                    priority,
                    worker.known_version,
                    tokens_in=tokens_in - reported_in,
                    tokens_out=tokens_out - reported_out,
                )
                reported_in, reported_out = tokens_in, tokens_out
            try:
                yield run
            except Interrupted as exc:
                run = runs.throw(exc)
            else:
                if terminal is not None:
                    return
                run = next(runs)
    finally:
        _quietly(_report, worker, state, terminal if isinstance(terminal, End | Error) else state.cancelled())


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
