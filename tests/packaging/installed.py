"""Is an installed wheel whole? Every engine's first tokens, from many threads at once. Run as a file, without pytest."""

from __future__ import annotations

import sys
import threading

from worker_adapters import GenerateRequest, Token, __version__, connect
from worker_adapters.cli import main
from worker_adapters.simulator import ENGINES, Simulator

THREADS = 8


def stream_from(engine: str, said: list[str]) -> None:
    with Simulator(engine, seed=7) as worker, connect(engine, worker.url) as adapter:

        def ask() -> None:
            request = GenerateRequest(prompt="Once upon a time", max_tokens=32, seed=1)
            said.append("".join(event.text for event in adapter.stream(request) if isinstance(event, Token)))

        threads = [threading.Thread(target=ask) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def check() -> str:
    """What is wrong; empty if nothing is."""
    for engine in ENGINES:
        said: list[str] = []
        stream_from(engine, said)
        if len(said) != THREADS or len(set(said)) != 1 or not said[0]:
            return f"{engine}: {THREADS} threads with one seed did not get one text: {said}"
    lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if "t" in getattr(sys, "abiflags", "") and lock:
        return "this Python is free-threaded, and importing the package has brought the lock back"
    return "" if main(["--version"]) == 0 else "the command line does not run"


if __name__ == "__main__":
    sys.stdout.write(f"worker-adapters {__version__} on Python {sys.version}\n")
    sys.exit(check() or 0)
