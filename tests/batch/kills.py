"""`kill -9` at random points of batches, over and over: no row lost, none twice, few asked again.

    python -m tests.batch.kills --kills 1000 --seed 1

Each job is a file of rows that processes answer one after the other, each killed at a random moment or at a point that its
disk chooses: in the middle of a write, between a write and its sync, before and after the rename of the output. The last
one is left alone. What the (simulated) worker was asked is counted by the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from worker_adapters import connect
from worker_adapters.batch import Batch, Options, Outcome
from worker_adapters.batch.disk import Disk

ROWS, WINDOW, GROUP = 120, 8, 8
QUICK = Path(
    "/dev/shm"
)  # what a process that is killed has written is there, synced or not: no disk has to be waited for
SERVER = """
import sys
from worker_adapters.simulator import Simulator
with Simulator("vllm", slots=8, rate=2000.0) as simulator:
    print(simulator.url, flush=True)
    for _ in sys.stdin:
        print(simulator.state.served + simulator.state.cancelled + simulator.state.failed, flush=True)
"""


class KillingDisk(Disk):
    """At one of its calls, by number, it kills its process: half-way through a write, before the call, or after it."""

    def __init__(self, at: int, how: str) -> None:
        self._left, self._how = at, how

    def _comes(self, when: str) -> bool:
        if when == "before":
            self._left -= 1
        return self._left < 0 and self._how == when

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._die_if("before")
        if self._left < 0 and self._how == "within":
            os.write(descriptor, data[: max(1, len(data) // 2)])
            os.kill(os.getpid(), signal.SIGKILL)
        written = super().write(descriptor, data)
        self._die_if("after")
        return written

    def sync(self, descriptor: int) -> None:
        self._die_if("before")
        super().sync(descriptor)
        self._die_if("after")

    def replace(self, source: Path, target: Path) -> None:
        self._die_if("before")
        super().replace(source, target)
        self._die_if("after")

    def _die_if(self, when: str) -> None:
        if self._comes(when):
            os.kill(os.getpid(), signal.SIGKILL)


def answer(folder: Path, url: str, disk: Disk) -> None:
    """One process's part of a job."""
    options = Options(window=WINDOW, largest=WINDOW, group_rows=GROUP, group_seconds=0.02, parameters={"max_tokens": 4})
    with connect("vllm", url) as adapter:
        report = Batch(folder / "in", folder / "out", [adapter], options=options, disk=disk).run()
    if report.outcome is not Outcome.DONE or report.failed:
        raise SystemExit(f"it ended otherwise: {report}")


def forked(folder: Path, url: str, disk: Disk, seconds: float | None) -> bool:
    """Run that in a child, killed after so long if it is given; whether it came to its end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            answer(folder, url, disk)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a run failed in {folder}")
    return os.WIFEXITED(status)


class Server:
    """The worker, in a process of its own, so that this one has no thread when it forks."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True)
        self.url = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def asked(self) -> int:
        """Generations it was asked for so far, once none is running."""
        assert self._process.stdin is not None
        before = -1
        while True:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            now = int(self._line())
            if now == before:
                return now
            before = now
            time.sleep(0.03)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def job(folder: Path, server: Server, kills: int, draw: random.Random, points: Counter[str]) -> tuple[int, int]:
    """One job with so many kills: those that struck, and the rows that were asked for more than once."""
    (folder / "in").write_text("".join(json.dumps({"id": n, "prompt": f"p{n}"}) + "\n" for n in range(ROWS)))
    before, struck = server.asked(), 0
    for _ in range(kills):
        how = draw.choice(["at some time", "at some time", "before", "within", "after"])
        if how == "at some time":
            ended = forked(folder, server.url, Disk(), draw.random() * 0.25)
        else:
            ended = forked(folder, server.url, KillingDisk(draw.randrange(30), how), None)
        if not ended:
            struck += 1
            points[how] += 1
    while not forked(folder, server.url, Disk(), None):
        pass
    found = [json.loads(line)["id"] for line in (folder / "out").read_text().splitlines()]
    if found != list(range(ROWS)):
        raise SystemExit(f"lost or doubled in {folder}: {Counter(range(ROWS))} {Counter(found)}")
    if {path.name for path in folder.iterdir()} != {"in", "out", "out.journal"}:
        raise SystemExit(f"something else is left in {folder}")
    again = server.asked() - before - ROWS
    if again > struck * (WINDOW + GROUP):
        raise SystemExit(f"{again} rows asked again after {struck} kills in {folder}")
    return struck, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, points = random.Random(options.seed), Counter[str]()
    server, struck, again, jobs = Server(), 0, 0, 0
    begun = time.monotonic()
    while struck < options.kills:
        with tempfile.TemporaryDirectory(dir=QUICK if QUICK.is_dir() else None) as folder:
            wanted = min(draw.randrange(1, 9), options.kills - struck)
            more, twice = job(Path(folder), server, wanted, draw, points)
            if (struck + more) // 100 > struck // 100:
                sys.stderr.write(f"{struck + more} kills, none of which lost a row\n")
            struck, again, jobs = struck + more, again + twice, jobs + 1
    server.stop()
    sys.stdout.write(
        f"{struck} kills ({', '.join(f'{n} {how}' for how, n in sorted(points.items()))}) in {jobs} jobs of {ROWS} rows: "
        f"none lost, none twice; {again / struck:.1f} rows asked again a kill, of {WINDOW + GROUP} that may be; "
        f"{time.monotonic() - begun:.0f} s\n"
    )


if __name__ == "__main__":
    main()
