"""What pools and batches decide alike."""

from __future__ import annotations

import pytest

from worker_adapters import Phase, Reason
from worker_adapters.placing import Says, emptiest, growing, says

pytestmark = pytest.mark.req("ADAPT-3400")

ENGINES_OWN = {Reason.ENGINE_ERROR, Reason.EMPTY, Reason.IDLE_TIMEOUT}
ORCHESTRATORS = {
    *(Reason.QUEUE_FULL, Reason.QUOTA, Reason.DEPRECATED),
    *(Reason.UNTRUSTED, Reason.NOT_FOUND, Reason.REPLAY_GONE),
}


def test_each_reason_that_a_worker_s_failure_may_have_has_been_thought_of() -> None:
    assert {reason for reason in Reason if says(reason) is Says.ENGINE} == ENGINES_OWN | ORCHESTRATORS


@pytest.mark.parametrize(
    ("reason", "status", "phase", "said"),
    [
        (Reason.ENGINE_ERROR, 500, Phase.FIRST_TOKEN, Says.ENGINE),
        (Reason.ENGINE_ERROR, 503, Phase.FIRST_TOKEN, Says.LOST),
        (Reason.ENGINE_ERROR, None, Phase.CONNECT, Says.LOST),
        (Reason.OVERLOADED, 503, Phase.FIRST_TOKEN, Says.FULL),
        (Reason.LOADING, 503, Phase.FIRST_TOKEN, Says.GONE),
        (Reason.VALIDATION, 502, Phase.FIRST_TOKEN, Says.REQUEST),
    ],
)
def test_what_an_engine_says_goes_before_the_status(
    reason: Reason, status: int | None, phase: Phase, said: Says
) -> None:
    assert says(reason, status, phase) is said


def test_the_emptiest_and_equals_by_turns() -> None:
    loads = {"a": 0.5, "b": 0.25, "c": 0.25, "d": None, "e": 0.0}
    assert emptiest("abcd", loads.get) == "b"
    assert emptiest("abcd", loads.get, 2) == "c"
    assert emptiest("abcd", loads.get, 3) == "b"
    assert emptiest("abcde", loads.get) == "e"
    assert emptiest("d", loads.get) is None
    assert emptiest("", loads.get) is None


def test_pauses_double_up_to_the_longest() -> None:
    assert [growing(n, 0.25, 1.5) for n in (1, 2, 3, 4, 5000)] == [0.25, 0.5, 1.0, 1.5, 1.5]
