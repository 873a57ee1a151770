"""The layers of a stream: plain generators around an iterator of runs, in one order, which `layered` fixes.

    ending(retrying(leaving(attempt)))

Inside, exceptions: `Fault` for what went wrong, `Interrupted` for a tripped lifetime. `ending` is the one place where
they become the terminal event. All act per run of events, never per event; a read that would block goes through them all as
`BLOCKED`, to whoever drives the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from functools import partial
from math import inf
from typing import cast

from ..api import End, Error, Event, Metrics, Properties, Reason, Started, Token
from ..codec import SSEDecoder
from ..dialect import Fault, Finished, Item, Opened, Rest, Run, WireRequest
from ..helpers import HELPERS
from ..lifetime import Cause, Interrupted
from ..loop import LOOP
from ..transport import Exchange
from ..waiting import BLOCKED, Blocked, Steps
from .again import has_fresh_credentials, wait_before_next
from .bounds import MODEL, count, figures, name
from .concluding import broken_off, concluded, require_proof, taken, unfinished
from .envelope import fault_of_cause
from .failing import bug_of, error_of
from .grade import Grade
from .leaving import leaving, left
from .middle import DECODED, Middle, decoding
from .recorder import Attempt
from .redact import secrets_of
from .reply import refused, require_event_stream, said
from .report import came_to, progress, retried
from .running import Running, nothing_yet
from .runs import Driven, Feed, Runs
from .tracing import carried_with
from .validate import validate
from .worker import Worker

__all__ = ["layered"]

_log = logging.getLogger("worker_adapters")

MIB = 1024 * 1024
LARGEST_EVENT = 1024 * MIB  # the codec's own bound


def layered(running: Running) -> Driven:
    """The events of a stream in runs, the last of which ends with the terminal event. Never raises for the engine's sake."""
    return cast(Driven, ending(running, retrying(running)))


# --- attempt: one request, and what its response says: Started (Token | Metrics)* End ---------------------------------


def attempt(worker: Worker, running: Running, grade: Grade) -> Runs:
    """One exchange with the engine, as events in the order and with the indexes that the contract promises.

    Ends with the terminal event, in a run of its own with at most the last Metrics, so that it can always be handed over;
    raises where the engine gave no sign of the end.
    """
    wire, running.wire = running.wire or (yield from _encoded(worker, running)), None  # of the first attempt only
    lifetime = running.lifetime
    lifetime.hurry()  # an application's provider may hang
    one = Attempt(running.attempts, lifetime.clock())
    running.tries.append(one)
    came_to(running, "begins")
    running.carried = carried = yield from worker.carried.steps(lifetime)
    headers = carried if running.trace is None else (yield from carried_with(running, one, carried))
    exchange: Exchange | None = None
    try:
        limit = _event_limit(worker, len(wire.body))
        exchange = yield from worker.transport.open(wire, headers, lifetime)
        del wire  # of megabytes, perhaps, and the answer takes minutes
        one.sent, one.head, one.status = lifetime.sent_at, lifetime.clock(), exchange.status
        came_to(running, f"status {exchange.status}", since=one.began)
        if exchange.status != 200:
            raise (yield from refused(exchange, worker.dialect, worker.limits.max_error_body))
        yield from require_event_stream(exchange, worker)
        running.exchange = exchange
        last = yield from _received(worker, running, grade, exchange, limit)
    except (RecursionError, OverflowError) as exc:  # JSON can be made to do that to whoever reads it
        raise Fault(Reason.PROTOCOL, f"the answer can't be read ({type(exc).__name__})") from exc
    except Fault as fault:
        worker.redactor.clean_fault(fault, secrets_of(carried))
        raise
    finally:
        running.exchange, running.reading, running.middle = None, None, nothing_yet
        one.sent, one.ended = lifetime.sent_at, lifetime.clock()
        if exchange is not None:
            exchange.close()
    end = running.finished
    assert end is not None  # noqa: S101  -- for mypy: what `_received` has left there
    yield _with_figures(running, last.metrics, end)


