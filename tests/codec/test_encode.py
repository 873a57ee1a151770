"""The builder: what it writes, what it refuses, and that decoding gives the identical event back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters.codec import Frame, SSEDecoder, encode

from ..products import examples


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((None, b"x"), b"data: x\n\n"),
        (("", "x"), b"data: x\n\n"),
        (("message", "x"), b"data: x\n\n"),
        ((b"token", "h\u00e9"), b"event: token\ndata: h\xc3\xa9\n\n"),
        ((None, b""), b"data: \n\n"),
        ((None, b"a\nb\n"), b"data: a\ndata: b\ndata: \n\n"),
        ((None, b" x"), b"data:  x\n\n"),
        ((" e", b"x", b"1", 0), b"event:  e\nid: 1\nretry: 0\ndata: x\n\n"),
        ((None, b"x", ""), b"id: \ndata: x\n\n"),
        ((None, b"x", None, 2**64 - 1), b"retry: 18446744073709551615\ndata: x\n\n"),
        ((None, b"\xef\xbb\xbf:\0"), b"data: \xef\xbb\xbf:\0\n\n"),
    ],
)
def test_the_bytes(args, expected):
    assert encode(*args) == expected


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"a\rb", "a\nb", "\0"])
def test_event_and_id_take_no_cr_lf_or_nul(bad):
    with pytest.raises(ValueError, match="event can't hold"):
        encode(bad, b"x")
    with pytest.raises(ValueError, match="id can't hold"):
        encode(None, b"x", id=bad)


@pytest.mark.parametrize("bad", [b"\r", "a\r\nb", b"a\r"])
def test_data_takes_no_cr(bad):
    with pytest.raises(ValueError, match="data can't hold"):
        encode(None, bad)


@pytest.mark.parametrize("retry", [-1, 2**64])
def test_retry_out_of_range(retry):
    with pytest.raises(ValueError, match="retry must be in"):
        encode(None, b"", retry=retry)


@pytest.mark.parametrize(
    "args",
    [
        (1, b""),
        (None, None),
        (None, 1),
        (None, bytearray(b"x")),
        (None, b"", 1),
        (None, b"", b"", "5"),
        (None, b"", b"", True),
    ],
)
def test_wrong_types(args):
    with pytest.raises(TypeError):
        encode(*args)


labels = st.binary(max_size=40).filter(lambda value: not set(value) & {0, 10, 13})
payloads = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\n", b" ", b":", b"data: ", b"x", b"\0", b"\xef\xbb\xbf"])).map(b"".join),
).map(lambda value: value.replace(b"\r", b""))
retries = st.none() | st.integers(0, 2**64 - 1)


@pytest.mark.product
@settings(max_examples=examples(1000))
@given(
    events=st.lists(st.tuples(st.none() | labels, payloads, st.none() | labels, retries), max_size=4),
    step=st.integers(1, 50),
)
def test_decoding_gives_the_identical_events_back(events, step):
    body = b"".join(encode(*event) for event in events)
    decoder = SSEDecoder()
    frames = [frame for at in range(0, len(body), step) for frame in decoder.feed(body[at : at + step])]
    assert decoder.close() is None
    last_id, expected = b"", []
    for event, data, label, retry in events:
        last_id = last_id if label is None else label
        expected.append(Frame(event or b"message", data, last_id, retry, ()))
    assert frames == expected


@given(st.text(max_size=100).filter(lambda value: "\r" not in value))
def test_text_is_utf8(text):
    (frame,) = SSEDecoder().feed(encode(None, text))
    assert frame.data.decode() == text


def test_lone_surrogates_are_a_value_error():
    with pytest.raises(ValueError, match="surrogates"):
        encode(None, "\ud83d")
