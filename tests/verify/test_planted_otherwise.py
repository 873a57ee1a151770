"""Workers that are at fault in ways that no drift has: what they say follows from who asked before, or ends otherwise."""

from __future__ import annotations

from itertools import islice

import attrs
import pytest

from worker_adapters.simulator import ScriptedSource, Simulator
from worker_adapters.verify import State, judge, lines
from worker_adapters.verify.verdicts import Class

from .runs import recorded
from .test_planted import SECOND, letters

pytestmark = pytest.mark.req("ADAPT-3700", socket=True)
TOKENS = 8
ENGINES = ("llamacpp", "vllm")


def other(token):
    """The same letter in capitals, by another id."""
    return attrs.evolve(token, id=token.id - 32, piece=token.piece.upper())


def first_token(ask):
    for at, token in enumerate(letters(ask)):
        yield token if at else other(token)


def last_likelihood(ask):
    for at, token in enumerate(letters(ask)):
        yield token if at != TOKENS - 1 else attrs.evolve(token, logprob=token.logprob - 2**-20)


def fewer(ask):
    return islice(letters(ask), 5)


def same_text_by_other_ids(ask):
    for at, token in enumerate(letters(ask)):
        yield token if at != 3 else attrs.evolve(token, id=300)


def second_worker(engine, said, **plan):
    with (
        Simulator(engine, source=ScriptedSource(letters)) as one,
        Simulator(engine, source=ScriptedSource(said)) as two,
    ):
        recording = recorded(
            engine, one.url, two.url, seeds=3, max_tokens=TOKENS, conditions=("again", "workers"), **plan
        )
    again, workers = judge(recording).verdicts
    assert (again.state, workers.condition) == (State.CLEAN, SECOND)
    assert (workers.state, len(workers.divergences)) == (State.DIVERGED, 3)
    return workers


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_token_already(engine):
    found = second_worker(engine, first_token).divergences
    assert {(one.token, one.parting.byte, one.kind) for one in found} == {(0, 0, Class.REAL)}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_likelihood_of_the_last_token_alone(engine):
    found = second_worker(engine, last_likelihood)
    assert {(one.token, one.kind, one.parting) for one in found.divergences} == {(TOKENS - 1, Class.LOGPROBS, None)}
    assert found.largest == pytest.approx(2**-20, rel=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_that_is_only_shorter(engine):
    found = second_worker(engine, fewer, ignore_eos=False).divergences
    assert {(one.token, one.parting.byte) for one in found} == {(5, 5)}


def test_other_ids_for_the_same_text():
    found = second_worker("vllm", same_text_by_other_ids).divergences
    assert {(one.token, one.parting.got_id) for one in found} == {(3, 300)}


def test_an_answer_that_follows_from_who_asked_before():
    """The worker remembers a seed: what the next one is told depends on it, alone or not."""
    before = [0]

    def remembering(ask):
        backwards, before[0] = ask.seed < before[0], ask.seed
        for at, token in enumerate(letters(ask)):
            yield other(token) if backwards and at == 2 else token

    with Simulator("llamacpp", slots=1, source=ScriptedSource(remembering)) as one:
        plan = {"seeds": (5, 6, 7), "max_tokens": TOKENS, "conditions": ("again", "order")}
        again, order = judge(recorded("llamacpp", one.url, **plan)).verdicts
    assert {one.seed for one in order.divergences} == {5, 6}
    assert {one.token for one in order.divergences} == {2}
    assert {one.seed for one in again.divergences} <= {5}  # whose predecessor was the last seed of the first time


def test_a_worker_with_one_slot_is_beside_nobody_and_it_is_said_what_to_ask_for():
    with Simulator("llamacpp", slots=1, rate=2000.0) as one:
        plan = {"seeds": 2, "max_tokens": TOKENS, "conditions": ("again", "beside", "prefix"), "widths": (2, 4)}
        report = judge(recorded("llamacpp", one.url, **plan))
    assert [(one.condition, one.state, one.established) for one in report.verdicts] == [
        ("again", State.CLEAN, 2),
        ("beside-2", State.NOT_ESTABLISHED, 0),
        ("beside-4", State.NOT_ESTABLISHED, 0),
        ("prefix", State.NOT_ESTABLISHED, 0),
    ]
    assert report.status == 2
    said = list(lines(report))
    assert "beside, prefix" in said[-2]
    assert said[-2].endswith("--conditions again")