def _encoded(worker: Worker, running: Running) -> Steps[WireRequest]:
    """The request of another attempt, or of a worker that had to be asked what it speaks first.

    It may take its time (a prompt of megabytes), and the loop has none.
    """
    encode = partial(worker.dialect.encode, running.request, attempt=running.attempts)
    if not LOOP.is_current():
        return encode()
    return (yield from HELPERS.call(("encode", id(worker)), encode, running.lifetime))


def _received(  # noqa: PLR0912, PLR0915  -- what may come instead of one Token, in one place
    worker: Worker, running: Running, grade: Grade, exchange: Exchange, limit: int
) -> Generator[list[Event] | Blocked, None, Finished]:
    """The runs but for the last; returns the engine's sign of the end, and leaves the End. Raises Fault, Interrupted."""
    dialect, lifetime, tally = worker.dialect, running.lifetime, running.tally
    decoder, feed, framed, strange = SSEDecoder(limit), Feed(), False, False
    decoded = decoding(dialect, feed, running)
    middle = Middle(running, decoder, exchange, feed, decoded)
    while True:
        if lifetime.thread is not middle.thread:  # another thread collects, since the first one's result() timed out
            middle.aim()
        if not (middle.met or feed.over or lifetime.causes) and (alone := middle.token()) is not None:
            running.middle = middle.token  # the driver goes on with it, until something else has come
            yield alone
            running.middle = nothing_yet
            continue
        met, exc, middle.met, middle.raised = middle.met, middle.raised, 0, None
        if met != DECODED:
            if lifetime.causes:
                raise Interrupted(lifetime.causes[0][0])
            if exc is not None:
                broken_off(exc, exchange, dialect, decoder, feed)
            elif not feed.over:
                batch = middle.batch
                if batch is BLOCKED:
                    yield BLOCKED
                    lifetime.check(awaited=lifetime.want_until == inf)
                    continue
                feed.batch, feed.over = batch, not batch
                if decoder.undispatched:
                    decoder.undispatched = False
                    strange = feed.unframed(batch, lambda text: said(text, exchange, dialect))
            counted, run = tally.tokens_out, middle.decode()
        elif exc is not None:
            raise exc
        else:
            counted, run = middle.counted, middle.run
        if run is None:
            raise unfinished(exchange, dialect, decoder, feed, framed=framed)
        framed, strange = framed or not strange, False
        begun: list[Event] = []
        if run and running.started is None:
            begun = [(yield from _begun(worker, running, grade, run.pop(0)))]
            middle.aim()  # what came with the head is read by now, as a rule: nothing need look for that with every token
            if not run:
                lifetime.pause()  # nothing came with it: the first-token timer goes on after this
                yield begun
                lifetime.resume()
                continue
        if not run and tally.tokens_out == counted:
            yield from lifetime.wait(until=lifetime.clock())  # a sign of life, and no content, perhaps without end
            continue
        content, seen = tally.tokens_out > counted, running.tokens_seen
        last = taken(run)
        events = _checked(worker, running, run, begun) if run else begun
        if last is not None:
            if feed.over and dialect.traits.ends_with_body:
                require_proof(exchange, dialect, decoder)
            if last.rest is Rest.TEXT:  # the engine would go on
                running.exchange = running.reading = None  # which nobody waits for any more
                exchange.close()
                left(worker, running)
            running.finished = _end(running, last)
            told = yield from concluded(running, exchange, middle.pull, feed, decoded, last, events)
            if last.rest is not Rest.NOTHING:
                running.finished = _end(running, told)
            return told
        if content or running.tokens_seen > seen:
            lifetime.content()
            if events:
                yield events
            else:
                yield from lifetime.wait(until=lifetime.clock())  # ids alone: it is others' turn, too
            continue
        lifetime.check()
        if events:  # of Metrics alone
            lifetime.pause()
            yield events
            lifetime.resume()


