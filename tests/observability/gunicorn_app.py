"""A web application that several processes of gunicorn serve: a stream for each request, and the metrics of all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from worker_adapters import GenerateRequest, MetricsOptions, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Not for tests to import: it would be theirs. Made before the workers are forked (preload_app), who go on with their own.
adapter = connect("mock", "mock://local", pool_id="a", replica_id="r0", metrics=MetricsOptions(refresh=0.2))

bind, workers, preload_app, control_socket_disable = "127.0.0.1:0", 2, True, True


def child_exit(_server: object, worker: Any) -> None:
    """gunicorn's hook, as prometheus_client's documentation has it."""
    mark_process_dead(worker.pid)


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
        return [generate_latest(registry)]
    done = adapter.generate(GenerateRequest(prompt="p", max_tokens=int(os.environ["TOKENS"]), seed=7))
    adapter.drain(10)
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {done.tokens_out}".encode()]
