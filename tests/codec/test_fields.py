"""What goes beyond the case table: exact bytes, line ends at the end of a read, unknown fields, tail, comments."""

from typing import Any

import pytest

from worker_adapters.codec import Frame, SSEDecoder

from .streams import bytewise, cut, decode


def message(data: bytes, **fields: Any) -> Frame:
    """A frame of the default event with nothing but data, except for the fields given."""
    return Frame(**{"event": b"message", "data": data, "id": b"", "retry": None, "unknown": ()} | fields)


def outcomes(body: bytes, door: str = "feed"):
    """The outcome of every way to cut the body in two, and of single bytes."""
    yield decode([body], door=door)
    yield decode(bytewise(body), door=door)
    for at in range(len(body) + 1):
        yield decode(cut(body, [at]), door=door)


def frames(body: bytes, door: str = "feed") -> list[Frame]:
    first, *others = outcomes(body, door)
    for other in others:
        assert first == other
    return first.frames


def tail(body: bytes) -> Frame | None:
    first, *others = outcomes(body)
    for other in others:
        assert first == other
    return first.tail


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"\xf0\x9f\x98", b"a\x00b", b"\xc2\x85", b"\xe2\x80\xa8", b"\x0b\x0c\x1c\x1e", bytes([0x85])]
)
def test_bytes_are_handed_on_untouched(junk):
    assert frames(b"event:" + junk + b"\ndata:" + junk + b"\n\n") == [message(junk, event=junk)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_ends_a_frame_at_once(end):
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a" + end + end) == [message(b"a")]
    assert decoder.feed(b"data: b" + end) == []
    assert decoder.feed(end) == [message(b"b")]


def test_cr_at_the_end_of_a_read_swallows_one_lf_only():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\n") == [message(b"a")]


def test_empty_reads_before_and_within_the_bom():
    decoder = SSEDecoder()
    for part in (b"", b"\xef", b"", b"\xbb", b"\xbf", b"", b"data: a\n\n"):
        last = decoder.feed(part)
    assert last == [message(b"a")]


@pytest.mark.parametrize("prefix", [b"\xef", b"\xef\xbb", b"\xef\xbb\xbe", b"\xef\xef\xbb\xbf"])
def test_half_a_bom_is_part_of_a_name(prefix):
    assert frames(prefix + b"data: a\n\ndata: b\n\n") == [message(b"b", unknown=((prefix + b"data", b"a"),))]


def test_bom_after_the_start_is_part_of_a_name():
    assert frames(b"\n\xef\xbb\xbfdata: a\ndata: b\n\n") == [message(b"b", unknown=((b"\xef\xbb\xbfdata", b"a"),))]


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        (b"error: {}", (b"error", b"{}")),
        (b"Data: x", (b"Data", b"x")),
        (b" data: x", (b" data", b"x")),
        (b"dat", (b"dat", b"")),
        (b"events: x", (b"events", b"x")),
        (b"retryy", (b"retryy", b"")),
        (b"data : x", (b"data ", b"x")),
        (b"dataxx:yy:zz", (b"dataxx", b"yy:zz")),
        (b"a:  b", (b"a", b" b")),
        (b"<p>", (b"<p>", b"")),
    ],
)
def test_unknown_fields_are_seen(line, pair):
    assert frames(line + b"\ndata: x\n\n") == [message(b"x", unknown=(pair,))]
    assert frames(b"data: x\n" + line + b"\n\n", "payloads") == [message(b"x", unknown=(pair,))]


def test_unknown_fields_of_a_block_without_data_wait_for_the_next_frame():
    body = b"error: 1\n\nerror: 2\n\ndata: x\nerror: 3\n\ndata: y\n\n"
    assert frames(body) == [message(b"x", unknown=((b"error", b"2"), (b"error", b"3"))), message(b"y")]


def test_unknown_fields_wait_over_reads_for_a_plain_frame():
    decoder = SSEDecoder()
    assert decoder.feed(b"error: 1\n\n") == []
    assert decoder.feed(b": ping\n\nevent: e\n\n") == []
    assert decoder.feed(b"data: x\n\ndata: y\n\n") == [message(b"x", unknown=((b"error", b"1"),)), message(b"y")]
    assert decoder.close() is None


def test_unknown_fields_that_waited_in_vain_are_in_the_tail():
    assert tail(b"error: 1\n\n") == message(b"", unknown=((b"error", b"1"),))
    assert tail(b"error: 1\n\ndata: x\nerror: 2") == message(b"x", unknown=((b"error", b"1"), (b"error", b"2")))


def test_payloads_hand_over_unknown_fields_at_once():
    decoder = SSEDecoder()
    assert decoder.payloads(b"event: e\nid: 7\nretry: 5\nerror: {}\n\n") == [
        message(b"", event=b"e", id=b"7", retry=5, unknown=((b"error", b"{}"),))
    ]
    assert decoder.payloads(b"data: x\n\n") == [b"x"]
    assert decoder.close() is None


def test_at_most_64_unknown_fields_of_a_block_are_kept():
    fields = [(b"name%d" % i, b"%d" % i) for i in range(70)]
    block = b"".join(b"%s: %s\n" % pair for pair in fields)
    whole, by_bytes = decode([block + b"data: x\n\n"]), decode(bytewise(block + b"data: x\n\n"))
    assert whole == by_bytes
    assert whole.frames == [message(b"x", unknown=tuple(fields[:64]))]


