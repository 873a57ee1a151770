"""Verdicts are pure: what is compared, what counts as shown, and what follows. Recordings made by hand."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import attrs
import pytest

from worker_adapters import TokenLogprob
from worker_adapters.verify import Recording, State, judge, lines
from worker_adapters.verify.bisecting import fewest, least
from worker_adapters.verify.bounds import upper_bound
from worker_adapters.verify.comparing import compare, gap_at
from worker_adapters.verify.evidence import most_at_once
from worker_adapters.verify.records import Answer, Condition, Role, Trial

AGAIN = Condition(name="again", kind="again", text="again")


def answer(text="abc", *, at=(0.0, 1.0, 2.0), **fields) -> Answer:
    given = {"finish": "length", "submitted": at[0], "reads": at, "ended": at[-1], "token_ids": tuple(map(ord, text))}
    return Answer(text=text, **(given | fields))


def likely(*values, top=()):
    return tuple(TokenLogprob(token="x", logprob=value, top=top) for value in values)


def trial(number, *, round=None, role=Role.SUBJECT, seed=0, reference=None, said=None, **fields) -> Trial:  # noqa: A002
    given = {"condition": "again", "worker": 0, "prompt": "main", "sent": None, "answer": said or answer()}
    return Trial(
        number=number,
        round=number if round is None else round,
        role=role,
        seed=seed,
        reference=reference,
        **(given | fields),
    )


def judged(condition, *trials):
    report = judge(Recording(environment={}, conditions=(condition,), trials=trials))
    return report.verdicts[0]


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tried", "seen", "bound"), [(1, 0, 0.95), (10, 0, 0.2589), (20, 0, 0.1391), (20, 1, 0.2161), (8, 8, 1.0)]
)
def test_the_bound_is_that_of_published_tables(tried, seen, bound):
    assert upper_bound(tried, seen) == pytest.approx(bound, abs=5e-5)


@pytest.mark.parametrize(("tried", "seen"), [(64, 0), (64, 3), (1000, 7), (9, 8)])
def test_at_the_bound_what_was_seen_or_less_has_a_chance_of_one_in_twenty(tried, seen):
    rate = Fraction(upper_bound(tried, seen))
    chance = sum(comb(tried, k) * rate**k * (1 - rate) ** (tried - k) for k in range(seen + 1))
    assert float(chance) == pytest.approx(0.05, abs=1e-12)


@pytest.mark.parametrize(("tried", "seen"), [(0, 0), (3, 4), (3, -1)])
def test_what_is_no_count_has_no_bound(tried, seen):
    with pytest.raises(ValueError, match="no count"):
        upper_bound(tried, seen)


def test_64_of_64_says_what_it_allows():
    trials = [trial(n, role=Role.REFERENCE, seed=n) for n in range(64)]
    trials += [trial(64 + n, seed=n, reference=n) for n in range(64)]
    verdict = judged(AGAIN, *trials)
    assert (verdict.state, verdict.exact, verdict.established) == (State.CLEAN, 64, 64)
    report = judge(Recording(environment={}, conditions=(AGAIN,), trials=tuple(trials)))
    from worker_adapters.verify.showing import rows  # noqa: PLC0415

    assert rows(report)[0][-1] == "diverges in less than 4.6 % at 95 %"
    assert report.status == 0


def test_likelihoods_are_those_of_the_same_token_where_one_worker_leaves_some_out():
    """A server with a draft model tells few of them: the second that comes is not the second token's."""
    plain = answer(
        "abcd", token_ids=None, marks=((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)), logprobs=likely(-1, -2, -3, -4)
    )
    drafted = answer(
        "abcd", token_ids=None, marks=((1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 4)), logprobs=likely(-1, -4)
    )
    assert compare(plain, drafted).same
    off = attrs.evolve(drafted, logprobs=likely(-1, -4.5))
    found = compare(plain, off)
    assert (found.bitwise, found.largest, found.first_off, found.parting) == (False, 0.5, 3, None)


