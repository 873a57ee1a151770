"""Metrics and the log line: what is counted, under which labels, and what never shows."""

from __future__ import annotations

import logging

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from worker_adapters import Limits, MetricsOptions, Reason
from worker_adapters.dialect import Fault
from worker_adapters.transport.scripted import Script

from .dialects import NOW, TINY, adapter, frames, good, kinds, ok, request, status, until

LABELS = {
    "engine": "tiny",
    "engine_version": "v9",
    "pool_id": "a",
    "replica_id": "r",
    "priority": "interactive",
    "trtllm_version": "",
}
WORKER = {"engine": "tiny", "pool_id": "a", "replica_id": "r"}


@pytest.fixture
def registry():
    return CollectorRegistry()


def observed(registry, *scripts, ask=None, **config):
    config = {"metrics": MetricsOptions(registry=registry), "pool_id": "a", "replica_id": "r", **config}
    with adapter(*scripts, **config) as a:
        a.engine_version()
        return list(a.stream(request(**(ask or {}))))


@pytest.mark.req("ADAPT-3004")
def test_a_good_stream_is_counted_once(registry):
    observed(registry, good("ta", "tb", "tc", "u9", "."))
    value = registry.get_sample_value
    assert value("tokens_in_total", LABELS) == 5
    assert value("tokens_out_total", LABELS) == 9  # raised to the engine's figure
    assert value("latency_first_token_ms_count", LABELS) == 1
    assert value("latency_decode_ms_count", LABELS) == 1
    assert value("worker_adapter_requests_total", {**LABELS, "outcome": "stop"}) == 1
    assert value("worker_adapter_inter_token_ms_count", LABELS) == 1
    assert value("worker_adapter_in_flight", WORKER) == 0


def test_the_buckets_are_those_of_the_contract(registry):
    observed(registry, good())
    text = generate_latest(registry).decode()
    for family, buckets in {
        "latency_first_token_ms": [50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000],
        "latency_decode_ms": [250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000],
    }.items():
        found = [
            line.split('le="')[1].split('"')[0] for line in text.splitlines() if line.startswith(f"{family}_bucket")
        ]
        assert found == [f"{b}.0" for b in buckets] + ["+Inf"]


def test_no_latency_is_observed_without_a_token(registry):
    for script in (good("."), status(500), Script(steps=[])):
        observed(registry, script)
    text = generate_latest(registry).decode()
    assert "latency_first_token_ms_count{" not in text
    assert "latency_decode_ms_count{" not in text


def test_failures_are_counted_by_code_and_reason_and_retries_by_worker(registry):
    observed(registry, status(503), good("ta", "eABORTED"), retry=NOW)
    labels = {**LABELS, "code": "WORKER_RESET", "reason": "ABORTED"}
    assert registry.get_sample_value("worker_adapter_errors_total", labels) == 1
    assert registry.get_sample_value("worker_adapter_requests_total", {**LABELS, "outcome": "error"}) == 1
    assert registry.get_sample_value("worker_adapter_retries_total", WORKER) == 1
    assert registry.get_sample_value("latency_decode_ms_count", LABELS) == 1


def test_a_stream_that_is_dropped_is_counted_as_cancelled(registry):
    config = {"metrics": MetricsOptions(registry=registry), "pool_id": "a", "replica_id": "r"}
    with adapter(Script(steps=[frames("ta"), frames("tb"), frames(".")]), **config) as a:
        a.engine_version()
        stream = a.stream(request())
        next(stream)
        next(stream)
        assert registry.get_sample_value("worker_adapter_in_flight", WORKER) == 1
        del stream
        until(lambda: registry.get_sample_value("worker_adapter_in_flight", WORKER) == 0)
    assert registry.get_sample_value("worker_adapter_requests_total", {**LABELS, "outcome": "cancelled"}) == 1
    assert registry.get_sample_value("tokens_out_total", LABELS) == 1


def test_two_adapters_share_a_registry(registry):
    observed(registry, good())
    observed(registry, good(), replica_id="s")
    assert registry.get_sample_value("tokens_out_total", LABELS) == 2
    assert registry.get_sample_value("tokens_out_total", {**LABELS, "replica_id": "s"}) == 2


def test_a_namespace_prefixes_every_family(registry):
    observed(registry, good(), metrics=MetricsOptions(registry=registry, namespace="mine"))
    families = {family.name for family in registry.collect()}
    assert families
    assert all(name.startswith("mine_") for name in families)


