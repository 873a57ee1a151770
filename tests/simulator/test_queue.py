"""A queue whose head has been sent: the response has begun, the first token has not come."""

from __future__ import annotations

import pytest

from worker_adapters import CancelOutcome, GenerateRequest, Retry, Timeouts
from worker_adapters.simulator import WordSource


@pytest.mark.parametrize("engine", ["tgi", "vllm"])
def test_the_head_comes_while_a_request_is_queued_and_its_cancel_is_noticed_there(simulated_worker, engine):
    worker = simulated_worker(engine, slots=1, rate=200, source=WordSource(eos_rate=0))
    adapter = worker.connect(retry=Retry(attempts=1))
    first, second, third = (GenerateRequest(prompt="the sun", max_tokens=4000, seed=1) for _ in range(3))
    running = adapter.submit(first)
    worker.wait_for(active=1)
    (error,) = list(adapter.stream(second, timeouts=Timeouts(first_token=0.2)))
    assert (error.reason, error.phase) == ("FIRST_TOKEN_TIMEOUT", "first_token")
    worker.wait_for(active=1, queued=0)
    queued = adapter.submit(third)
    worker.wait_for(queued=1)
    assert queued.cancel() is CancelOutcome.CLOSED
    worker.wait_for(active=1, queued=0)
    running.cancel()
    worker.wait_for(active=0)
