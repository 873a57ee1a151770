"""Every simulated engine under all conditions: clean workers are clean, and faults are found on every wire."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from worker_adapters import registry
from worker_adapters.simulator import ENGINES
from worker_adapters.verify import State, judge

from ..products import product
from .engines import ALL, line, row, verified
from .runs import recorded
from .test_planted import worker

pytestmark = pytest.mark.req("ADAPT-3700", socket=True)
PAGE = Path(__file__).parents[2] / "docs" / "determinism.md"
OPEN = {"determinism": "best_effort"}  # where strict keeps a prompt from the cache


@pytest.mark.matrix
@pytest.mark.parametrize("engine", ALL)
def test_clean_workers_are_clean_under_every_condition_and_the_page_says_so(engine):
    report = verified(engine)
    assert [verdict.condition for verdict in report.verdicts if verdict.state is not State.CLEAN] == []
    assert report.status == 0
    assert line(row(engine, report)) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_every_engine_and_none_that_is_not_clean():
    rows = (
        PAGE.read_text(encoding="utf-8").partition("<!-- verified:begin -->")[2].partition("<!-- verified:end -->")[0]
    )
    told = [cells.split(" | ") for cells in rows.strip().splitlines()[2:]]
    assert [cells[0].removeprefix("| ") for cells in told] == [*ALL]
    assert {cells[1] for cells in told} == {"0"}


def test_answers_that_may_end_early_are_company_for_each_other():
    """TGI's wire has no ignore_eos: prompts and neighbours are chosen by how long their answers are."""
    report = verified("tgi", seeds=3, max_tokens=24, widths=(2,), conditions=("beside", "cancelled"))
    assert [(verdict.state, verdict.established) for verdict in report.verdicts] == [(State.CLEAN, 3)] * 2


def test_strict_is_uncached_where_it_sends_something_about_the_cache_alone():
    from worker_adapters import GenerateRequest  # noqa: PLC0415

    for engine in ENGINES:
        dialect = registry.dialect(engine)
        strict, other = (
            dialect.encode(GenerateRequest(prompt="a", seed=1, task_id="t", determinism=level), attempt=1).body
            for level in ("strict", "best_effort")
        )
        assert dialect.traits.strict_uncached == (strict != other), engine
        assert dialect.traits.strict_uncached == (b"cache" in strict and strict != other), engine


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_prefix_that_strict_keeps_cold_is_never_called_warm(engine):
    with worker(engine) as one:
        recording = recorded(engine, one.url, seeds=2, max_tokens=4, conditions=("prefix",))
    (verdict,) = judge(recording).verdicts
    assert (verdict.state, verdict.established, verdict.exact) == (State.NOT_ESTABLISHED, 0, 2)


FAULTS = {
    "one of two replicas": ("flip@9 if always for 1", "workers", "worker-2"),
    "width": ("flip@30 if width>=5 for 1", "beside", "beside-4"),
    "warm prefix": ("flip@9 if warm for 1", "prefix", "prefix"),
    "a neighbour's cancel": ("flip@60 if cancelled for 1", "cancelled", "cancelled"),
}


@product("engine, fault", [(engine, fault) for engine in ENGINES for fault in FAULTS])
def test_a_planted_fault_is_found_on_every_wire_with_its_seed_and_place(engine, fault):
    drift, condition, name = FAULTS[fault]
    with ExitStack() as stack:
        both = [] if condition == "workers" else [drift]
        options = {"slots": 8, "rate": 250.0, "ctx": 60_000}
        urls = [stack.enter_context(worker(engine, drifts, **options)).url for drifts in (both, [drift])]
        plan = {"seeds": 2, "max_tokens": 64, "widths": (4,), "conditions": (condition,), **OPEN}
        report = judge(recorded(engine, *urls, **plan))
    (one,) = next(verdict for verdict in report.verdicts if verdict.condition == name).divergences
    assert (one.seed, one.established, one.parting.byte) == (1, True, int(drift.partition("@")[2].partition(" ")[0]))
