"""How the body of an attempt ends: with the engine's sign of the end, or without."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from ..api import Event, Reason, Upstream
from ..codec import EventTooLargeError, SSEDecoder
from ..dialect import Dialect, Fault, Finished, Rest, Run
from ..lifetime import Cause, Interrupted
from ..transport import Exchange
from ..waiting import BLOCKED, Blocked
from .reply import said
from .report import noted
from .running import Running
from .runs import Feed, Pull, plain_text

__all__ = ["broken_off", "concluded", "require_proof", "taken", "unfinished"]

DRAIN_SECONDS = 0.1  # a keep-alive server's chunk terminator follows its end sign at once, or not soon


def concluded(
    running: Running,
    exchange: Exchange,
    pull: Pull,
    feed: Feed,
    decoded: Iterator[Run],
    last: Finished,
    events: list[Event],
) -> Generator[list[Event] | Blocked, None, Finished]:
    """The engine has done its part: what there is goes out, and what may still follow is waited for a moment.

    No failure undoes the end, and how long the consumer takes is not charged to anybody.
    """
    lifetime = running.lifetime
    lifetime.last_words(DRAIN_SECONDS)
    try:
        if events:
            yield events
        while last.rest is Rest.COUNTS and not feed.over:
            batch = pull()
            if batch is BLOCKED:
                lifetime.check()  # after a look: what is there counts, however late that is
                yield BLOCKED
                continue
            feed.batch, feed.over = batch, not batch
            last = taken(next(decoded, [])) or last
            yield from lifetime.wait(until=lifetime.clock())  # they may come without end: it is others' turn, too
        if last.rest is not Rest.TEXT:
            yield from exchange.settle(DRAIN_SECONDS)
    except Interrupted as exc:
        if exc.cause is Cause.CANCELLED:
            raise
    except Exception:  # noqa: BLE001, S110  -- whatever it is, the engine had said that it was over
        pass
    finally:
        lifetime.disarm()
    if last.note:
        noted(running, last.note)
    return last


def taken(run: Run) -> Finished | None:
    """The Finished of a run, which it loses."""
    if run and type(run[-1]) is Finished:
        last = run.pop()
        assert isinstance(last, Finished)  # noqa: S101  -- for mypy
        return last
    return None


def broken_off(exc: Exception, exchange: Exchange, dialect: Dialect, decoder: SSEDecoder, feed: Feed) -> None:
    """Reading raised this: an engine that had just said why, without the framing of an event, is believed."""
    feed.broke(exc, exchange)
    if not isinstance(exc, EventTooLargeError):
        tail = decoder.close()
        if tail is not None and (fault := said(plain_text(tail), exchange, dialect)):
            feed.fault = fault


def unfinished(exchange: Exchange, dialect: Dialect, decoder: SSEDecoder, feed: Feed, *, framed: bool) -> Fault:
    """What it means that the body ended here."""
    text = feed.strange
    if (tail := decoder.close()) is not None:
        text = plain_text(tail)
        if fault := said(text, exchange, dialect):
            return fault
        # A first event that was cut short, within its data or within the word itself.
        framed = framed or bool(tail.data) or any(b"data".startswith(name) for name, _ in tail.unknown)
    shown = text[:2048]
    upstream = Upstream(message=shown.decode("utf-8", "replace")) if shown else None
    if framed:
        return Fault(Reason.TRUNCATED, "the body ended before the engine's own sign of the end", upstream=upstream)
    if exchange.content and not decoder.comments:
        return Fault(
            Reason.PROTOCOL, "the body holds no server-sent event: is this URL the engine's?", upstream=upstream
        )
    return Fault(Reason.EMPTY, "the engine answered 200 without a single event", upstream=upstream)


def require_proof(exchange: Exchange, dialect: Dialect, decoder: SSEDecoder) -> None:
    """Raise Fault unless the end of the body, which was taken for the end of the stream, can be nothing else."""
    tail = decoder.close()
    if tail is not None and (fault := said(plain_text(tail), exchange, dialect)):
        raise fault
    if not exchange.framed or (tail is not None and (tail.data or tail.unknown)):
        raise Fault(Reason.TRUNCATED, "the body ended in a way that does not prove the end of the stream")
