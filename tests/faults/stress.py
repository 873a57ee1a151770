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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worker_adapters import StreamCancelledError, WorkerError
from worker_adapters.loop import LOOP
from worker_adapters.simulator import Simulator
from worker_adapters.waiting import current_waker

from .soak import ENGINES, FAULTS, ONE_ARENA
from .stressed import LATE, LONGEST, Uses, tell

__all__ = ["Stress", "main", "stress"]

THREADS = 8
EVERY = 5.0  # seconds from one line to the next
SETTLE = 30.0  # seconds for everything to be gone at the end
GROWTH_MIB = 12.0  # from the second third of the run to the last
MORE = ("comments@1:1ms~0.03", "stall@2~0.02", "overloaded~0.05", "trickle@1:20ms~0.02")


class Struck(KeyboardInterrupt):
    """What the signal handler raises."""


class Stress(Uses):
    """The run: what goes on at once, and what went wrong."""

    def __init__(self, urls: list[str], seed: int) -> None:
        super().__init__(urls, seed)
        self.over = threading.Event()
        self.operations = 0
        self.failures: list[str] = []
        self.samples: list[float] = []
        self.began = time.monotonic()

    # --- threads ------------------------------------------------------------------------------------------------------

    def loop(self, number: int, work: Callable[[random.Random], str | None], pause: float = 0.0) -> None:
        """Do it until it is over; what may be raised is counted, everything else is a failure."""
        rng = random.Random(self.seed * 1009 + number)
        while not self.over.wait(rng.random() * pause):
            self.dog.is_out()
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
            tell(
                f"{time.monotonic() - self.began:7.0f} s {self.operations:9,} operations   {self.samples[-1]:6.1f} MiB"
                f"   {threading.active_count()} threads   {len(descriptors())} descriptors   {LOOP.counts()[0]} driven"
            )
        self.over.set()

    def grown(self) -> float:
        """MiB, from the second third of the run to the last."""
        third = len(self.samples) // 3
        return (
            statistics.median(self.samples[-third:]) - statistics.median(self.samples[third:-third]) if third else 0.0
        )

    def left(self, before: tuple[int, dict[str, str]]) -> list[str]:
        """What has not gone when everything is closed. Waits for it."""
        give_up = time.monotonic() + SETTLE
        while True:
            gc.collect()
            in_flight = sum(adapter.in_flight for adapter in self.adapters)
            said = [f"{in_flight} streams in flight"] if in_flight else []
            # A signal that strikes Thread.start() leaves the entry of a thread that never was: CPython's.
            threads = sorted(t.name for t in threading.enumerate() if t.is_alive())
            if len(threads) > before[0]:
                said.append(f"threads: {threads}, {before[0]} before")
            if more := descriptors().items() - before[1].items():
                said.append(f"descriptors: {sorted(more)}")
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


def mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor that lists the folder
            found[entry.name] = str(entry.readlink())
    return found


class Slow(logging.Handler):
    """Takes its time, now and then."""

    def createLock(self) -> None:  # noqa: N802  -- logging's name; a lock would be held over a fork
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        if random.random() < 0.01:
            time.sleep(0.02)


def is_a_struck_start(traceback: Any) -> bool:
    """Whether it was raised before the thread had begun its work: CPython's, whose lock who started it held when struck."""
    code = traceback.tb_frame.f_code
    while (traceback := traceback.tb_next) is not None:
        if traceback.tb_frame.f_code.co_filename != code.co_filename:
            return False
    return bool(code.co_filename == threading.__file__)


def unraisable(stress: Stress) -> None:
    """What finalizers and threads raise is a failure, unless the signal handler did."""

    def hook(what: Any) -> None:
        if not issubclass(what.exc_type, Struck) and not is_a_struck_start(what.exc_traceback):
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
                tell(stack.enter_context(Simulator(engine, **pace, **named)).url)
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
    tell(", ".join(f"{count:,} {outcome}" for outcome, count in run.outcomes.most_common()))
    tell(f"{run.operations:,} operations, {run.dog.hangs} hangs, {len(run.failures)} failures, {grown:+.1f} MiB")
    tell("\n".join(said) or "nothing hung, nothing was left")
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
