"""What `stress` does with streams and adapters, drawn by chance, each blocking call within its time."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import os
import random
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry

from worker_adapters import (
    Adapter,
    CancelOutcome,
    Error,
    Event,
    GenerateRequest,
    Limits,
    MetricsOptions,
    Retry,
    Stream,
    StreamCancelledError,
    Timeouts,
    Token,
    WorkerError,
    as_completed,
    connect,
    dump,
    merge,
)

from .soak import ENGINES, lawful

__all__ = ["LATE", "LONGEST", "Uses", "Watchdog", "tell"]

LATE = 30.0  # seconds that a call may take beyond its deadline
LONGEST = 3.0  # seconds: the longest deadline
TIMEOUTS = Timeouts(connect=2.0, first_token=0.4, idle=0.4, probe=1.0)


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Watchdog:
    """Which thread is in which blocking call, and until when it may be."""

    def __init__(self) -> None:
        self.calls: dict[object, tuple[int, float, str]] = {}
        self.hangs = 0
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def limit(self, seconds: float, what: str) -> Iterator[None]:
        """The block takes no longer than that, and `LATE`."""
        # Each has a key of its own: one whose end was struck is left when its generator goes, long after those around it.
        key = object()
        try:
            self.calls[key] = (threading.get_ident(), time.monotonic() + seconds + LATE, what)
            yield
        finally:
            self.calls.pop(key, None)

    def gets_on(self, seconds: float) -> None:
        """The calling thread has done a part of what it is in, and may take so long for the next one."""
        me, until = threading.get_ident(), time.monotonic() + seconds + LATE
        for key, (thread, before, what) in list(self.calls.items()):
            if thread == me:
                self.calls[key] = (thread, max(before, until), what)

    def is_out(self) -> None:
        """The calling thread is in no blocking call, whatever was struck."""
        me = threading.get_ident()
        for key, (thread, _, _) in list(self.calls.items()):
            if thread == me:
                self.calls.pop(key, None)

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            for thread, until, what in list(self.calls.values()):
                if now > until:
                    self.hangs += 1
                    tell(f"HANG: thread {thread:#x} in {what}, {LATE:g} s after its deadline")
                    tell(dump())
                    faulthandler.dump_traceback(sys.stdout, all_threads=True)
                    sys.stdout.flush()
                    os._exit(2)


def ended(events: list[Any]) -> str:
    lawful(events)
    last = events[-1]
    return str(last.reason) if isinstance(last, Error) else str(last.finish_reason)


class Uses:
    """Adapters, the streams that there are, and what was made of them."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self.urls = urls
        self.seed = seed
        self.dog = Watchdog()
        self.outcomes: Counter[str] = Counter()
        self.live: deque[weakref.ref[Any]] = deque(maxlen=256)
        self.numbers = itertools.count()
        self.adapters = [self.open(n) for n in range(2 * len(urls))]

    # --- adapters -----------------------------------------------------------------------------------------------------

    def open(self, n: int) -> Adapter:
        (engine, model), url = list(ENGINES.items())[n % len(ENGINES)], self.urls[n % len(self.urls)]
        rng = random.Random(self.seed + n)

        def credentials() -> str:
            if rng.random() < 0.2:
                time.sleep(rng.choice([0.001, 0.05, 0.05, 1.0]))
            if rng.random() < 0.01:
                raise LookupError("no credentials today")
            return "secret"

        return connect(
            engine,
            url,
            model=model,
            timeouts=TIMEOUTS,
            retry=Retry(base=0.005, cap=0.05),
            limits=Limits(hand_over=rng.choice([1, 4, 32]), max_in_flight=rng.choice([4, 64]), stall=2.0),
            credentials=credentials if n % 3 == 0 else None,
            metrics=MetricsOptions(registry=CollectorRegistry()) if n % 2 else None,
        )

    def reopen(self, rng: random.Random) -> None:
        n = rng.randrange(len(self.adapters))
        with self.dog.limit(LONGEST, "close()"):
            self.adapters[n].close()
        self.adapters[n] = self.open(n)

    def request(self, rng: random.Random) -> GenerateRequest:
        number = next(self.numbers)
        return GenerateRequest(
            prompt=f"stream {number}",
            max_tokens=rng.choice([1, 8, 24, 200]),
            seed=number,
            deadline=rng.choice([0.02, 0.3, 1.0, LONGEST]),
        )

    # --- operations ---------------------------------------------------------------------------------------------------

    def use(self, rng: random.Random) -> str:
        """One operation; how it ended."""
        return rng.choice(
            [self.read, self.read, self.left_early, self.dropped, self.cancelled, self.got, self.collected, self.generated,
             self.merged, self.merged, self.completed, self.called_back, self.asked]
        )(rng)  # fmt: skip

    def begin(self, rng: random.Random, way: str | None = None, **options: Any) -> Stream:
        way = way or rng.choice(["stream", "submit"])
        adapter = rng.choice(self.adapters)
        with self.dog.limit(LONGEST, f"{way}()"):
            stream: Stream = getattr(adapter, way)(self.request(rng), block=rng.random() < 0.7, **options)
        self.live.append(weakref.ref(stream))
        self.dog.gets_on(LONGEST)  # many streams that are asked for one by one: each may have waited for a place
        return stream

    def rest(self, rng: random.Random, events: Any, most: int = 1 << 30) -> list[Any]:
        """What comes, each within its time; now and then it takes the consumer a while."""
        found: list[Any] = []
        while len(found) < most:
            with self.dog.limit(LONGEST, "next()"):
                event = next(events, None)
            if event is None:
                break
            found.append(event)
            if rng.random() < 0.02:
                time.sleep(rng.choice([0.001, 0.01, 0.2]))
        return found

    def read(self, rng: random.Random) -> str:
        with self.begin(rng) as stream:
            return ended(self.rest(rng, iter(stream)))

    def left_early(self, rng: random.Random) -> str:
        with self.begin(rng) as stream:
            self.rest(rng, stream, rng.randint(1, 4))
        return "left"

    def dropped(self, rng: random.Random) -> str:
        stream = self.begin(rng)
        self.rest(rng, stream, rng.randint(0, 3))
        cycle: list[Any] = [stream]
        if rng.random() < 0.5:
            cycle.append(cycle)
        return "dropped"

    def cancelled(self, rng: random.Random) -> str:
        with self.begin(rng) as stream:
            events = self.rest(rng, stream, rng.randint(0, 5))
            stream.cancel()
            rest = self.rest(rng, stream)
            assert not any(isinstance(event, Token) for event in rest), "a Token after cancel()"
            return ended([*events, *rest])

    def got(self, rng: random.Random) -> str:
        with self.begin(rng) as stream:
            events: list[Event] = []
            with self.dog.limit(LONGEST, "get()"):
                while True:
                    with contextlib.suppress(TimeoutError):
                        event = stream.get(rng.choice([0.0, 0.001, 0.05]))
                        if event is None:
                            return ended(events)
                        events.append(event)

    def collected(self, rng: random.Random) -> str:
        stream = self.begin(rng, collect=rng.random() < 0.5)
        with self.dog.limit(LONGEST, "result()"):
            while True:
                with contextlib.suppress(TimeoutError):
                    return str(stream.result(rng.choice([0.001, 0.1, 1.0])).finish_reason)

    def generated(self, rng: random.Random) -> str:
        with self.dog.limit(LONGEST, "generate()"):
            return str(rng.choice(self.adapters).generate(self.request(rng), block=True).finish_reason)

    def some(self, rng: random.Random, count: int) -> Iterator[Stream]:
        for _ in range(count):
            with contextlib.suppress(WorkerError):
                yield self.begin(rng, "submit")

    def merged(self, rng: random.Random) -> str:
        streams: Any = self.some(rng, rng.randint(1, 24))
        pairs = merge(list(streams) if rng.random() < 0.5 else streams)
        most = rng.choice([3, 1 << 30, 1 << 30])
        found: dict[str, list[Event]] = {}
        for stream, event in self.rest(rng, iter(pairs), most):
            found.setdefault(stream.task_id, []).append(event)
        if most > 3:
            for events in found.values():
                self.outcomes[ended(events)] += 1
        elif rng.random() < 0.5:
            pairs.close()
        return "merged"

    def completed(self, rng: random.Random) -> str:
        for stream in self.rest(rng, as_completed(self.some(rng, rng.randint(1, 24))), rng.choice([2, 1 << 30])):
            with self.dog.limit(0.0, "result() of what is done"):
                stream.exception(timeout=5.0)
        return "completed"

    def called_back(self, rng: random.Random) -> str:
        stream, called = self.begin(rng, "submit", collect=True), threading.Event()
        stream.add_done_callback(lambda _s: (time.sleep(0.01), called.set()))
        with self.dog.limit(LONGEST, "a callback"):
            called.wait()
        return "called back"

    def asked(self, rng: random.Random) -> str:
        adapter = rng.choice(self.adapters)
        with self.dog.limit(2 * LONGEST, "a probe"):
            rng.choice(
                [adapter.health, adapter.properties, adapter.engine_version, lambda: adapter.drain(0.05), dump]
            )()
        return "asked"

    def cancel_any(self, rng: random.Random) -> None:
        if not self.live:
            return
        stream = rng.choice(list(self.live))()
        if stream is not None:
            with self.dog.limit(0.0, "cancel() or close()"):
                rng.choice([stream.cancel, stream.cancel, stream.close])()

    def cancel_unknown(self, rng: random.Random) -> None:
        assert rng.choice(self.adapters).cancel("nobody's") is CancelOutcome.UNKNOWN

    def as_child(self, rng: random.Random) -> int:
        inherited = [stream for ref in self.live if (stream := ref()) is not None]
        for stream in inherited[:3]:
            with contextlib.suppress(RuntimeError):  # it is another thread's to read, which is not here
                list(stream)
            stream.close()
        del inherited
        gc.collect()
        with contextlib.suppress(WorkerError, StreamCancelledError):
            if rng.random() < 0.7:
                rng.choice([self.read, self.generated, self.merged])(rng)
        rng.choice(self.adapters).close()
        return 0
