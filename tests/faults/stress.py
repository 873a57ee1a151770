"""Everything at once in one process, for a while: nothing may hang, nothing may be left.

    python -m tests.faults.stress --seconds 60        make stress SECONDS=3600

Threads stream, submit, merge, collect and generate against simulated engines that fail by chance; consumers are slow, leave
early, drop handles in cycles or cancel; others collect garbage, cancel what is anybody's, close adapters and open them
anew, fork children that use and drop what they inherit. Signals strike the main thread, whose handler cancels, closes or
raises. Credentials and log handlers are slow. A watchdog holds each blocking call to its deadline and ten seconds more.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
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
from worker_adapters.loop import LOOP
from worker_adapters.simulator import Simulator
from worker_adapters.waiting import current_waker

from .soak import ENGINES, FAULTS, ONE_ARENA, lawful

__all__ = ["main"]

THREADS = 8
LATE = 10.0  # seconds that a call may take beyond its deadline
LONGEST = 3.0  # seconds: the longest deadline
EVERY = 5.0  # seconds from one line to the next
SETTLE = 30.0  # seconds for everything to be gone at the end
GROWTH_MIB = 12.0  # from the second third of the run to the last
MORE = ("comments@1:1ms~0.03", "stall@2~0.02", "overloaded~0.05", "trickle@1:20ms~0.02")
TIMEOUTS = Timeouts(connect=2.0, first_token=0.4, idle=0.4, probe=1.0)


class Struck(KeyboardInterrupt):
    """What the signal handler raises."""


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Watchdog:
    """Which thread is in which blocking call, and until when it may be."""

    def __init__(self) -> None:
        self.calls: dict[int, tuple[float, str]] = {}
        self.hangs = 0
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def limit(self, seconds: float, what: str) -> Iterator[None]:
        """The block takes no longer than that, and `LATE`."""
        me = threading.get_ident()
        before = self.calls.get(me)
        self.calls[me] = (time.monotonic() + seconds + LATE, what)
        try:
            yield
        finally:
            if before is None:
                self.calls.pop(me, None)
            else:
                self.calls[me] = before

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            for thread, (until, what) in list(self.calls.items()):
                if now > until:
                    self.hangs += 1
                    _tell(f"HANG: thread {thread:#x} in {what}, {LATE:g} s after its deadline")
                    _tell(dump())
                    faulthandler.dump_traceback(sys.stdout, all_threads=True)
                    sys.stdout.flush()
                    os._exit(2)


class Stress:
    """The run: adapters, what is known of the streams, and what went wrong."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self.urls = urls
        self.seed = seed
        self.over = threading.Event()
        self.dog = Watchdog()
        self.outcomes: Counter[str] = Counter()
        self.operations = 0
        self.failures: list[str] = []
        self.live: deque[weakref.ref[Any]] = deque(maxlen=256)
        self.numbers = itertools.count()
        self.samples: list[float] = []
        self.began = time.monotonic()
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

    # --- threads ------------------------------------------------------------------------------------------------------

    def loop(self, number: int, work: Callable[[random.Random], str | None], pause: float = 0.0) -> None:
        """Do it until it is over; what may be raised is counted, everything else is a failure."""
        rng = random.Random(self.seed * 1009 + number)
        while not self.over.wait(rng.random() * pause):
            outcome: str | None
            try:
                outcome = work(rng)
            except WorkerError as exc:
                outcome = str(exc.error.reason)
            except StreamCancelledError:
                outcome = "cancelled"
            except Struck:
                outcome = "struck"
            except BaseException:  # noqa: BLE001  -- told at the end
                self.failures.append(traceback.format_exc())
                outcome = "FAILED"
            self.operations += 1
            if outcome:
                self.outcomes[outcome] += 1

    def cancel_any(self, rng: random.Random) -> None:
        if not self.live:
            return
        stream = rng.choice(list(self.live))()
        if stream is not None:
            with self.dog.limit(0.0, "cancel() or close()"):
                rng.choice([stream.cancel, stream.cancel, stream.close])()

    def cancel_unknown(self, rng: random.Random) -> None:
        assert rng.choice(self.adapters).cancel("nobody's") is CancelOutcome.UNKNOWN

    def collect(self, _rng: random.Random) -> None:
        with self.dog.limit(0.0, "gc.collect()"):
            gc.collect()

    def fork(self, rng: random.Random) -> str:
        """A child drops what it inherits, and perhaps uses it; it must come to its end, too."""
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(LONGEST + LATE, exit=True)
            code = 3
            try:
                code = self.as_child(random.Random(rng.random()))
            except BaseException:  # noqa: BLE001  -- the child must not go on as another parent
                traceback.print_exc()
            finally:
                os._exit(code)
        with self.dog.limit(LONGEST + LATE, "a forked child"):
            _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"a forked child ended with {status} ({os.waitstatus_to_exitcode(status)})")
        return "forked"

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

    # --- the main thread ----------------------------------------------------------------------------------------------

    def struck(self, rng: random.Random) -> Callable[..., None]:
        def handler(*_args: object) -> None:
            what = rng.random()
            if what < 0.5:
                self.cancel_any(rng)
            elif what < 0.52:
                self.reopen(rng)
            elif self.armed:
                self.armed = False
                raise Struck

        return handler

    armed = False

    def use_under_fire(self, rng: random.Random) -> str:
        self.armed = True
        try:
            return self.use(rng)
        finally:
            self.armed = False

    def strike(self, rng: random.Random) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def report(self, seconds: float) -> None:
        """A line now and then; over after so many seconds."""
        while (passed := time.monotonic() - self.began) < seconds:
            self.over.wait(min(EVERY, seconds - passed))
            self.samples.append(mib())
            _tell(
                f"{time.monotonic() - self.began:7.0f} s {self.operations:9,} operations   {self.samples[-1]:6.1f} MiB"
                f"   {threading.active_count()} threads   {descriptors()} descriptors   {LOOP.counts()[0]} driven"
            )
        self.over.set()

    def grown(self) -> float:
        """MiB, from the second third of the run to the last."""
        third = len(self.samples) // 3
        return (
            statistics.median(self.samples[-third:]) - statistics.median(self.samples[third:-third]) if third else 0.0
        )

    def left(self, before: tuple[int, int]) -> list[str]:
        """What has not gone when everything is closed. Waits for it."""
        give_up = time.monotonic() + SETTLE
        while True:
            gc.collect()
            in_flight = sum(adapter.in_flight for adapter in self.adapters)
            said = [f"{in_flight} streams in flight"] if in_flight else []
            if threading.active_count() > before[0]:
                said.append(f"threads: {sorted(t.name for t in threading.enumerate())}, {before[0]} before")
            if descriptors() > before[1]:
                said.append(f"{descriptors()} descriptors, {before[1]} before")
            if any(LOOP.counts()):
                said.append(f"the loop has {LOOP.counts()} tasks and watched things")
            if not said or time.monotonic() > give_up:
                return said
            time.sleep(0.1)

    def run(self, seconds: float) -> None:
        """For that long, with a line now and then."""
        signal.signal(signal.SIGUSR1, self.struck(random.Random(self.seed)))
        jobs: list[tuple[Callable[[random.Random], str | None], float]] = [(self.use, 0.0)] * THREADS
        jobs += [(self.cancel_any, 0.02), (self.cancel_unknown, 0.1), (self.collect, 0.2), (self.fork, 0.6),
                 (self.reopen, 0.5), (self.strike, 0.01)]  # fmt: skip
        threads = [threading.Thread(target=self.loop, args=(n, *job), name=f"stress-{n}") for n, job in enumerate(jobs)]
        for thread in threads:
            thread.start()
        timer = threading.Thread(target=self.report, args=(seconds,), name="stress-reports")
        timer.start()
        self.loop(len(jobs), self.use_under_fire)
        with self.dog.limit(LONGEST + LATE, "the last operation of a thread"):
            for thread in [*threads, timer]:
                thread.join()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def ended(events: list[Any]) -> str:
    lawful(events)
    last = events[-1]
    return str(last.reason) if isinstance(last, Error) else str(last.finish_reason)


def mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Slow(logging.Handler):
    """Takes its time, now and then."""

    def createLock(self) -> None:  # noqa: N802  -- logging's name; a lock would be held over a fork
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        if random.random() < 0.01:
            time.sleep(0.02)


def unraisable(stress: Stress) -> None:
    """What finalizers and threads raise is a failure, unless the signal handler did."""

    def hook(what: Any) -> None:
        if not issubclass(what.exc_type, Struck):
            text = "".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback))
            stress.failures.append(f"in {getattr(what, 'object', None) or getattr(what, 'thread', None)}: {text}")

    sys.unraisablehook = hook
    threading.excepthook = hook


def serve() -> None:
    """The simulated engines, until standard input ends: all of them once as they come, once slow and with few slots."""
    with contextlib.ExitStack() as stack:
        for engine, model in ENGINES.items():
            named: dict[str, Any] = {} if model is None else {"model": model}
            for pace in ({"slots": 32, "faults": FAULTS}, {"slots": 4, "rate": 100.0, "faults": (*FAULTS, *MORE)}):
                _tell(stack.enter_context(Simulator(engine, **pace, **named)).url)
        sys.stdin.read()


@contextlib.contextmanager
def engines() -> Iterator[list[str]]:
    """Their URLs, in an order that goes around the engines."""
    command = [sys.executable, "-m", "tests.faults.stress", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        urls = [process.stdout.readline().strip() for _ in range(2 * len(ENGINES))]
        yield urls[::2] + urls[1::2]
        process.stdin.close()


def stress(seconds: float, seed: int) -> int:
    """Run for so long; 0 if nothing hung, failed, grew or was left."""
    faulthandler.enable()
    log = logging.getLogger("worker_adapters")
    log.addHandler(Slow())
    log.propagate = False
    with engines() as urls:
        run = Stress(urls, seed)
        current_waker().polls()  # this thread's descriptor, and the loop's: the process has them to its end
        LOOP._open()
        before = (threading.active_count(), descriptors())
        unraisable(run)
        run.run(seconds)
        for adapter in run.adapters:
            with run.dog.limit(LONGEST, "the last close()"):
                adapter.close()
        said = [f"left: {what}" for what in run.left(before)]
    if (grown := run.grown()) > GROWTH_MIB:
        said.append(f"memory grew by {grown:.1f} MiB")
    said += [f"failed: {failure}" for failure in run.failures[:5]]
    _tell(", ".join(f"{count:,} {outcome}" for outcome, count in run.outcomes.most_common()))
    _tell(f"{run.operations:,} operations, {run.dog.hangs} hangs, {len(run.failures)} failures, {grown:+.1f} MiB")
    _tell("\n".join(said) or "nothing hung, nothing was left")
    return bool(said)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="everything at once: no hang, no leak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
        return 0
    if not os.environ.keys() >= ONE_ARENA.keys():
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.faults.stress", *sys.argv[1:]], {**os.environ, **ONE_ARENA}
        )
    return stress(chosen.seconds, chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
