"""The table of families: what is exposed is what it says, and what is written from it is up to date."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from observability.__main__ import MADE, ROOT
from worker_adapters import Limits, MetricsOptions, Retry, Token
from worker_adapters.families import BOUNDS, FAMILIES, STREAM, WORKER, Family, Kind

from ..runtime.dialects import adapter, busy, counted, request
from .exposed import exposed

if TYPE_CHECKING:
    from .exposed import Exposed

# Names that promtool would have otherwise, which the contract fixes: their unit is no base unit, and abbreviated.
EXCEPTIONS = {"latency_first_token_ms", "latency_decode_ms", "worker_adapter_inter_token_ms"}
UNNAMED = {"tokens_in_total", "tokens_out_total", "latency_first_token_ms", "latency_decode_ms"}  # the contract's own


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_from_the_tables_is_up_to_date(name: str) -> None:
    """If not: `python -m observability`."""
    assert (ROOT / name).read_text(encoding="utf-8") == MADE[name]()


def test_names_are_as_promtool_wants_them() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert (family.kind is Kind.COUNTER) == family.name.endswith("_total"), family.name
        assert family.name.endswith("_ms") == (family.name in EXCEPTIONS), family.name
        assert family.name.startswith("worker_adapter_") != (family.name in UNNAMED), family.name
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_created")), family.name
        if family.kind is Kind.HISTOGRAM:
            assert family.name.endswith(("_seconds", "_ms"))
            assert list(family.buckets) == sorted(set(family.buckets))
        assert family.text.endswith(".")


def test_each_label_is_bounded() -> None:
    assert {label for family in FAMILIES for label in family.labels} == set(BOUNDS)
    assert not {"task_id", "prompt", "url", "model", "session_id", "correlation_id"} & set(BOUNDS)


@pytest.fixture(scope="module")
def page() -> dict[str, Exposed]:
    """A run with everything in it: good streams, a retry, a failure, a refusal, probes."""
    registry = CollectorRegistry()
    options = MetricsOptions(registry=registry)
    with adapter(
        *(counted(3), busy(), counted(5), busy()),
        pool_id='a "quoted"\\pool',
        replica_id="r0",
        metrics=options,
        retry=Retry(attempts=2, base=0.0),
        limits=Limits(max_in_flight=1),
    ) as a:
        a.engine_version()
        a.properties()
        a.health()
        streamed = [len([e for e in a.submit(request()) if isinstance(e, Token)]) for _ in range(2)]
        assert streamed == [3, 5]
        a.drain(10)
        text = generate_latest(registry).decode()
    return exposed(text)


@pytest.mark.req("ADAPT-3004")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_scrape_has_each_family_as_the_table_says(family: Family, page: dict[str, Exposed]) -> None:
    found = page[family.name]
    assert (found.kind, found.text) == (str(family.kind), family.text)
    if found.samples:
        assert found.labels() == {frozenset(family.labels)}
    if family.kind is Kind.HISTOGRAM and found.samples:
        assert found.bounds() == {(*map(float, family.buckets), inf)}


def test_sums_and_counts_are_what_was_streamed(page: dict[str, Exposed]) -> None:
    def of(name: str, ending: str = "") -> float:
        return sum(value for (end, _), value in page[name].samples.items() if end == ending)

    assert of("tokens_out_total") == 3 + 5
    assert of("worker_adapter_requests_total") == 2
    assert of("worker_adapter_retries_total") == of("worker_adapter_retry_reasons_total") == 1
    for family in FAMILIES:
        if family.kind is Kind.HISTOGRAM:
            attempts = family.name in ("worker_adapter_connect_seconds", "worker_adapter_response_head_seconds")
            assert of(family.name, "_count") == (3 if attempts else 2), family.name
            assert of(family.name, "_sum") >= 0
    whole, parts = of("worker_adapter_duration_seconds", "_sum"), 0.0
    for name in ("local_wait", "connect", "first_token", "decode", "blocked"):
        parts += of(f"worker_adapter_{name}_seconds", "_sum")
    assert parts <= whole * 1.01
    assert page["latency_first_token_ms"].labels() == {frozenset(STREAM)}
    assert page["worker_adapter_in_flight"].labels() == {frozenset(WORKER)}
