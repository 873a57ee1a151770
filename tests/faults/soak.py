"""Thousands of streams in one process, with random faults and cancels: memory, threads and descriptors must stay flat.

    python -m tests.faults.soak --streams 10000        make soak

Simulated engines run in a process of their own and meet faults by chance; what this process does with a stream is drawn from
a seed. Each stream's events are held to the grammar. Prints a line per thousand, and exits with 1 if something grew.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import logging
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
from prometheus_client import CollectorRegistry

from worker_adapters import (
    Adapter,
    End,
    Error,
    Event,
    GenerateRequest,
    Limits,
    MetricsOptions,
    Reason,
    Retry,
    Started,
    Stream,
    Timeouts,
    Token,
    WorkerError,
    connect,
)
from worker_adapters.simulator import Simulator

__all__ = ["Report", "lawful", "soak"]

ENGINES = {"llamacpp": None, "vllm": None, "trtllm": None, "triton-vllm": "vllm_model"}
FAULTS = (
    "reset@head~0.03", "reset@2~0.03", "reset@b90~0.02", "close@1~0.02", "close@3~0.02", "eof@2~0.02", "cut@1~0.02",
    "half-char@1~0.02", "stall@head~0.01", "stall@1~0.01", "stall@3~0.01", "trickle@2:50ms~0.01", "comments@2:5ms~0.01",
    "error@head~0.02", "error@2~0.02", "garbage@b70~0.02", "garbage@head~0.02", "not-json@1~0.02", "huge@1:2MiB~0.01",
    "dup-end~0.05", "after-end:2~0.05", "overloaded~0.03", "busy:ms=20~0.03", "status:502~0.02", "loading#5", "html~0.01",
    "redirect~0.01", "interim:2~0.05", "gzip~0.01",
)  # fmt: skip
AT_ONCE = 8
RESIDENTS = ("worker-adapters-loop", "worker-adapters-reports")  # one each per process; they come and go
PATIENCE = 60.0  # seconds: a stream that takes longer hangs
TIMEOUTS = Timeouts(connect=5.0, first_token=0.3, idle=0.3, probe=2.0)
WARM = 0.3  # of the streams: caches, pools and arenas fill
GROWTH_MIB = 3.0  # over the rest; a leak of half a kilobyte per stream is more in ten thousand
FILLED = 5_000  # streams until the heap has met its largest moments by chance; until then its size says little
PER_STREAM = 1.0  # blocks of Python memory over the rest: one forgotten object each is as many
# glibc gives each new thread one of several arenas, whose gaps add up as threads come and go: 12 MiB in 10,000 streams that
# are in use nowhere (tracemalloc finds none of it). With one arena, what is left of growth is real.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve() -> None:
    """The simulated engines, until standard input ends."""
    with contextlib.ExitStack() as stack:
        for engine, model in ENGINES.items():
            options = {} if model is None else {"model": model}
            simulator = Simulator(engine, slots=2 * AT_ONCE, faults=FAULTS, **options)  # type: ignore[arg-type]
            _tell(stack.enter_context(simulator).url)
        sys.stdin.read()


@contextlib.contextmanager
def engines() -> Iterator[list[str]]:
    """Their URLs."""
    command = [sys.executable, "-m", "tests.faults.soak", "--serve"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield [process.stdout.readline().strip() for _ in ENGINES]
        process.stdin.close()


def lawful(events: list[Event], *, whole: bool = True) -> None:
    """Started (Token | Metrics)* (End | Error), or a terminal event alone; `whole`: it was read to its end."""
    kinds = [event.kind for event in events]
    terminals = [event for event in events if isinstance(event, End | Error)]
    assert len(terminals) == whole, kinds
    assert not terminals or events[-1] is terminals[0], kinds
    assert all(isinstance(event, Started) == (n == 0) for n, event in enumerate(events) if event not in terminals), (
        kinds
    )
    assert [e.index for e in events if isinstance(e, Token)] == list(range(kinds.count("token"))), kinds
    assert "metrics" not in kinds or kinds.index("token") < kinds.index("metrics"), kinds
    if terminals and isinstance(terminals[0], Error):
        assert terminals[0].reason is not Reason.BUG, terminals[0]


@attrs.frozen
class Sample:
    """When nothing is under way."""

    streams: int
    mib: float
    blocks: int  # of memory that Python objects hold
    threads: int
    descriptors: int

    @classmethod
    def now(cls, streams: int) -> Sample:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(
            streams=streams,
            mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            blocks=sys.getallocatedblocks(),
            threads=sum(thread.name not in RESIDENTS for thread in threading.enumerate()),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
        )


@attrs.frozen
class Report:
    """What a run came to."""

    samples: list[Sample]
    outcomes: Counter[str]
    seconds: float

    def grown(self) -> list[str]:
        """What did not stay flat, from the warm part of the run on."""
        warm = [s for s in self.samples if s.streams >= WARM * self.samples[-1].streams]
        first, last = warm[: max(1, len(warm) // 3)], warm[-max(1, len(warm) // 3) :]
        growth = statistics.median([s.mib for s in last]) - statistics.median([s.mib for s in first])
        blocks = statistics.median([s.blocks for s in last]) - statistics.median([s.blocks for s in first])
        between = statistics.median([s.streams for s in last]) - statistics.median([s.streams for s in first])
        kept = AT_ONCE * len(ENGINES)  # connections that pools may hold
        before = self.samples[0]
        said = []
        if blocks > PER_STREAM * between:
            said.append(f"{blocks / between:.1f} blocks of memory per stream were kept")
        if growth > GROWTH_MIB and self.samples[-1].streams >= FILLED:
            said.append(f"memory grew by {growth:.1f} MiB")
        if max(s.threads for s in warm) > before.threads:
            said.append(f"{max(s.threads for s in warm)} threads, {before.threads} before")
        if max(s.descriptors for s in warm) > before.descriptors + kept:
            said.append(f"{max(s.descriptors for s in warm)} descriptors, {before.descriptors} + {kept} allowed")
        return said


class _Use:
    """What is done with one stream, drawn from a seed."""

    def __init__(self, adapters: list[Adapter], number: int, seed: int) -> None:
        self.rng = random.Random(seed * 1_000_003 + number)
        self.adapter = self.rng.choice(adapters)
        self.request = GenerateRequest(
            prompt=f"stream {number}",
            max_tokens=self.rng.randint(1, 24),
            seed=number,
            deadline=self.rng.choice([None, 20.0, 0.05]),
        )

    def __call__(self) -> str:
        """Use it and tell how it ended."""
        kinds = (self.read, self.read, self.read, self.read, self.cancelled_from_elsewhere, self.cancelled, self.left,
                 self.dropped, self.generated)  # fmt: skip
        return self.rng.choice(kinds)()

    def _open(self) -> Stream:
        way = self.rng.choice(["stream", "submit"])
        stream: Stream = getattr(self.adapter, way)(self.request)
        return stream

    def read(self) -> str:
        with self._open() as stream:
            return self._ended(list(stream))

    def cancelled_from_elsewhere(self) -> str:
        with self._open() as stream:
            timer = threading.Timer(self.rng.random() * 0.02, self.adapter.cancel, (stream.task_id,))
            timer.start()
            events = list(stream)
            timer.cancel()
            timer.join()
            return self._ended(events)

    def cancelled(self) -> str:
        with self._open() as stream:
            events = list(itertools.islice(stream, self.rng.randint(1, 6)))
            stream.cancel()
            rest = list(stream)
            assert not any(isinstance(event, Token) for event in rest)
            return self._ended([*events, *rest])

    def left(self) -> str:
        with self._open() as stream:
            events = [next(stream)]
        lawful(events, whole=isinstance(events[0], End | Error))
        return "left"

    def dropped(self) -> str:
        next(self._open())
        return "dropped"

    def generated(self) -> str:
        try:
            return str(self.adapter.generate(self.request).finish_reason)
        except WorkerError as exc:
            return self._ended([exc.error])

    @staticmethod
    def _ended(events: list[Event]) -> str:
        lawful(events)
        last = events[-1]
        return str(last.reason) if isinstance(last, Error) else str(last.finish_reason)  # type: ignore[union-attr]


def soak(
    streams: int, *, seed: int = 1, batch: int = 1000, tell: Callable[[str], object] = lambda _line: None
) -> Report:
    """Run so many. `tell` gets a line per batch. Raises AssertionError for an unlawful stream, TimeoutError for a hang."""
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    with _unheard(), engines() as urls, contextlib.ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        adapters = [
            stack.enter_context(
                connect(
                    engine,
                    url,
                    model=model,
                    timeouts=TIMEOUTS,
                    retry=Retry(base=0.005, cap=0.02),
                    limits=Limits(hand_over=4),
                    metrics=MetricsOptions(registry=CollectorRegistry()),
                )
            )
            for (engine, model), url in zip(ENGINES.items(), urls, strict=True)
        ]
        for adapter in adapters:
            adapter.engine_version()
        list(pool.map(lambda _n: time.sleep(0.05), range(AT_ONCE)))  # its threads are there from the beginning
        samples = [_quiet(0, None)]
        for start in range(0, streams, batch):
            uses = [_Use(adapters, n, seed) for n in range(start, min(start + batch, streams))]
            for future in [pool.submit(use) for use in uses]:
                outcomes[future.result(PATIENCE)] += 1
            del uses
            samples.append(_quiet(start + batch, samples[0]))
            last = samples[-1]
            tell(
                f"{last.streams:7,} streams {time.monotonic() - began:6.1f} s   {last.mib:6.1f} MiB   {last.blocks:,} blocks"
                f"   {last.threads} threads   {last.descriptors} descriptors"
            )
    return Report(samples, outcomes, time.monotonic() - began)


def _quiet(streams: int, first: Sample | None) -> Sample:
    """A sample once the threads have gone that were about to."""
    give_up = time.monotonic() + 5.0
    sample = Sample.now(streams)
    while _busy() or (first is not None and sample.threads > first.threads and time.monotonic() < give_up):
        assert time.monotonic() < give_up, "threads were left running"
        time.sleep(0.05)
        sample = Sample.now(streams)
    return sample


def _busy() -> list[str]:
    """Threads of streams and probes."""
    return [t.name for t in threading.enumerate() if t.name.startswith("worker-adapters") and t.name not in RESIDENTS]


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Log lines are made, and nobody keeps them: pytest would."""
    log = logging.getLogger("worker_adapters")
    handler, propagate = logging.NullHandler(), log.propagate
    log.addHandler(handler)
    log.propagate = False
    yield
    log.propagate = propagate
    log.removeHandler(handler)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="many streams, random faults, flat figures")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1000, help="streams per line")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
        return 0
    if not os.environ.keys() >= ONE_ARENA.keys():
        command = [sys.executable, "-m", "tests.faults.soak", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ONE_ARENA})
    report = soak(chosen.streams, seed=chosen.seed, batch=chosen.batch, tell=_tell)
    _tell(", ".join(f"{count:,} {outcome}" for outcome, count in report.outcomes.most_common()))
    grown = report.grown()
    _tell("; ".join(grown) or f"flat: {report.seconds:.0f} s, no stream hung, none broke the grammar")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
