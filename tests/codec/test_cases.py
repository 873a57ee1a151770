"""The case table: 126 streams from the standard, the web platform tests, other decoders' suites and real engines."""

import random

import pytest

from .streams import CASES, Case, as_case, bytewise, cut, decode

ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SMALL = [case for case in CASES if len(case.body) <= 2048]


def test_the_table_is_complete():
    assert len(CASES) == 126


@ALL
def test_whole(case: Case):
    assert as_case(decode([case.body])) == case.expected


@ALL
def test_byte_by_byte(case: Case):
    """Long bodies come in three-byte reads instead: 350,000 calls show no less than a million."""
    step = 1 if len(case.body) < 100_000 else 3
    parts = [case.body[i : i + step] for i in range(0, len(case.body), step)]
    assert as_case(decode(parts)) == case.expected


@pytest.mark.parametrize("case", [case for case in CASES if case.splits], ids=lambda case: case.name)
def test_at_the_given_splits(case: Case):
    assert as_case(decode(cut(case.body, case.splits))) == case.expected


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_at_every_split_point(case: Case):
    for at in range(len(case.body) + 1):
        assert as_case(decode(cut(case.body, [at]))) == case.expected, at


@ALL
def test_at_random_cuts(case: Case):
    rng = random.Random(case.name)
    for _ in range(20 if len(case.body) < 10_000 else 3):
        cuts = rng.choices(range(len(case.body) + 1), k=rng.randint(1, 40))
        assert as_case(decode(cut(case.body, cuts))) == case.expected, sorted(cuts)


@pytest.mark.parametrize("case", [case for case in CASES if case.latency], ids=lambda case: case.name)
def test_a_frame_is_out_with_the_read_that_completes_it(case: Case):
    parts = cut(case.body, case.splits)
    seen = [len(decode(parts[: i + 1]).frames) for i in range(len(parts))]
    assert case.latency == tuple(seen)


@ALL
def test_payloads_say_the_same(case: Case):
    """Data, names and retry of every event; but a Frame without data may also be a block of unknown fields alone."""
    for parts in ([case.body], bytewise(case.body[:5000])):
        body = b"".join(parts)
        full, lean = decode([body]), decode(parts, door="payloads")
        found = [(b"message", f, None) if isinstance(f, bytes) else (f.event, f.data, f.retry) for f in lean.frames]
        expected = [(f.event, f.data, f.retry) for f in full.frames]
        assert [item for item in found if item[1]] == [item for item in expected if item[1]]
        assert (full.last_event_id, full.retry, full.comments) == (lean.last_event_id, lean.retry, lean.comments)