def _event_limit(worker: Worker, encoded: int) -> int:
    """llama-server's last event echoes the whole prompt, in JSON that may escape it: 8 times, and room for the rest."""
    return min(worker.limits.max_event_size or min(max(MIB, 8 * encoded + 256 * 1024), 64 * MIB), LARGEST_EVENT)


def _unlawful(worker: Worker, what: str) -> Fault:
    return Fault(Reason.BUG, f"the dialect {worker.dialect.name} broke the grammar of events: {what}")


def _checked(worker: Worker, running: Running, run: Run, begun: list[Event]) -> list[Event]:
    """The run as events, counted, after what has begun it. Indexes are checked at both ends: a decoder fills it in one loop.

    It stays the decoder's list: the consumer empties what it has had, whoever else still has it in hand.
    """
    events: list[Event] = run  # type: ignore[assignment]  # what is no event is not let through
    first, last, tokens = events[0], events[-1], len(events)
    if type(first) is not Token or type(last) is not Token or (tokens > 2 and len(set(map(type, events))) > 1):
        tokens = _checked_mixed(worker, running, events)
    elif first.index != running.tokens_seen or last.index != running.tokens_seen + tokens - 1:
        raise _unlawful(worker, f"Token {first.index} where {running.tokens_seen} was due")
    if tokens:
        running.tokens_seen += tokens
        now = running.last_token_at = running.lifetime.clock()
        if running.first_token_at is None:
            running.first_token_at = now
            came_to(running, "the first token")
        if now >= running.progress_due:
            progress(running)
    events[:0] = begun
    return events


def _checked_mixed(worker: Worker, running: Running, events: list[Event]) -> int:
    """A run with Metrics in it; those that come before the first Token are dropped."""
    if strange := [type(event).__name__ for event in events if type(event) not in (Token, Metrics)]:
        raise _unlawful(worker, f"{strange[0]} came in mid-stream")
    tokens = [event for event in events if type(event) is Token]
    if [event.index for event in tokens] != list(range(running.tokens_seen, running.tokens_seen + len(tokens))):
        raise _unlawful(worker, f"Token indexes are not contiguous after {running.tokens_seen}")
    seen = running.tokens_seen > 0
    kept: list[Event] = []
    for event in events:
        seen = seen or type(event) is Token
        if seen or type(event) is not Metrics:
            kept.append(event)
    events[:] = kept
    return len(tokens)


def _begun(worker: Worker, running: Running, grade: Grade, opened: Item) -> Steps[Started]:
    """Started, with the version, which is waited for a moment. It goes out with what came in the same read."""
    if type(opened) is not Opened:
        raise _unlawful(worker, f"{type(opened).__name__} came before Opened")
    lifetime = running.lifetime
    lifetime.pause()  # the first-token timer is not the probe's: it goes on after this, if no Token came with it
    known = yield from worker.known_for_started(lifetime)
    lifetime.resume()
    running.started = started = _started(worker, running, grade, opened, known)
    came_to(running, "the engine has begun to answer")
    return started


def _started(worker: Worker, running: Running, grade: Grade, opened: Opened, known: Properties) -> Started:
    request = running.request
    return Started(
        task_id=request.task_id,
        engine=worker.dialect.name,
        engine_version=known.engine_version,
        model=name(opened.model, MODEL) or known.model,  # what the engine says; a wish is no fact
        model_digest=known.model_digest,
        trtllm_version=known.trtllm_version,
        seed=request.seed or 0,
        sampler_profile_version=request.sampler_profile_version,
        determinism=grade.level,
        determinism_reasons=grade.reasons,
        attempt=running.attempts,
        tokens_in=count(opened.tokens_in),
    )


def _end(running: Running, finished: Finished) -> End:
    tally = running.tally
    return End(
        finish_reason=finished.finish_reason,
        finish_reason_raw=name(finished.finish_reason_raw),
        finish_reason_source=finished.finish_reason_source,
        stop_text=finished.stop_text,
        tokens_out=running.tokens_out(),
        tokens_in=running.tokens_in(),
        usage_source=tally.usage_source,
        token_ids_tail=finished.token_ids_tail,
        token_ids_complete=finished.token_ids_complete,
        decode_time_ms=running.decode_ms(),
        resumed=running.resumed,
    )


