"""Hypothesis against the oracle: streams grown from the grammar's own tokens, cut anywhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..products import examples
from .oracle import interpret
from .streams import bytewise, cut, decode

TOKENS = [b"data", b"event", b"id", b"retry", b"error", b"data:", b"data: ", b"event: ", b"id: ", b"retry: ", b"dataa"]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"]
VALUES = [b"x", b" ", b":", b"\0", b"0", b"17", b"\xef\xbb\xbf", b"\xff", b"\xe2\x80\xa8", b"message", b"a" * 300]

streams = st.builds(
    lambda bom, parts: bom + b"".join(parts),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(st.one_of(st.sampled_from(TOKENS), st.sampled_from(ENDS), st.sampled_from(VALUES)), max_size=40),
)


@pytest.mark.product
@settings(max_examples=examples(1500))
@given(stream=streams, data=st.data())
def test_the_decoder_agrees_with_the_oracle(stream, data):
    expected = interpret(stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    for parts in ([stream], cut(stream, cuts), bytewise(stream)):
        got = decode(parts)
        assert [(f.event, f.data, f.id, f.retry) for f in got.frames] == expected.events
        assert (got.last_event_id, got.retry, got.comments) == (
            expected.last_event_id,
            expected.retry,
            expected.comments,
        )
        held = got.tail is not None and bool(got.tail.unknown)
        assert (got.tail is not None) == bool(expected.undispatched) or held
        if got.tail is not None:
            assert got.tail.data == b"\n".join(value for name, value in expected.undispatched if name == b"data")


@pytest.mark.product
@settings(max_examples=examples(500))
@given(stream=streams.map(lambda stream: stream + b"\n\n"), data=st.data())
def test_payloads_show_every_event_and_every_unknown_field_in_order(stream, data):
    expected = interpret(stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    got = decode(cut(stream, cuts), door="payloads")
    assert got == decode([stream], door="payloads")
    shown = [
        (b"message", f, None, ()) if isinstance(f, bytes) else (f.event, f.data, f.retry, f.unknown) for f in got.frames
    ]
    events = [(event, payload, retry) for event, payload, _, retry in expected.events]
    dispatched = [item[:3] for item in shown if item[1] or not item[3]]
    assert [item for item in events if item[1]] == [item for item in dispatched if item[1]]
    assert expected.unknown == [pair for *_, unknown in shown for pair in unknown]


@pytest.mark.product
@settings(max_examples=examples(500))
@given(stream=streams, limit=st.integers(1, 60), data=st.data())
def test_the_limit_does_not_see_the_cuts(stream, limit, data):
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    for door in ("feed", "payloads"):
        whole = decode([stream], limit, door)
        assert whole == decode(cut(stream, cuts), limit, door)
        assert whole == decode(bytewise(stream), limit, door)