def test_likelihoods_are_those_of_the_same_token_whatever_came_in_one_read():
    """Ids are all there, the last logprobs are not, and one answer was counted late: nothing of it is a difference."""
    top = [TokenLogprob(token="x", token_id=ord(letter), logprob=-n) for n, letter in enumerate("abcdef")]
    one = answer("abcdef", marks=tuple((n, min(n, 5), n) for n in range(1, 7)), logprobs=tuple(top[:5]))
    other = answer("abcdef", marks=((3, 3, 1), (5, 5, 2), (6, 5, 6)), logprobs=tuple(top[:5]))
    assert compare(one, other).same
    assert compare(other, one).same


# --- two answers ------------------------------------------------------------------------------------------------------


def test_ids_are_compared_where_both_have_them():
    found = compare(answer("abc"), answer("abd"))
    assert (found.by, found.parting.token, found.parting.byte) == ("token ids", 2, 2)
    assert (found.parting.expected_id, found.parting.got_id, found.parting.expected, found.parting.got) == (
        99,
        100,
        "c",
        "d",
    )
    assert found.agreed == 2


def test_bytes_are_compared_where_one_has_no_ids():
    found = compare(answer("aéx", token_ids=None), answer("aéy"))
    assert (found.by, found.parting.token, found.parting.byte) == ("bytes", None, 3)


def test_the_same_text_of_other_tokens_is_another_answer():
    found = compare(answer("abc", token_ids=(1, 2)), answer("abc", token_ids=(1, 3)))
    assert found.parting.token == 1


def test_a_shorter_answer_parts_at_its_end():
    found = compare(answer("abc"), answer("ab", finish="stop"))
    assert (found.parting.token, found.parting.expected, found.parting.got, found.parting.got_id) == (2, "c", "", None)


def test_the_same_text_that_ended_for_another_reason_is_another_answer():
    assert not compare(answer("abc"), answer("abc", finish="stop")).same


def test_tokens_that_came_in_one_piece_are_counted_by_the_engine_s_own_count():
    """A piece of three tokens, of which one logprob is told: it is the last one's."""
    marks = ((1, 1, 1), (4, 2, 4), (5, 3, 5))
    expected = answer("a→bc", token_ids=None, marks=(*marks, (6, 4, 6)), logprobs=likely(-1.0, -1.0, -1.0, -1.0))
    got = answer("a→bd", token_ids=None, marks=expected.marks, logprobs=likely(-1.0, -1.0, -1.5, -1.0))
    found = compare(expected, got)
    assert (found.parting.byte, found.parting.token) == (5, 5)
    assert (found.first_off, found.largest, found.bitwise) == (4, 0.5, False)


def test_likelihoods_are_compared_bitwise_and_nan_is_itself():
    nan, zero = likely(float("nan"), 0.0), likely(float("nan"), -0.0)
    assert compare(answer("ab", logprobs=nan), answer("ab", logprobs=nan)).bitwise is True
    found = compare(answer("ab", logprobs=nan), answer("ab", logprobs=zero))
    assert (found.bitwise, found.largest, found.first_off) == (False, 0.0, 1)


def test_alternatives_are_compared_too():
    one, other = (TokenLogprob(token="y", logprob=value) for value in (-2.0, -2.25))
    found = compare(answer("a", logprobs=likely(-1.0, top=(one,))), answer("a", logprobs=likely(-1.0, top=(other,))))
    assert (found.bitwise, found.largest) == (False, 0.25)


# --- what counts as shown ---------------------------------------------------------------------------------------------


def test_clean_answers_are_not_clean_where_the_condition_did_not_take_place():
    beside = Condition(name="again", kind="beside", text="beside 1", width=1)
    first = trial(0, role=Role.REFERENCE)
    apart = trial(2, round=1, role=Role.NEIGHBOUR, seed=9, said=answer(at=(5.0, 6.0, 7.0)))
    verdict = judged(beside, first, trial(1, round=1, reference=0), apart)
    assert (verdict.state, verdict.exact, verdict.established, verdict.bound) == (State.NOT_ESTABLISHED, 1, 0, None)
    assert verdict.missing == {"0 of 1 others were answered at the same time": 1}
    together = attrs.evolve(apart, answer=answer(at=(0.5, 1.5, 2.5)))
    assert judged(beside, first, trial(1, round=1, reference=0), together).state is State.CLEAN


