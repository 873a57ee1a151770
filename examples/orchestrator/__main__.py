"""Serve: `python -m examples.orchestrator replicas.toml`, or `--demo` on simulated engines."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import attrs

from worker_adapters.simulator import Simulator

from .serving import running
from .settings import ReplicaSettings, Settings

DEMO = {"r0": "llamacpp", "r1": "vllm", "r2": "tgi"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="orchestrator", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="replicas and settings, such as replicas.toml")
    parser.add_argument("--demo", action="store_true", help="on simulated engines, a few tokens a second")
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second and task, of the simulated engines")
    parser.add_argument("--grace", type=float, help="seconds that a task goes on which nobody reads")
    parser.add_argument("--replay-age", type=float, help="seconds that events are kept for clients that come back")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if bool(options.file) == options.demo:
        parser.error("give a file, or --demo")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with ExitStack() as stack:
        given = {"grace": options.grace, "replay_age": options.replay_age}
        try:
            settings = demo(stack, options.rate) if options.demo else Settings.of(options.file)
            settings = attrs.evolve(settings, **{name: value for name, value in given.items() if value is not None})
            url, _ = stack.enter_context(running(settings, options.host, options.port))
        except (OSError, ValueError) as exc:  # a setting, a URL, a port that is taken
            parser.error(f"{options.file or 'demo'}: {exc}")
        print(f"{url}/  (Ctrl-C ends it)", flush=True)
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        with suppress(KeyboardInterrupt):
            stopped.wait()


def demo(stack: ExitStack, rate: float) -> Settings:
    """Simulated engines, and settings that name them."""
    workers = {name: stack.enter_context(Simulator(engine, rate=rate, slots=2)) for name, engine in DEMO.items()}
    return Settings(
        replicas=tuple(
            ReplicaSettings(id=name, engine=DEMO[name], url=worker.url, slots=2, model=worker.model)
            for name, worker in workers.items()
        )
    )


if __name__ == "__main__":
    main()