def test_versions_beyond_the_budget_are_other(registry):
    for n in range(70):
        observed(registry, good(), replies={"/version": ok(f"v{n}".encode())})
    text = generate_latest(registry).decode()
    seen = {line.split('engine_version="')[1].split('"')[0] for line in text.splitlines() if "engine_version=" in line}
    assert len(seen) <= 66
    assert "other" in seen
    assert registry.get_sample_value("tokens_out_total", {**LABELS, "engine_version": "other"}) == 12


def test_an_unknown_version_is_unknown(registry):
    observed(registry, good(), replies={})
    assert registry.get_sample_value("tokens_out_total", {**LABELS, "engine_version": "unknown"}) == 2


def test_slots_are_gauges_with_their_age(registry):
    url = "http://gauges.test"
    with adapter(url=url, metrics=MetricsOptions(registry=registry), pool_id="a", replica_id="r") as a:
        properties = a.properties()
    assert registry.get_sample_value("worker_adapter_slots_total", WORKER) == 1
    at = registry.get_sample_value("worker_adapter_observed_timestamp_seconds", WORKER)
    assert at == properties.observed_at


def test_the_time_a_consumer_keeps_a_worker_waiting_is_counted(registry):
    config = {"metrics": MetricsOptions(registry=registry), "pool_id": "a", "replica_id": "r"}
    with adapter(good(*["tx"] * 20, "."), limits=Limits(hand_over=1), **config) as a:
        stream = a.submit(request())
        until(lambda: stream._handed._next_run.__self__._gate)  # the hand-over is full
        assert kinds(stream)[-1] == "end"
        until(lambda: not a._threads)
    assert registry.get_sample_value("worker_adapter_backpressure_seconds_total", WORKER) > 0


# --- the log line -----------------------------------------------------------------------------------------------------


FIELDS = {
    "task_id",
    "session_id",
    "correlation_id",
    "engine",
    "engine_version",
    "pool_id",
    "replica_id",
    "tokens_in",
    "tokens_out",
    "decode_time_ms",
    "seed",
    "sampler_profile_version",
    "code",
    "reason",
    "attempts",
}


@pytest.mark.req("ADAPT-3004")
@pytest.mark.parametrize("way", ["stream", "submit"])
def test_one_line_per_stream_with_these_fields(way, caplog):
    caplog.set_level(logging.INFO, "worker_adapters")
    with adapter(good("ta", "."), good("ta", "eABORTED"), pool_id="a", replica_id="r") as a:
        a.engine_version()
        for _ in range(2):
            list(getattr(a, way)(request(task_id="id", session_id="s", correlation_id="c", seed=3)))
            until(lambda: not a._threads)
    one, two = (record for record in caplog.records if record.name == "worker_adapters")
    for record in (one, two):
        assert vars(record).keys() >= FIELDS
    expected = ("id", "s", "c", "tiny", "v9", "a", "r", 5, 1, 3, "v1", 1)
    names = (
        "task_id session_id correlation_id engine engine_version pool_id replica_id tokens_in tokens_out seed "
        "sampler_profile_version attempts"
    )
    assert expected == tuple(getattr(one, name) for name in names.split())
    assert (one.levelno, one.code, one.reason) == (logging.INFO, None, None)
    assert (two.levelno, two.code, two.reason) == (logging.WARNING, "WORKER_RESET", "ABORTED")


def test_neither_prompt_nor_completion_nor_secret_is_ever_logged(caplog):
    caplog.set_level(0)
    secret, prompt, answer = "s3cr3t-0123456789", "the-prompt-needle", "the-answer-needle"
    bug = attrs.evolve(TINY, decode=lambda batches, request, tally: (int(str(b)) for b in batches))
    cases = [
        ({}, good(f"t{answer}", ".")),
        ({}, good(f"t{answer}", "eABORTED")),
        ({}, status(500, f"{prompt} {secret}".encode())),
        ({"dialect": bug}, good(f"t{answer}")),
        ({}, Script(queue=Fault(Reason.VALIDATION, secret))),
    ]
    for config, script in cases:
        with adapter(script, credentials=lambda: secret, **config) as a:
            list(a.stream(request(prompt=prompt)))
    logged = caplog.text + repr([vars(record) for record in caplog.records])
    assert len(caplog.records) >= len(cases)
    for needle in (secret, prompt, answer):
        assert needle not in logged