def test_a_condition_that_took_place_for_some_seeds_only_is_not_clean():
    beside = Condition(name="again", kind="beside", text="beside 1", width=1)
    first = [trial(seed, role=Role.REFERENCE, seed=seed) for seed in (0, 1)]
    together = [trial(2, round=2, reference=0), trial(3, round=2, role=Role.NEIGHBOUR, seed=9)]
    verdict = judged(beside, *first, *together, trial(4, seed=1, reference=1))
    assert (verdict.state, verdict.established, verdict.seeds) == (State.NOT_ESTABLISHED, 1, 2)


def test_a_divergence_counts_even_where_the_condition_is_not_shown():
    beside = Condition(name="again", kind="beside", text="beside 1", width=1)
    verdict = judged(beside, trial(0, role=Role.REFERENCE), trial(1, reference=0, said=answer("abx")))
    assert (verdict.state, verdict.divergences[0].established) == (State.DIVERGED, False)


@pytest.mark.parametrize(
    ("reads", "company"),
    [
        ([(0.5, 1.5, 2.5)], 1),
        ([(2.0, 3.0, 4.0)], 0),  # one read of each while the other was under way: perhaps the order of looking
        ([(0.5, 1.0), (0.6, 1.1)], 0),  # each within it, but it is not heard twice meanwhile
        ([(0.1, 0.2), (1.1, 1.2)], 0),  # within it, but not one read of its own in between
        ([(0.0, 1.0), (0.9, 1.0, 2.0)], 2),
        ([(0.0, 0.5, 1.0), (1.0, 1.5, 2.0)], 2),
        ([(-2.0, -1.0), (3.0, 4.0)], 0),
    ],
)
def test_two_are_answered_at_once_if_each_is_heard_twice_while_the_other_is(reads, company):
    subject = trial(0)
    others = [trial(n, round=0, said=answer(at=at)) for n, at in enumerate(reads, 1)]
    assert most_at_once(subject, [subject, *others]) == company


def test_a_failed_answer_is_missing_and_never_clean():
    failed = trial(1, reference=0, said=answer("", failed="POOL_UNAVAILABLE/CONNECT: nobody"))
    verdict = judged(AGAIN, trial(0, role=Role.REFERENCE), failed)
    assert (verdict.state, verdict.missing) == (State.NOT_ESTABLISHED, {"POOL_UNAVAILABLE/CONNECT: nobody": 1})
    assert judge(Recording(environment={}, conditions=(), trials=())).status == 2


@pytest.mark.parametrize(
    ("then", "now", "shown"), [(0, 5, True), (2, 5, True), (None, None, True), (0, 0, False), (5, 5, False)]
)
def test_a_warm_prefix_has_more_in_the_cache_than_the_cold_one_where_that_is_told(then, now, shown):
    prefix = Condition(name="again", kind="prefix", text="warm")
    cold, warm = trial(0, role=Role.REFERENCE, said=answer(cached=then)), trial(1, reference=0, said=answer(cached=now))
    assert (judged(prefix, cold, warm).state is State.CLEAN) == shown


@pytest.mark.parametrize(
    ("ended", "finish", "shown"), [(1.5, "cancelled", True), (9.0, "cancelled", False), (1.5, "stop", False)]
)
def test_a_neighbour_is_cancelled_while_both_are_answered(ended, finish, shown):
    condition = Condition(name="again", kind="cancelled", text="cancelled")
    other = trial(2, round=1, role=Role.NEIGHBOUR, said=answer(at=(0.5, 1.0), ended=ended, finish=finish))
    found = judged(condition, trial(0, role=Role.REFERENCE), trial(1, round=1, reference=0), other)
    assert (found.state is State.CLEAN) == shown


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"status": 0, "cut": True, "down": False}, True),
        ({"status": 0, "cut": False, "down": True}, True),
        ({"status": 0, "cut": False, "down": False}, False),
        ({"status": 1, "cut": True, "down": True}, False),
        ({}, False),
    ],
)
def test_a_restart_is_one_if_the_worker_was_gone(told, shown):
    condition = Condition(name="again", kind="restart", text="restart", told=told)
    assert (judged(condition, trial(0, role=Role.REFERENCE), trial(1, reference=0)).state is State.CLEAN) == shown


