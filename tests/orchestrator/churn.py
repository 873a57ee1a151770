"""Clients that connect to the example orchestrator and drop, at any point: what must stay flat there.

    python -m tests.orchestrator.churn --connects 100000

The orchestrator, on simulated engines, is a process of its own; what it holds is read from /proc, and how many objects of
Python's are alive it tells itself. A connection is one of: a task that is submitted and read for a while, a stream that is
joined from its begin or from the middle, a request that is cut in its head, nothing at all. Prints a table, and says what
grew since it was warm, both times when all was quiet and what the replay log kept had gone.

glibc keeps chunks back for each thread, and arenas for many: with 75 threads that grows by megabytes for an hour, while not
one object more is alive. So the process runs without the first and with one of the second, and stands still.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import attrs

__all__ = ["Held", "churn", "main"]

CLIENTS = 8
SAMPLES = 10
REPLAY_AGE = 5.0  # seconds; else the replay log would fill for five minutes, and nothing else be seen
SETTLE = 30.0  # seconds for what has been dropped to be noticed
ALLOCATOR = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1"
WARM_UP = 5000  # connects, until each of the threads has been as deep as it goes
MOST_MEMORY = 2 << 20
MOST_OBJECTS = 2000  # what engines remember of their last requests differs by that; and one for each fifty connects
MOST_DESCRIPTORS = MOST_THREADS = 2


@attrs.frozen
class Held:
    """What a process holds. `objects`: blocks of Python's, if it tells them."""

    memory: int
    threads: int
    descriptors: int
    objects: int = 0

    @classmethod
    def by(cls, pid: int) -> Held:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        )
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), descriptors)


