"""The middle of a stream's life: a Token a read, and nothing else.

Its driver goes through it by itself, past the layers, which only see to what is different. Each function and generator
that a wake-up has to go through costs it up to a microsecond of cold caches (benchmarks/bench_paced.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..api import Event, Reason, Token
from ..codec import SSEDecoder
from ..dialect import Dialect, Fault, Payload, Run
from ..transport import Exchange
from ..waiting import BLOCKED, Blocked, Waker
from .report import progress
from .running import Running
from .runs import Feed, Pull, let_go

__all__ = ["DECODED", "READ", "Middle", "decoding"]

READ, DECODED = 1, 2


class Middle:
    """`token` gives the next run. None: what has come is left here, for the layers to take up.

    `met`: what there is of it, READ (`batch`, or what reading has `raised`) or DECODED (`run`, or what decoding has
    `raised`); 0: nothing. `counted`: the tokens before it was decoded.
    """

    __slots__ = (
        "_clock", "_decoded", "_decoder", "_exchange", "_feed", "_lifetime", "_running", "_tally",
        "batch", "counted", "met", "pull", "raised", "run", "thread",
    )  # fmt: skip

    def __init__(
        self, running: Running, decoder: SSEDecoder, exchange: Exchange, feed: Feed, decoded: Iterator[Run]
    ) -> None:
        self._running = running
        self._lifetime = running.lifetime
        self._clock = running.lifetime.clock
        self._tally = running.tally
        self._decoder = decoder
        self._feed = feed
        self._decoded = decoded
        self._exchange = exchange
        self.met: int = 0
        self.batch: Sequence[Payload] | Blocked = ()
        self.run: Run | None = None
        self.raised: Exception | None = None
        self.counted: int = 0
        self.aim()

    def aim(self) -> None:
        """Read on for the thread that drives it now."""
        self.thread: Waker | None = self._lifetime.thread
        self.pull: Pull = self._exchange.puller(self._decoder)
        self._running.reading = self._exchange.reading()

    def decode(self) -> Run | None:
        """The run of a batch that the layers have looked at. Raises Interrupted, Fault, and what decoding does."""
        if self._feed.over:
            self._lifetime.check()  # some decoders may go on for ever without being given anything
        run = next(self._decoded, None)
        let_go(self.batch)
        if (raised := _no_run(run)) is not None:
            raise raised
        return run

    def token(self) -> list[Event] | None:
        """One Token that is due, in the stream's state already. By its driver, who has found no cause to end it."""
        pull, clock = self.pull, self._clock  # read first: 3.11 does not specialise the call of what stands in a slot
        try:
            batch = pull()
        except Exception as exc:  # noqa: BLE001  -- sorted by the layers
            self.met, self.raised = READ, exc
            return None
        if batch is BLOCKED or not batch or self._decoder.undispatched:
            self.met, self.batch = READ, batch
            return None
        self._feed.batch, counted, run = batch, self._tally.tokens_out, None
        try:
            for run in self._decoded:  # noqa: B007  -- the next one; a call of `next` costs three times as much
                break
        except Exception as exc:  # noqa: BLE001  -- as above
            self.met, self.raised = DECODED, exc
            return None
        if len(batch) > 1:
            let_go(batch)
        running = self._running
        seen = running.tokens_seen
        if type(run) is list and len(run) == 1 and type(alone := run[0]) is Token and seen and alone.index == seen:
            running.tokens_seen = seen + 1
            running.last_token_at = now = clock()
            self._lifetime.fresh = True
            if now >= running.progress_due:
                progress(running)
            return run  # type: ignore[return-value]  # of Tokens alone
        self.met, self.run, self.counted, self.raised = DECODED, run, counted, _no_run(run)
        return None


def _no_run(run: object) -> Fault | None:
    """What is wrong with what decoding has given, if it is no run: of a dialect that nobody has checked the types of."""
    if run is None or isinstance(run, list):
        return None
    return Fault(Reason.BUG, f"the dialect's decode yields a {type(run).__name__} where a run, a list, was due")


def decoding(dialect: Dialect, feed: Feed, running: Running) -> Iterator[Run]:
    """What is made of the batches that it is fed: the dialect's runs, or those of a stream that goes on elsewhere."""
    if running.placement is None:
        return dialect.decode(feed.batches(), request=running.request, tally=running.tally)
    return running.placement.decoded(dialect, feed.batches(), running)