def test_a_length_is_what_the_engine_says():
    condition = Condition(name="again", kind="length", text="16", length=16)
    for told, shown in ((16, True), (17, False), (None, False)):
        said = answer(tokens_in=told)
        found = judged(condition, trial(0, role=Role.REFERENCE, said=said), trial(1, reference=0, said=said))
        assert (found.state is State.CLEAN) == shown


def test_the_share_that_agrees_is_told_after_so_many_tokens():
    trials = [trial(n, role=Role.REFERENCE, seed=n, said=answer("abcdefgh")) for n in range(4)]
    for seed, text in enumerate(("abcdefgh", "abcdefgx", "abxdefgh", "xbcdefgh")):
        trials.append(trial(4 + seed, seed=seed, reference=seed, said=answer(text)))
    assert judged(AGAIN, *trials).agree == {1: 0.75, 2: 0.75, 4: 0.5, 8: 0.25}


def test_groups_are_of_all_answers_to_a_request():
    texts = ["abc"] * 16 + ["abx", "aby", "abz", "xyz"]
    trials = [
        trial(n, role=Role.SUBJECT if n else Role.REFERENCE, reference=0, said=answer(t)) for n, t in enumerate(texts)
    ]
    report = judge(Recording(environment={}, conditions=(AGAIN,), trials=tuple(trials)))
    assert str(report.groups[0]) == "5 texts in 20"
    assert "seed 0 (main): 5 texts in 20" in list(lines(report))


# --- the least --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [{3}, {0, 15}, {2, 3, 4}, set(range(16))])
def test_the_fewest_that_still_fail_are_found(needed):
    assert set(fewest(range(16), lambda some: needed <= set(some))) == needed


def test_any_five_are_five():
    assert len(fewest(range(16), lambda some: len(some) >= 5)) == 5


@pytest.mark.parametrize("bound", [1, 2, 31, 63, 64])
def test_the_least_number_that_still_fails_is_found(bound):
    assert least(64, lambda number: number >= bound) == bound


def test_answers_that_only_end_otherwise_say_how():
    found = compare(answer(), answer(finish="stop"))
    assert not found.same
    assert (found.parting.token, found.parting.byte) == (3, 3)
    assert (found.parting.expected, found.parting.got) == ("(end: length)", "(end: stop)")


def test_a_token_that_is_not_among_those_told_is_the_likeliest_if_it_is_likelier_than_they_are():
    """A piece of a character has no text of its own to be listed by (vLLM)."""
    told = (TokenLogprob(token="u", logprob=-2.5),)
    piece = (TokenLogprob(token="", logprob=-2.25, top=told),)
    less = (TokenLogprob(token="", logprob=-2.75, top=told),)
    assert gap_at(answer("a", logprobs=piece), 0) == 0.25
    assert gap_at(answer("a", logprobs=less), 0) is None


def test_a_character_in_several_tokens_has_no_class_where_one_likelihood_is_told():
    """The difference may be in the other tokens of it, whose likelihoods nobody told."""
    top = tuple(TokenLogprob(token=name, logprob=-1.0) for name in "xy")

    def said(token, tokens_out):
        told = (TokenLogprob(token=token, logprob=-1.0, top=top),)
        return answer(token, token_ids=None, logprobs=told, tokens_out=tokens_out)

    assert compare(said("b", 1), said("a", 1)).parting.gap == 0.0
    assert compare(said("中", 3), said("a", 3)).parting.gap is None
    assert compare(said("a", 1), said("�", 3)).parting.gap is None
