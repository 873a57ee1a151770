"""Faults of determinism, planted in simulated workers: each is found, with its seed, its place and its class."""

from __future__ import annotations

import json

import pytest

from worker_adapters.simulator import ScriptedSource, Simulator
from worker_adapters.simulator.source import FIRST_BYTE_ID
from worker_adapters.verify import State, judge, read_pack, write_pack
from worker_adapters.verify.verdicts import Class

from .runs import recorded

pytestmark = pytest.mark.req("ADAPT-3700", socket=True)
SECOND = "worker-2"


def letters(ask):
    """One token per letter, drawn by the seed and the text so far; so that places are those of the tokens."""
    import random  # noqa: PLC0415

    from worker_adapters.simulator import Token  # noqa: PLC0415

    draw = random.Random(f"{ask.seed}/{ask.prompt}")
    while True:
        number = FIRST_BYTE_ID + ord(draw.choice("cdefghijklmnop"))
        best = -draw.randrange(1, 64) / 64
        top = ((number, best), (FIRST_BYTE_ID + ord("x"), best - 0.25), (FIRST_BYTE_ID + ord("y"), best - 1))
        yield Token(id=number, piece=bytes([number - FIRST_BYTE_ID]), logprob=best, top=top[: ask.n_probs])


def worker(engine="llamacpp", drift=(), **options):
    return Simulator(engine, source=ScriptedSource(letters), drift=drift, **options)


def verdicts(recording):
    return {verdict.condition: verdict for verdict in judge(recording).verdicts}


def two_workers(drift_of_both, drift_of_second, engine="llamacpp", **plan):
    with worker(engine, drift_of_both) as one, worker(engine, [*drift_of_both, *drift_of_second]) as two:
        return recorded(engine, one.url, two.url, conditions=("again", "workers"), **plan)


@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_a_tie_that_one_of_two_workers_breaks_otherwise_at_the_last_token(engine):
    tied = "tie@127 if width>=99"  # which both have, and neither takes the second of
    recording = two_workers([tied], ["tie@127 if always for 3"], engine, seeds=5, max_tokens=128)
    found = verdicts(recording)
    assert found["again"].state is State.CLEAN
    (one,) = found[SECOND].divergences
    assert (one.seed, one.token, one.kind) == (3, 127, Class.TIE)
    assert (one.parting.byte, one.parting.got, one.parting.gap) == (127, "a", 0.0)
    assert (found[SECOND].exact, found[SECOND].seeds) == (4, 5)
    assert found[SECOND].by == "token ids"
    (group,) = judge(recording).groups
    assert (group.seed, str(group)) == (3, "2 texts in 3")


def test_a_token_that_is_another_without_a_reason_is_real():
    (one,) = verdicts(two_workers([], ["flip@5 if always for 1"], seeds=3, max_tokens=8))[SECOND].divergences
    assert (one.seed, one.token, one.kind, one.parting.gap) == (1, 5, Class.REAL, 0.25)


def test_two_tokens_closer_than_likelihoods_are_off_are_a_near_tie():
    tied = "tie@6:0.0000001 if width>=99"
    off = ["logprobs@0:1e-5", "tie@6:0.0000001 if always for 2"]
    found = verdicts(two_workers([tied], off, seeds=3, max_tokens=8))[SECOND]
    kinds = {one.seed: (one.kind, one.token) for one in found.divergences}
    assert kinds == {0: (Class.LOGPROBS, 0), 1: (Class.LOGPROBS, 0), 2: (Class.NEAR_TIE, 6)}


def test_equal_tokens_with_other_likelihoods_are_told():
    found = verdicts(two_workers([], ["logprobs@3:1e-6"], seeds=4, max_tokens=12))[SECOND]
    assert found.state is State.DIVERGED
    assert (found.exact, found.bitwise, found.by) == (4, 0, "token ids")
    assert found.largest == pytest.approx(1e-6)
    assert {(one.kind, one.token, one.parting) for one in found.divergences} == {(Class.LOGPROBS, 3, None)}


def test_what_happens_with_a_warm_prefix_only():
    plan = {"determinism": "best_effort", "engine_options": {"cache_prompt": True}, "conditions": ("prefix",)}
    with worker(drift=["flip@7 if warm for 2"], slots=1) as one:
        found = verdicts(recorded("llamacpp", one.url, seeds=4, max_tokens=9, **plan))["prefix"]
    assert (found.state, found.established) == (State.DIVERGED, 4)
    assert [(one.seed, one.token) for one in found.divergences] == [(2, 7)]


@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_what_happens_from_five_at_once_on_only(engine):
    with worker(engine, ["flip@30 if width>=5 for 1"], slots=6, rate=250.0, ctx=60000) as one:
        plan = {"conditions": ("again", "beside"), "widths": (3, 4), "determinism": "best_effort"}
        found = verdicts(recorded(engine, one.url, seeds=5, max_tokens=40, **plan))
    assert (found["again"].state, found["beside-3"].state) == (State.CLEAN, State.CLEAN)
    assert [(one.seed, one.token, one.established) for one in found["beside-4"].divergences] == [(1, 30, True)]


def test_what_happens_after_a_neighbour_s_cancel_only():
    with worker(drift=["flip@60 if cancelled for 1"], rate=250.0) as one:
        plan = {"conditions": ("again", "beside", "cancelled"), "widths": (1,)}
        found = verdicts(recorded("llamacpp", one.url, seeds=2, max_tokens=64, **plan))
    assert [found[name].state for name in ("again", "beside-1")] == [State.CLEAN, State.CLEAN]
    assert [(one.seed, one.token, one.established) for one in found["cancelled"].divergences] == [(1, 60, True)]


def test_a_fault_is_found_by_bytes_where_the_wire_has_no_ids():
    """And where it has no likelihoods either, no class is guessed."""
    with worker("triton-llmapi") as one, worker("triton-llmapi", ["flip@5 if always for 1"]) as two:
        plan = {"conditions": ("workers",), "logprobs": 0}
        found = verdicts(recorded("triton-llmapi", one.url, two.url, seeds=2, max_tokens=9, **plan))[SECOND]
    (one,) = found.divergences
    assert (found.by, one.seed, one.parting.byte, one.kind) == ("bytes", 1, 5, Class.UNKNOWN)


def test_each_divergence_follows_from_the_pack_alone(tmp_path):
    recording = two_workers([], ["flip@5 if always for 1", "logprobs@2"], seeds=3, max_tokens=8)
    report = judge(recording)
    write_pack(tmp_path / "pack.json", recording, report)
    again, said = read_pack(tmp_path / "pack.json")
    assert again == recording
    assert judge(again) == report
    assert json.loads(json.dumps(report.plain(), default=str)) == said
    sent = [trial.sent for trial in again.trials]
    assert all(json.loads(one.body)["seed"] == trial.seed for one, trial in zip(sent, again.trials, strict=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tie", "the form is"),
        ("spin@1", "kinds"),
        ("tie@x", "form"),
        ("tie@1 if maybe", "form"),
        ("tie@1 if width>=", "form"),
    ],
)
def test_a_drift_that_can_t_be_read_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        Simulator("llamacpp", drift=[text])
