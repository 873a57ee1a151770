"""Clients that connect to the example orchestrator and drop, at any point: what must stay flat there.

    python -m tests.orchestrator.churn --connects 100000

The orchestrator, on simulated engines, is a process of its own; what it holds is read from /proc. A connection is one of: a
task that is submitted and read for a while, a stream that is joined from its begin or from the middle, a request that is cut
in its head, nothing at all. Prints a table, and says what grew.
"""

from __future__ import annotations

import argparse
import json
import random
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
SETTLE = 30.0  # seconds for what has been dropped to be noticed
MOST_GROWTH = 1.10  # × the memory after the first fifth: allocators keep what they had at their peak
SLACK = 16 << 20


@attrs.frozen
class Held:
    """What a process holds."""

    memory: int
    threads: int
    descriptors: int

    @classmethod
    def by(cls, pid: int) -> Held:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        )
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), descriptors)


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
    """Samples of what the process holds: before, in equal parts of the way, and once all is quiet again."""
    done, lock, held = [0], threading.Lock(), [Held.by(pid)]

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
    give_up = time.monotonic() + SETTLE
    last = Held.by(pid)
    while time.monotonic() < give_up and last.descriptors > held[0].descriptors + 8:
        time.sleep(0.2)
        last = Held.by(pid)
    return [*held, last]


def judge(held: list[Held]) -> list[str]:
    """What has grown."""
    first, warm, last = held[0], held[1 + len(held) // 5], held[-1]
    found = []
    if last.descriptors > first.descriptors + 8:  # connections that the library keeps for reuse
        found.append(f"descriptors: {first.descriptors} → {last.descriptors}")
    if last.threads > first.threads + 8:
        found.append(f"threads: {first.threads} → {last.threads}")
    if last.memory > warm.memory * MOST_GROWTH + SLACK:
        found.append(f"memory: {warm.memory >> 20} → {last.memory >> 20} MiB")
    return found


def show(held: list[Held], connects: int, took: float) -> None:
    print(f"{connects:,} connects in {took:.0f} s ({connects / took:.0f} a second)")
    print("| at | memory, MiB | threads | descriptors |\n|---:|---:|---:|---:|")
    for n, one in enumerate(held):
        at = "quiet" if n == len(held) - 1 else f"{n * 100 // SAMPLES} %"
        print(f"| {at} | {one.memory / 2**20:.1f} | {one.threads} | {one.descriptors} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connects", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "examples.orchestrator", "--demo", "--port", "0", "--rate", "2000", "--grace", "2"]
    command += ["--replay-age", "5"]  # else it would fill for five minutes, and nothing else be seen
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().split("//")[1].partition("/")[0].partition(":")
            began = time.monotonic()
            held = churn((host, int(port)), process.pid, options.connects, options.seed)
            show(held, options.connects, time.monotonic() - began)
            process.terminate()
            ended = process.wait(30)
        finally:
            process.kill()
    grown = [*judge(held), *([f"it ended with {ended}"] if ended else [])]
    print("\n".join(grown) or "flat")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