def _with_figures(running: Running, told: Mapping[str, float | int | str], end: End) -> list[Event]:
    """The last run: the measurements, if there was a Token, and the end."""
    if running.first_token_at is None:
        return [end]
    values: dict[str, float | int | str] = {
        **figures(told),
        "latency_first_token_ms": (running.first_token_at - running.submitted_at) * 1000,
        "latency_decode_ms": end.decode_time_ms,
        "tokens_out": end.tokens_out,
    }
    if end.tokens_in is not None:
        values["tokens_in"] = end.tokens_in
    return [Metrics(values=values), end]


# --- retrying: only before Started ------------------------------------------------------------------------------------


def retrying(running: Running) -> Runs:
    """Attempts, until one has started or what went wrong would go wrong again; each at the worker that it is placed at."""
    lifetime = running.lifetime
    lifetime.check()
    if running.placement is not None:
        yield from running.placement.settled(running)
    worker: Worker | None = None
    while True:
        if worker is not running.worker:
            grade = yield from _agreed(running)
            worker = running.worker
        running.attempts += 1
        try:
            one = attempt(worker, running, grade)
            yield from one if worker.dialect.abort is None else leaving(worker, running, one)
        except Interrupted as exc:
            if exc.cause not in lifetime.trips_nothing:
                raise
            failed = fault_of_cause(exc.cause, lifetime, running.request.deadline)
            failed.__cause__ = exc
        except Fault as fault:
            failed = fault
        else:
            return
        yield from _try_again(failed, running)
        if running.finished is not None:
            yield _with_figures(running, {}, running.finished)
            return


def _agreed(running: Running) -> Steps[Grade]:
    """What the worker grants, once it is known what it speaks: where that takes asking, each failure is an attempt."""
    lifetime, failed_at = running.lifetime, -inf
    while True:
        worker = running.worker
        try:
            asked = yield from worker.resolve_steps(lifetime, failed_at)
        except Fault as fault:
            failed, failed_at = fault, lifetime.clock()
        else:
            if asked:
                validate(running.request, worker.dialect)
            try:
                grade = yield from Grade.of(worker, running, lifetime)
                break
            except Fault as fault:
                if running.placement is None or fault.reason is Reason.VALIDATION:
                    raise
                failed = fault
        running.attempts += 1
        yield from _try_again(failed, running)
    lifetime.check()
    worker.begin_version_probe()
    return grade


def _try_again(failed: Fault, running: Running) -> Steps[None]:
    """Wait for the next attempt. Raises the failure where it is the answer, and Interrupted."""
    worker = running.worker
    if running.placement is not None:
        yield from running.placement.again(failed, running)
        return
    wait = wait_before_next(failed, worker, running)
    if wait is None:
        if not (yield from has_fresh_credentials(failed, worker, running)):
            raise failed
        wait = 0.0
    running.lifetime.next_attempt()
    retried(running, failed, wait)
    yield from running.lifetime.sleep(wait)


# --- ending: exceptions → the terminal event --------------------------------------------------------------------------


def ending(running: Running, runs: Runs) -> Runs:
    """Exactly one terminal event, whatever happens below."""
    lifetime = running.lifetime
    terminal: End | Error
    try:
        yield from runs
    except Interrupted as exc:
        if exc.cause is Cause.CANCELLED:
            terminal = running.cancelled()
        else:
            terminal = error_of(running, fault_of_cause(exc.cause, lifetime, running.request.deadline))
    except Fault as fault:
        terminal = error_of(running, fault)
    except Exception as exc:  # noqa: BLE001  -- a bug of ours must end the stream as an Error, not its thread
        terminal = error_of(running, bug_of(running, exc))
    else:
        return
    yield [terminal]
