"""What `make test` leaves of the products: every case, every dialect, every way."""

from __future__ import annotations

import itertools

import pytest

from .faults import test_matrix
from .products import rotation
from .simulator import test_faults_through_adapter


def of(options, chosen, at):
    return [options[n][at] for n in sorted(chosen)]


def test_each_case_comes_once_and_every_value_of_every_axis_with_it():
    options = list(itertools.product("abcdefg", "123", "xy"))
    chosen = rotation(options)
    assert of(options, chosen, 0) == list("abcdefg")
    assert set(of(options, chosen, 1)) == set("123")
    assert set(of(options, chosen, 2)) == set("xy")


def test_values_that_may_come_together_do_where_there_are_cases_enough():
    options = list(itertools.product(range(6), "123", "xy"))
    assert {options[n][1:] for n in rotation(options)} == set(itertools.product("123", "xy"))


def test_a_product_with_holes_is_gone_through_too():
    options = [
        (case, dialect) for case, dialect in itertools.product("abc", "123") if case + dialect not in ("a1", "b1")
    ]
    assert [options[n] for n in sorted(rotation(options))] == [("a", "2"), ("b", "3"), ("c", "1")]


def test_too_few_cases_are_told():
    with pytest.raises(ValueError, match=r"2 cases has \['3'\]"):
        rotation(list(itertools.product("ab", "123")))


@pytest.mark.parametrize(
    "test",
    [
        test_matrix.test_what_a_fault_comes_to,
        test_matrix.test_the_failures_that_transcripts_hold,
        test_faults_through_adapter.test_a_fault_ends_the_stream_with_its_error,
    ],
    ids=lambda test: test.__name__,
)
def test_make_test_has_every_case_once_and_every_dialect_and_way(test):
    (mark,) = test.pytestmark
    _, params = mark.args
    whole = [param.values for param in params]
    left = [param.values for param in params if "matrix" not in {mark.name for mark in param.marks}]
    for axis, kept in zip(zip(*whole, strict=True), zip(*left, strict=True), strict=True):
        assert {*map(str, kept)} == {*map(str, axis)}
    assert len(left) == len({str(case) for case, *_ in whole}) < len(whole)
    assert all("product" in {mark.name for mark in param.marks} for param in params)