@attrs.frozen
class Server:
    """The orchestrator's process."""

    process: subprocess.Popen[str]
    address: tuple[str, int]

    def quiet(self, like: Held | None = None) -> Held:
        """What it holds once all that was dropped is noticed, and what was kept has gone."""
        give_up = time.monotonic() + SETTLE
        held = Held.by(self.process.pid)
        while like and time.monotonic() < give_up and grown(like, held):
            time.sleep(0.2)
            held = Held.by(self.process.pid)
        time.sleep(REPLAY_AGE + 1.0)
        exchange(self.address, "GET /v1/tasks/none/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 1 << 16)
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        objects = int(self.process.stdout.readline())
        return attrs.evolve(Held.by(self.process.pid), objects=objects)


def exchange(address: tuple[str, int], text: str, at_most: int) -> bytes:
    """Send that, read some of the answer, and drop the connection."""
    got = b""
    with suppress(ConnectionError), socket.create_connection(address, timeout=30) as sock:
        sock.sendall(text.encode())
        while len(got) < at_most and (more := sock.recv(min(4096, at_most - len(got)))):
            got += more
    return got


def post(address: tuple[str, int], rng: random.Random) -> str | None:
    body = json.dumps({"prompt": "x", "max_tokens": rng.choice([1, 20, 400])})
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = exchange(address, head + body, 1 << 16)
    _, _, said = answer.partition(b"\r\n\r\n")
    with suppress(ValueError):
        return json.loads(said).get("task_id")
    return None


def connect_and_drop(address: tuple[str, int], rng: random.Random, tasks: list[str]) -> int:
    """One client's visit; how many connections it took."""
    kind = rng.random()
    if kind < 0.05 or not tasks:
        task_id = post(address, rng)
        tasks[:] = [*tasks[-8:], *([task_id] if task_id else [])]
        return 1
    if kind < 0.10:
        exchange(
            address,
            f"POST /v1/tasks/{tasks[-1]}/cancel HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            4096,
        )
    elif kind < 0.15:
        exchange(address, "GET /v1/ta"[: rng.randrange(10)], 0)
    else:
        task_id = rng.choice(tasks)
        last = f"Last-Event-ID: {task_id}:{rng.randrange(30)}\r\n" if rng.random() < 0.5 else ""
        text = f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{last}\r\n"
        exchange(address, text, rng.choice([0, 1, 300, 3000]))
    return 1


def churn(address: tuple[str, int], pid: int, connects: int, seed: int = 1) -> list[Held]:
    """Samples of what the process holds, in equal parts of the way."""
    done, lock, held = [0], threading.Lock(), []

    def client(number: int) -> None:
        rng, tasks = random.Random(seed * 1000 + number), []
        while True:
            with lock:
                if done[0] >= connects:
                    return
                done[0] += 1
                if done[0] % max(1, connects // SAMPLES) == 0:
                    held.append(Held.by(pid))
            connect_and_drop(address, rng, tasks)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return held


def grown(warm: Held, last: Held) -> list[str]:
    """What there is more of, that shows at once."""
    found = []
    if last.descriptors > warm.descriptors + MOST_DESCRIPTORS:
        found.append(f"descriptors: {warm.descriptors} → {last.descriptors}")
    if last.threads > warm.threads + MOST_THREADS:
        found.append(f"threads: {warm.threads} → {last.threads}")
    return found


def judge(warm: Held, last: Held, connects: int) -> list[str]:
    """What has grown between two quiet moments, with so many connects in between."""
    found = grown(warm, last)
    if last.memory > warm.memory + MOST_MEMORY:
        found.append(f"memory: {warm.memory / 2**20:.1f} → {last.memory / 2**20:.1f} MiB")
    if last.objects > warm.objects + MOST_OBJECTS + connects // 50:
        found.append(f"objects: {warm.objects:,} → {last.objects:,}")
    return found


def show(rows: list[tuple[str, Held]]) -> None:
    print("| at | memory, MiB | threads | descriptors | objects |\n|---:|---:|---:|---:|---:|")
    for at, one in rows:
        objects = f"{one.objects:,}" if one.objects else ""
        print(f"| {at} | {one.memory / 2**20:.1f} | {one.threads} | {one.descriptors} | {objects} |", flush=True)


def whole(server: Server, connects: int, warm_up: int, seed: int) -> list[str]:
    """What has grown since it was warm."""
    began, first = time.monotonic(), server.quiet()
    churn(server.address, server.process.pid, warm_up, seed)
    warm = server.quiet(first)
    held = churn(server.address, server.process.pid, connects, seed + 1)
    last = server.quiet(warm)
    took, total = time.monotonic() - began - 3 * (REPLAY_AGE + 1.0), warm_up + connects
    print(f"{total:,} connects in {took:.0f} s ({total / took:.0f} a second)")
    ways = [(f"{(n + 1) * 100 // SAMPLES} %", one) for n, one in enumerate(held)]
    show([("before", first), ("warm, quiet", warm), *ways, ("quiet", last)])
    return judge(warm, last, connects)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connects", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leak", action="store_true", help="plant one: a list for each stream that is asked for")
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", __spec__.name if __spec__ else "tests.orchestrator.churn", SERVE]
    if options.leak:
        command.append(LEAK)
    environ = {**os.environ, "GLIBC_TUNABLES": ALLOCATOR}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().split("//")[1].partition("/")[0].partition(":")
            found = whole(Server(process, (host, int(port))), options.connects, options.warm_up, options.seed)
            process.terminate()
            ended = process.wait(30)
        finally:
            process.kill()
    found += [f"it ended with {ended}"] if ended else []
    print("\n".join(found) or "flat")
    return bool(found)


# --- in the orchestrator's process ------------------------------------------------------------------------------------

SERVE, LEAK = "--serve", "--and-leak"


def serve(*, leak: bool) -> None:
    """The example as it is, but that it tells what is alive when it is asked (SIGUSR1)."""
    from examples.orchestrator.__main__ import main as orchestrator  # noqa: PLC0415  -- in this process only

    from worker_adapters import ReplayLog  # noqa: PLC0415

    def tell(*_: object) -> None:
        gc.collect()
        with suppress(AttributeError):  # of another C library's
            ctypes.CDLL(None).malloc_trim(0)
        print(sys.getallocatedblocks(), flush=True)

    signal.signal(signal.SIGUSR1, tell)
    if leak:
        leaked, read = [], ReplayLog.read

        def leaking(*args: object, **how: object) -> object:
            leaked.append([object()])
            return read(*args, **how)  # type: ignore[arg-type]

        ReplayLog.read = leaking  # type: ignore[method-assign, assignment]
    sys.argv = [
        "orchestrator",
        "--demo",
        "--port",
        "0",
        "--rate",
        "2000",
        "--grace",
        "2",
        "--replay-age",
        str(REPLAY_AGE),
    ]
    orchestrator()


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        serve(leak=LEAK in sys.argv)
    else:
        sys.exit(main())
