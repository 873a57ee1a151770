"""Triton over sockets: the requirements, from the simulator."""

from __future__ import annotations

import pytest

from worker_adapters import End, GenerateRequest, Identity, Retry, Started, Timeouts, connect
from worker_adapters.simulator import Simulator

from ..timers import SOON, unhurried
from ..transport.servers import BlackHole

KINDS = ("triton-trtllm", "triton-vllm", "triton-llmapi")


def text_of(events):
    return "".join(e.text for e in events if e.kind == "token")


@pytest.mark.req("OC-ADAPT-5060", socket=True)
@pytest.mark.parametrize("kind", KINDS)
def test_generate_health_metadata_and_queue(kind):
    with (
        Simulator(kind, model="m", slots=1) as sim,
        connect("triton", sim.url, model="m", metrics_url=f"{sim.url}/metrics") as adapter,
    ):
        assert adapter.health().ready
        assert adapter.health(deep=True).ready
        events = list(adapter.submit(GenerateRequest(prompt="p", seed=1, max_tokens=8)))
        assert isinstance(events[-1], End)
        assert text_of(events)
        assert adapter.properties().queue_depth == 0
    with connect("triton", sim.url, model="m") as adapter:
        assert not adapter.health().live


@pytest.mark.req("OC-ADAPT-5070", socket=True)
@pytest.mark.parametrize("kind", KINDS)
def test_versions(kind):
    """Triton tells its own; TensorRT-LLM's is the caller's to tell."""
    identity = Identity(trtllm_version="1.1.0")
    with Simulator(kind, model="m") as sim, connect("triton", sim.url, model="m", identity=identity) as adapter:
        started = next(adapter.stream(GenerateRequest(prompt="p", max_tokens=2)))
        assert isinstance(started, Started)
        assert (started.engine, started.engine_version, started.trtllm_version) == ("triton", "2.51.0", "1.1.0")


def test_the_three_say_the_same():
    """One source of tokens behind three wires, and a fourth that repeats itself: the same text for the same seed."""
    texts = set()
    for kind, options in [*((kind, {}) for kind in KINDS), ("triton-trtllm", {"model_kind": "trtllm-accumulate"})]:
        with Simulator(kind, model="m", **options) as sim, connect("triton", sim.url, model="m") as adapter:
            texts.add(adapter.generate(GenerateRequest(prompt="p", seed=3, max_tokens=64, temperature=0)).text)
    assert len(texts) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_server_is_never_asked_to_generate(kind):
    with Simulator(kind, model="m", version="2.40.0") as sim, connect("triton", sim.url, model="m") as adapter:
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
        assert (error.reason, error.phase) == ("UNSUPPORTED_VERSION", "prepare")
        assert sim.state.served == 0


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("reset@2", "WORKER_RESET", "DISCONNECTED"),
        ("close@2", "WORKER_RESET", "TRUNCATED"),
        ("cut@2", "WORKER_RESET", "TRUNCATED"),
        ("eof@2", "WORKER_RESET", "TRUNCATED"),
        ("error@2:boom", "WORKER_RESET", "ENGINE_ERROR"),
        ("error@head:boom", "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ("overloaded", "ADMISSION_REJECT", "OVERLOADED"),
        ("loading", "POOL_UNREADY", "LOADING"),
        ("stall@head:forever", "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT"),
        ("stall@2:forever", "DECODE_TIMEOUT", "IDLE_TIMEOUT"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_never_ends_well(kind, fault, code, reason):
    def run(scale):
        timer = 0.2 * scale if fault.startswith("stall") else 2 * SOON
        timeouts = Timeouts(first_token=timer, idle=timer)
        with (
            Simulator(kind, model="m", faults=[fault]) as sim,
            connect("triton", sim.url, model="m", timeouts=timeouts, retry=Retry(attempts=1)) as adapter,
        ):
            return list(adapter.stream(GenerateRequest(prompt="p", seed=1, max_tokens=8)))[-1]

    error = unhurried(run, lambda error: error.reason == reason)
    assert (error.code, error.reason) == (code, reason), error.message


def test_the_end_of_a_body_without_framing_is_no_end():
    """Whole, but it ends with its connection: as if it had been cut there."""
    with (
        Simulator("triton-trtllm", model="m", faults=["eof@end"]) as sim,
        connect("triton", sim.url, model="m", retry=Retry(attempts=1)) as adapter,
    ):
        error = list(adapter.stream(GenerateRequest(prompt="p", seed=1, max_tokens=4)))[-1]
    assert error.reason == "TRUNCATED"


@pytest.mark.parametrize(("fault", "reason"), [("close@accept*", "DISCONNECTED"), ("stall@accept*", "CONNECT_TIMEOUT")])
def test_a_server_that_can_not_be_asked_fails_before_the_stream(fault, reason):
    """In phase prepare, at every attempt."""
    probe = 0.2 if fault.startswith("stall") else 2 * SOON
    with (
        Simulator("triton-trtllm", model="m", faults=[fault]) as sim,
        connect("triton", sim.url, model="m", timeouts=Timeouts(probe=probe), retry=Retry(base=0.0)) as adapter,
    ):
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
    assert (error.code, error.reason, error.phase, error.attempts) == ("POOL_UNAVAILABLE", reason, "prepare", 4)
    assert error.retriable


def test_asking_heeds_the_time_to_connect():
    """The adapter's: what one stream asks, it asks for all."""
    quick, retry = Timeouts(connect=0.1, probe=30.0), Retry(attempts=2, base=0.0)
    with BlackHole() as hole, connect("triton", hole.url, model="m", retry=retry, timeouts=quick) as adapter:
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
    assert (error.reason, error.phase, error.attempts) == ("CONNECT_TIMEOUT", "prepare", 2)
    assert "within 0.1 s" in error.message


def test_a_server_that_is_there_at_the_second_attempt():
    with (
        Simulator("triton-trtllm", model="m", faults=["close@accept"]) as sim,
        connect("triton", sim.url, model="m", retry=Retry(base=0.0)) as adapter,
    ):
        started = next(adapter.stream(GenerateRequest(prompt="p")))
        assert started.attempt == 2
