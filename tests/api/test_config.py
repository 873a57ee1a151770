"""The records that connect() takes: what they refuse, and that they pickle."""

from __future__ import annotations

import pickle
import random

import attrs
import pytest

from worker_adapters import TLS, Identity, KeepAlive, Limits, MetricsOptions, Retry, Timeouts

NAN = float("nan")
POSITIVE = [
    (Timeouts, "connect"),
    (Timeouts, "first_token"),
    (Timeouts, "idle"),
    (Timeouts, "probe"),
    (Retry, "attempts"),
    (Limits, "max_in_flight"),
    (Limits, "hand_over"),
    (Limits, "max_event_size"),
    (Limits, "max_error_body"),
    (Limits, "max_probe_body"),
    (Limits, "max_collected"),
    (Limits, "stall"),
    (KeepAlive, "idle"),
    (KeepAlive, "interval"),
    (KeepAlive, "probes"),
]
NOT_NEGATIVE = [(Retry, "base"), (Retry, "cap"), (Retry, "max_retry_after")]
MAY_BE_OFF = [
    (Timeouts, "connect"),
    (Timeouts, "first_token"),
    (Timeouts, "idle"),
    (Limits, "max_event_size"),
    (KeepAlive, "idle"),
]
KINDS = [Timeouts, Retry, TLS, Limits, Identity, MetricsOptions, KeepAlive]


@pytest.mark.parametrize("value", [0, -1, -0.5, NAN])
@pytest.mark.parametrize(("kind", "name"), POSITIVE)
def test_what_has_to_be_positive_is_refused_by_its_name_otherwise(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be greater than 0, got {value}$"):
        kind(**{name: value})


@pytest.mark.parametrize("value", [-1, -0.5, NAN])
@pytest.mark.parametrize(("kind", "name"), NOT_NEGATIVE)
def test_what_must_not_be_negative_is_refused_by_its_name_otherwise(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must not be negative, got {value}$"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), [*POSITIVE, *NOT_NEGATIVE])
def test_what_is_no_number_is_refused(kind, name):
    with pytest.raises((TypeError, ValueError)):
        kind(**{name: "soon"})


@pytest.mark.parametrize("statuses", [{399}, {600}, {"529"}, {None}, [408, 200], 529])
def test_a_status_to_retry_is_one_of_a_failure(statuses):
    with pytest.raises((TypeError, ValueError), match=r"statuses|iterable"):
        Retry(statuses=statuses)


def test_every_number_of_these_records_is_checked():
    numbers = {(k, a.name) for k in (Timeouts, Limits, Retry, KeepAlive) for a in attrs.fields(k)}
    numbers -= {(Retry, "random"), (Retry, "statuses")}
    assert numbers == {*POSITIVE, *NOT_NEGATIVE}


@pytest.mark.parametrize(("kind", "name"), MAY_BE_OFF)
def test_a_bound_that_may_be_off_is_off_with_none(kind, name):
    assert getattr(kind(**{name: None}), name) is None


@pytest.mark.parametrize(("kind", "name"), NOT_NEGATIVE)
def test_no_wait_at_all_is_a_choice(kind, name):
    assert getattr(kind(**{name: 0}), name) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_the_configuration_pickles_and_is_immutable(kind):
    record = kind()
    assert pickle.loads(pickle.dumps(record)) == record
    for field in attrs.fields(kind):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(record, field.name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_the_configuration_is_made_by_keyword_only(kind):
    with pytest.raises(TypeError):
        kind(1)


def test_a_wait_before_a_retry_is_drawn_from_nought_to_a_doubling_bound_with_a_cap():
    longest = Retry(base=0.1, cap=2.0, random=lambda: 1.0)
    assert [longest.delay(n) for n in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert Retry(random=lambda: 0.0).delay(3) == 0
    drawn = {Retry().delay(5) for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= wait <= 2.0 for wait in drawn)


def test_an_unpickled_retry_draws_waits_of_its_own():
    state = random.getstate()
    try:
        data = pickle.dumps(Retry())
        first = [pickle.loads(data).delay(3) for _ in range(3)]
        second = [pickle.loads(data).delay(3) for _ in range(3)]
        assert first != second
    finally:
        random.setstate(state)


def test_metrics_options_leave_their_registry_behind():
    unpickled = pickle.loads(pickle.dumps(MetricsOptions(registry=lambda: None, namespace="fleet")))
    assert (unpickled.registry, unpickled.namespace) == (None, "fleet")


def test_the_repr_of_tls_does_not_show_the_key():
    assert "key.pem" not in repr(TLS(client_cert="cert.pem", client_key="key.pem"))
