"""A process that Prometheus scrapes: three replicas, good streams, and now and then each kind of failure there is.

`python -m tests.observability.exporting` prints where, and goes on until its standard input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import threading
import time
from typing import Any

import attrs
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY, start_http_server

from worker_adapters import (
    AdmissionRejectedError,
    ErrorCode,
    GenerateRequest,
    InvalidRequestError,
    Limits,
    MetricsOptions,
    Priority,
    Properties,
    Reason,
    Retry,
    TelemetryOptions,
)
from worker_adapters.dialect import Fault, WorkerFacts
from worker_adapters.engines import mock
from worker_adapters.engines.mock.server import event_bytes
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Script, ScriptedTransport

from ..faults.rows import ROWS

STARTED = {ErrorCode.WORKER_RESET, ErrorCode.DECODE_TIMEOUT, ErrorCode.DEADLINE_UNMET}


def _token(number: int) -> bytes:
    return event_bytes({"t": f"t{number}", "n": number + 1, "in": 5})


def good(chance: random.Random, slow: float) -> Script:
    """Tokens at a pace."""
    count = chance.randint(4, 24)
    steps: list[Any] = [chance.expovariate(1 / (0.03 * slow))]
    for number in range(count):
        steps += [_token(number), chance.uniform(0.001, 0.006) * slow]
    return Script(steps=[*steps, event_bytes({"end": "stop", "n": count, "in": 5})])


def bad(code: str, reason: str) -> Script:
    """What ends with that."""
    fault = Fault(Reason(reason), "planted")
    return Script(steps=[_token(0), fault]) if ErrorCode(code) in STARTED else Script(queue=fault)


class Replica:
    """One worker, and who asks it."""

    def __init__(self, name: str, seed: int, slow: float, failing: float) -> None:
        self._chance = random.Random(seed)
        self._slow = slow
        self._failing = failing
        self._failures = itertools.cycle(row for row in ROWS if row[1] not in ("LOCAL_LIMIT", "ADAPTER_CLOSED"))
        self._in_use = 0
        dialect = attrs.evolve(mock.DIALECT, properties=self._properties)
        config = AdapterConfig(
            dialect=dialect,
            url="http://worker.test",
            pool_id="demo",
            replica_id=name,
            retry=Retry(attempts=2, base=0.01),
            limits=Limits(max_in_flight=12, hand_over=4),
            metrics=MetricsOptions(refresh=0.5),
            telemetry=TelemetryOptions(tracer_provider=TracerProvider(), metrics=False),
        )
        self.adapter = EngineAdapter(config, transport=ScriptedTransport(answer=self._answer, reply=mock.reply))

    def _properties(self, target: Any) -> Any:
        facts = yield from mock.DIALECT.properties(target)
        used = self.adapter.in_flight
        shown = {
            "slots_total": 8,
            "slots_free": max(0, 8 - used),
            "queue_depth": max(0, used - 8),
            "kv_usage": used / 16,
        }
        assert isinstance(facts.properties, Properties)
        return WorkerFacts(properties=attrs.evolve(facts.properties, **shown))

    def _answer(self, _wire: Any) -> Script:
        if self._chance.random() < self._failing:
            return bad(*next(self._failures))
        return good(self._chance, self._slow)

    def ask(self, over: threading.Event) -> None:
        """One thread's streams, read as users do: most to the end, some slowly, some not."""
        for number in itertools.count():
            if over.is_set():
                return
            priority = Priority.BATCH if number % 3 else Priority.INTERACTIVE
            try:
                with self.adapter.submit(GenerateRequest(prompt="p", priority=priority)) as stream:
                    for index, _event in enumerate(stream):
                        if number % 23 == 7 and index == 3:
                            break
                        if number % 29 == 11 and index == 3:
                            stream.cancel()
                        if number % 17 == 5:
                            time.sleep(0.02)  # a slow reader
            except AdmissionRejectedError:
                time.sleep(0.02)
            if number % 31 == 3:
                with contextlib.suppress(InvalidRequestError):
                    self.adapter.submit(GenerateRequest(prompt="p", temperature=-1.0))


def main() -> None:
    """Serve, and ask, until standard input ends."""
    over = threading.Event()
    replicas = [Replica("r0", 0, 1.0, 0.02), Replica("r1", 1, 2.0, 0.1), Replica("r2", 2, 1.5, 0.6)]
    asking = [replicas[0]] * 14 + [replicas[1]] * 6 + [replicas[2]] * 6
    threads = [threading.Thread(target=replica.ask, args=(over,)) for replica in asking]
    server, _ = start_http_server(0, "127.0.0.1", REGISTRY)
    for thread in threads:
        thread.start()
    sys.stdout.write(f"127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    for replica in replicas:
        replica.adapter.close()


if __name__ == "__main__":
    main()