def test_payloads_are_bytes_exactly_where_a_frame_says_nothing_more():
    body = b"data: a\n\nevent: message\ndata: b\n\nid: 1\ndata: c\n\n"
    body += b"retry: 5\ndata: d\n\nevent: e\ndata: e\n\ndata\ndata\n\n"
    assert frames(body, "payloads") == [
        b"a",
        b"b",
        b"c",
        message(b"d", id=b"1", retry=5),
        message(b"e", event=b"e", id=b"1"),
        b"\n",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b"data: x\n\n", None),
        (b"data: x\n\n: comment", None),
        (b"retry: 5\n\n", None),
        (b"id: 5\n\n\n", None),
        (b"data: x", message(b"x")),
        (b"data", message(b"")),
        (b"data: x\ndata: y\n", message(b"x\ny")),
        (b"data: x\ndata", message(b"x\n")),
        (b"id: 1\n\nid: 2\nevent: e\nretry: 7", message(b"", event=b"e", id=b"2", retry=7)),
        (b"error: {}", message(b"", unknown=((b"error", b"{}"),))),
        (b"error", message(b"", unknown=((b"error", b""),))),
        (b"unknown", message(b"", unknown=((b"unknown", b""),))),
        (b"\xef\xbb", message(b"", unknown=((b"\xef\xbb", b""),))),
        (b"retry: x\n", message(b"")),
        (b"id: a\0b\n", message(b"")),
    ],
)
def test_the_undispatched_tail(body, expected):
    assert tail(body) == expected


def test_the_tail_commits_nothing():
    decoder = SSEDecoder()
    decoder.feed(b"id: 1\nretry: 10\n\nid: 2\nretry: 20")
    assert decoder.close() == message(b"", id=b"2", retry=20)
    assert (decoder.last_event_id, decoder.retry) == (b"1", 10)
    assert decoder.close() is None


def test_retry_takes_effect_as_its_line_ends():
    decoder = SSEDecoder()
    decoder.feed(b"retry: 70")
    assert decoder.retry is None
    decoder.feed(b"\n")
    assert decoder.retry == 70


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"18446744073709551614", 2**64 - 2),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 2**64 - 1),
        (b"9" * 1000, 2**64 - 1),
        (b"9" * 1000 + b"x", None),
        (b"", None),
        (b" 5", None),
        (b"+5", None),
        (b"5\0", None),
        (b"\xd9\xa3", None),
    ],
)
def test_retry_values(value, expected):
    body = b"retry: " + value + b"\ndata: x\n\n"
    for parts in ([body], bytewise(body)):
        outcome = decode(parts)
        assert outcome.frames == [message(b"x", retry=expected)]
        assert outcome.retry == expected


def test_the_last_valid_retry_of_a_block_holds():
    assert frames(b"retry: 1\nretry: 2\nretry: x\ndata: x\n\ndata: y\n\n") == [message(b"x", retry=2), message(b"y")]


def test_comments_are_counted_and_never_content():
    body = b":\n: a\ndata: x\n:: b\n\n:\r\n\r\n: unfinished"
    assert frames(body) == [message(b"x")]
    for outcome in outcomes(body):
        assert outcome.comments == 5


def test_ids_persist_are_replaced_and_reset():
    body = b"id: 1\nid: 2\ndata: a\n\ndata: b\n\nid: 3\n\ndata: c\n\nid: x\0y\ndata: d\n\nid\ndata: e\n\n"
    assert [f.id for f in frames(body)] == [b"2", b"2", b"3", b"3", b""]


def test_more_records_than_one_call_can_hand_over():
    """Thousands of frames of every kind in one read, in order, whatever array runs full."""
    block = b"data\n\ndata: a\ndata: b\n\nevent: e\ndata\n\nx\n\nid: %d\ndata: c\r\n\r\n: c\n\n"
    body = b"".join(block % i for i in range(3000))
    whole = decode([body])
    assert len(whole.frames) == 4 * 3000
    assert [f.id for f in whole.frames[3::4]] == [b"%d" % i for i in range(3000)]
    assert whole == decode([body[i : i + 999] for i in range(0, len(body), 999)])
    assert decode([body], door="payloads") == decode(bytewise(body), door="payloads")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("lines", [300, 600, 5000])
def test_one_event_with_more_lines_than_one_call_can_hand_over(lines, end):
    body = b"data: a" + end * 2 + b"".join(b"data: %d%s" % (i, end) for i in range(lines)) + end + b"data: z" + end * 2
    expected = [message(b"a"), message(b"\n".join(b"%d" % i for i in range(lines))), message(b"z")]
    assert decode([body]).frames == expected
    assert decode([b"event: x" + end + body]).frames == [message(b"a", event=b"x"), *expected[1:]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("door", ["feed", "payloads"])
def test_nothing_refers_to_a_reused_read_buffer(kind, door):
    buffer = bytearray(b"data: one\n\nevent: e\ndata: two\n\ndata: th")
    take = getattr(SSEDecoder(), door)
    out = take(kind(buffer))
    buffer[:] = b"ree\n\n".ljust(len(buffer), b"#")
    out += take(kind(buffer)[:5])
    assert [f if isinstance(f, bytes) else f.data for f in out] == [b"one", b"two", b"three"]
