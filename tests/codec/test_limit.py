"""The size limit: exact, sticky, the same however the bytes are cut; and what it does to memory."""

import pickle
import tracemalloc
from collections import deque
from itertools import repeat

import pytest

from worker_adapters.codec import EventTooLargeError, Frame, SSEDecoder

from .streams import bytewise, cut, decode

LIMIT = 40

SHAPES = {
    "one data line": lambda n: b"data: " + b"x" * n,
    "data without a space": lambda n: b"data:" + b"x" * n,
    "two data lines": lambda n: b"data: aaa\ndata: " + b"x" * (n - 4),
    "empty data lines": lambda n: b"data\n" * n + b"data",
    "event and data": lambda n: b"event: eee\ndata: " + b"x" * (n - 3),
    "a long event": lambda n: b"event:" + b"x" * n,
    "id and data": lambda n: b"id: iii\ndata: " + b"x" * (n - 3),
    "an ignored id": lambda n: b"id: \0ii\ndata: " + b"x" * (n - 3),
    "replaced event": lambda n: b"event: eee\nevent: ff\ndata: " + b"x" * (n - 5),
    "unknown value": lambda n: b"error: " + b"x" * (n - 5),
    "unknown name": lambda n: b"x" * n,
    "unknown short names": lambda n: b"x: \n" * (n - 6) + b"data: 123456",
    "comments and retry for nothing": lambda n: b": cccc\nretry: 123456\n:\ndata: " + b"x" * n,
}
BY_SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def ways(body: bytes):
    yield [body]
    yield bytewise(body)
    for at in range(0, len(body), 7):
        yield cut(body, [at])


@BY_SHAPE
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\r"])
@pytest.mark.parametrize("door", ["feed", "payloads"])
def test_limit_minus_1_limit_and_limit_plus_1(shape, end, door):
    for size, too_large in ((LIMIT - 1, False), (LIMIT, False), (LIMIT + 1, True)):
        body = b"data: first\n\n" + shape(size) + end
        results = [decode(parts, LIMIT, door) for parts in ways(body)]
        assert all(result == results[0] for result in results)
        assert results[0].too_large is too_large, size


def test_the_limit_is_per_event():
    body = (b"data: " + b"x" * LIMIT + b"\n\n") * 50
    assert [len(f.data) for f in decode([body], LIMIT).frames] == [LIMIT] * 50
    assert decode(bytewise(body), LIMIT) == decode([body], LIMIT)


def test_the_error_is_sticky_and_keeps_what_was_complete():
    decoder = SSEDecoder(LIMIT)
    with pytest.raises(EventTooLargeError, match="larger than 40 bytes") as caught:
        decoder.feed(b"data: a\n\nevent: e\ndata: b\n\n: c\nretry: 5\ndata: " + b"x" * 41 + b"\n\ndata: lost\n\n")
    assert caught.value.limit == LIMIT
    assert [(f.event, f.data) for f in caught.value.frames] == [(b"message", b"a"), (b"e", b"b")]
    for later in (lambda: decoder.feed(b"data: x\n\n"), lambda: decoder.payloads(b""), decoder.close, decoder.close):
        with pytest.raises(EventTooLargeError) as again:
            later()
        assert again.value.frames == []
    assert (decoder.comments, decoder.retry) == (1, 5)


def test_the_error_keeps_payloads_of_the_payload_door():
    with pytest.raises(EventTooLargeError) as caught:
        SSEDecoder(4).payloads(b"data: a\n\nevent: e\ndata: b\n\ndata: 12345")
    assert caught.value.frames == [b"a", Frame(b"e", b"b", b"", None, ())]


def test_close_raises_when_the_last_line_is_too_large():
    """The name of an unknown field is judged when it ends: here, by the end of input."""
    decoder = SSEDecoder(4)
    assert decoder.feed(b"error") == []
    with pytest.raises(EventTooLargeError):
        decoder.close()
    with pytest.raises(EventTooLargeError):
        decoder.close()


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(EventTooLargeError(7, [b"x"])))
    assert (error.limit, error.frames, str(error)) == (7, [b"x"], str(EventTooLargeError(7, [])))


def capacity(decoder: SSEDecoder) -> int:
    return len(decoder._carry)


def peak_of(decoder: SSEDecoder, parts) -> int:
    """The highest total of Python's allocations over the decoding of the parts, beyond what was there before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for part in parts:
            decoder.feed(part)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


READ = b"x" * 65_536
SLACK = 32_768


def test_nothing_is_allocated_in_advance():
    decoder = SSEDecoder()
    decoder.feed(b"data: a\n\n: comment\n\nevent: b\ndata: c\n\n" * 100)
    assert capacity(decoder) == 0
    decoder.feed(b"data: a")
    assert capacity(decoder) <= 4096 + 16


@pytest.mark.parametrize("start", [b":", b"retry: 1", b"id: 1\n:"])
def test_an_endless_line_without_content_costs_no_memory(start):
    decoder = SSEDecoder(100_000)
    decoder.feed(start)
    assert peak_of(decoder, [READ] * 200) < SLACK
    assert capacity(decoder) <= 4096 + 16
    assert decoder.feed(b"\ndata: still there\n\n")[-1].data == b"still there"


@pytest.mark.parametrize("start", [b"", b"data: ", b"event: ", b"id: ", b"error: ", b"data\nerror: "])
def test_an_endless_line_stops_at_the_limit(start):
    limit = 1_048_576
    decoder = SSEDecoder(limit)
    decoder.feed(start)

    tracemalloc.start()
    try:
        with pytest.raises(EventTooLargeError):
            deque(map(decoder.feed, repeat(READ)), maxlen=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert capacity(decoder) <= limit + 1024
    assert peak < limit + len(READ) + SLACK


@pytest.mark.parametrize(
    "line", [b"data\n", b"data:x\n", b"data\nevent\n", b"event: x\nid: y\ndata\n", b"x\ndata: y\n"]
)
@pytest.mark.parametrize("read", [1448, 65_536])
def test_a_mebibyte_of_tiny_lines_stays_within_the_limit(line, read):
    body = line * (2**20 // len(line))
    decoder = SSEDecoder(2**20)
    parts = [body[i : i + read] for i in range(0, len(body), read)]
    assert peak_of(decoder, parts) < 2**20 + SLACK
    assert capacity(decoder) <= 2**20 + 1024


def test_a_large_event_is_carried_in_linear_time_and_one_buffer():
    decoder = SSEDecoder(2**23)
    data = bytes(range(65, 91)) * (2**22 // 26)
    body = b"event: big\nerror: seen\ndata: " + data + b"\n\n"
    parts = [body[i : i + 1448] for i in range(0, len(body), 1448)]
    peak = peak_of(decoder, parts[:-1])
    assert peak < 2**23 + SLACK
    assert decoder.feed(parts[-1]) == [Frame(b"big", data, b"", None, ((b"error", b"seen"),))]


@pytest.mark.parametrize("limit", [1, 2, 5, 4095, 4096, 4097, 5000, 65_537, 1_000_003])
def test_the_buffer_reaches_every_limit_exactly(limit):
    for size, too_large in ((limit, False), (limit + 1, True)):
        body = b"data: " + b"x" * size + b"\n\n"
        assert decode(cut(body, [len(body) // 2, len(body) - 2]), limit).too_large is too_large
