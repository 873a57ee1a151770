"""Affinity with bounded load, whatever the keys, the windows and who comes and goes: the pool's own placement, no I/O."""

from __future__ import annotations

from contextlib import closing, contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters import Limits, Retry, connect
from worker_adapters.pool.prefer import BOUND
from worker_adapters.pool.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.req("ADAPT-3400")

WINDOWS = st.lists(st.integers(1, 64), min_size=1, max_size=8)


@contextmanager
def roster_of(windows: Sequence[int]) -> Iterator[Roster]:
    roster = Roster(Retry())
    for n, most in enumerate(windows):
        limits = Limits(max_in_flight=most)
        roster.add(connect("vllm", f"http://w{n}.test", replica_id=f"r{n}", limits=limits))
    try:
        yield roster
    finally:
        for member in roster.members:
            member.places.held.clear()
            with closing(member.adapter):
                pass


def placed(roster: Roster, keys: Sequence[bytes]) -> list[Any]:
    """Each at its worker, where it stays."""
    found = []
    for number, key in enumerate(keys):
        member = roster.best((), key)
        if member is not None:
            held: Any = member.places.held
            held[number] = None
        found.append(member)
    return found


@settings(max_examples=60)
@given(windows=WINDOWS, keys=st.lists(st.integers(0, 5), max_size=200))
def test_no_worker_gets_more_than_its_bounded_share_and_none_is_turned_away_where_there_is_room(
    windows: list[int], keys: list[int]
) -> None:
    with roster_of(windows) as roster:
        for number, key in enumerate(keys):
            member = roster.best((), b"%d" % key)
            if number >= sum(windows):
                assert member is None
                break
            assert member is not None
            held: Any = member.places.held
            held[number] = None
            share = BOUND * (number + 1) * member.places.most / sum(windows)
            assert len(held) <= min(member.places.most, ceil(share))


@settings(max_examples=20)
@given(count=st.integers(2, 9), gone=st.integers(0, 8), salt=st.integers(0, 2**32))
def test_a_worker_that_leaves_or_comes_back_moves_only_its_own_keys(count: int, gone: int, salt: int) -> None:
    keys = [b"%d %d" % (salt, n) for n in range(60)]
    with roster_of([256] * count) as roster:
        where = {key: roster.best((), key) for key in keys}
        leaver = roster.members[gone % count]
        leaver.leaving = True
        after = {key: roster.best((), key) for key in keys}
        assert all(after[key] is where[key] for key in keys if where[key] is not leaver)
        assert all(after[key] is not leaver for key in keys)
        leaver.leaving = False
        assert {key: roster.best((), key) for key in keys} == where


def test_a_worker_that_refuses_is_given_what_it_bears_and_the_others_the_rest() -> None:
    with roster_of([64, 64, 64]) as roster:
        weak = roster.members[1]
        weak.ceiling, weak.hold_until = 2, float("inf")
        members = placed(roster, [b"%d" % n for n in range(60)])
        assert members.count(weak) == 2
        assert None not in members
