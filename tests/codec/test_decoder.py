"""Misuse, independence of decoders, and the shape of the public records."""

import socket
import threading

import pytest

import worker_adapters.codec
from worker_adapters.codec import EventTooLargeError, Frame, SSEDecoder, Wire, encode
from worker_adapters.codec import sse as module


def test_public_names():
    assert sorted(worker_adapters.codec.__all__) == [
        "BodyError",
        "CutOffError",
        "EventTooLargeError",
        "Frame",
        "SSEDecoder",
        "WIRE_BLOCKED",
        "WIRE_MORE",
        "WIRE_TIME",
        "WIRE_WOKEN",
        "Wire",
        "encode",
        "encode_lines",
        "read_room",
    ]
    assert set(module.__all__) < set(worker_adapters.codec.__all__)
    assert issubclass(EventTooLargeError, ValueError)
    assert len({getattr(module, name) for name in module.__all__ if name.startswith("WIRE_")}) == 4


def test_frames_compare_print_and_carry_no_dict():
    frame = Frame(b"e", b"d", b"1", 5, ((b"n", b"v"),))
    assert frame == Frame(event=b"e", data=b"d", id=b"1", retry=5, unknown=((b"n", b"v"),))
    assert repr(frame) == "Frame(event=b'e', data=b'd', id=b'1', retry=5, unknown=((b'n', b'v'),))"
    assert not hasattr(frame, "__dict__")
    (decoded,) = SSEDecoder().feed(b"data: d\n\n")
    assert type(decoded) is Frame


def test_a_fresh_decoder_knows_nothing():
    decoder = SSEDecoder()
    assert (decoder.last_event_id, decoder.retry, decoder.comments) == (b"", None, 0)


@pytest.mark.parametrize("door", ["feed", "payloads"])
def test_feeding_after_close(door):
    decoder = SSEDecoder()
    decoder.close()
    for chunk in (b"data: x\n\n", b""):
        with pytest.raises(ValueError, match="closed"):
            getattr(decoder, door)(chunk)


@pytest.mark.parametrize("door", ["feed", "payloads"])
@pytest.mark.parametrize("chunk", ["data: x\n\n", None, 5, [100], object()])
def test_a_chunk_of_another_type_changes_nothing(chunk, door):
    decoder = SSEDecoder()
    with pytest.raises(TypeError, match="a chunk is bytes"):
        getattr(decoder, door)(chunk)
    assert getattr(decoder, door)(b"data: x\n\n")


def test_a_subclass_of_bytes_is_bytes():
    class Chunk(bytes):
        __slots__ = ()

        def __getitem__(self, key):
            raise AssertionError

    assert SSEDecoder().payloads(Chunk(b"data: x\n\n")) == [b"x"]


def test_a_strided_memoryview_is_taken_as_the_bytes_it_shows():
    assert SSEDecoder().payloads(memoryview(b"d.a.t.a.:.x.\n.\n.")[::2]) == [b"x"]


@pytest.mark.parametrize("size", [0, -1, 2**30 + 1])
def test_a_limit_out_of_range(size):
    with pytest.raises(ValueError, match="max_event_size"):
        SSEDecoder(size)


@pytest.mark.parametrize("size", [1.5, "1", None, True])
def test_a_limit_of_another_type(size):
    with pytest.raises(TypeError, match="max_event_size"):
        SSEDecoder(size)


def test_a_read_beyond_the_range_of_the_offsets_is_cut(monkeypatch):
    """2**30 bytes per foreign call; the zeros are never touched, so this costs address space only."""
    with pytest.raises(EventTooLargeError):
        SSEDecoder().feed(bytes(2**30 + 1))

    too_long, take = module._lib.SSE_E_READ_TOO_LONG, module._native.take
    monkeypatch.setattr(module, "_PART", 7)
    monkeypatch.setattr(
        module._native, "take", lambda at, chunk, out: take(at, chunk, out) if len(chunk) <= 7 else too_long
    )
    body = b"data: hello world\n\nerror: x\n\ndata: y\n\n"
    assert [f.data for f in SSEDecoder().feed(body)] == [b"hello world", b"y"]
    with pytest.raises(EventTooLargeError) as caught:
        SSEDecoder(12).feed(body + b"data: " + b"x" * 13)
    assert [f.data for f in caught.value.frames] == [b"hello world", b"y"]


@pytest.mark.parametrize("door", ["feed", "payloads", "pull"])
@pytest.mark.parametrize("following", [b"data: another read\n\n", b"data: same size\n"])
def test_an_interrupted_read_ends_the_decoder(monkeypatch, following, door):
    """A chunk left half read can't be told from the next one by its bytes, so the decoder refuses to guess."""
    decoder = SSEDecoder()
    reader, writer = socket.socketpair()
    pull = decoder.puller(Wire(chunked=False, length=None), reader.fileno(), -1, float, repr)

    def take(chunk):
        if door != "pull":
            return getattr(decoder, door)(chunk)
        writer.sendall(chunk)
        return pull()

    def interrupt(self):
        raise KeyboardInterrupt

    with reader, writer:
        with monkeypatch.context() as patch:
            patch.setattr(SSEDecoder, "_grow", interrupt)
            with pytest.raises(KeyboardInterrupt):
                take(b"data: a\n\ndata: b")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="drop the stream"):
                take(following)
        with pytest.raises(RuntimeError, match="drop the stream"):
            decoder.close()


def test_mixing_the_doors_corrupts_nothing():
    decoder = SSEDecoder()
    out = decoder.feed(b"error: 1\n\ndata: a") + decoder.payloads(b"\n\ndata: b\n\ndata") + decoder.feed(b": c\n\n")
    assert [f if isinstance(f, bytes) else f.data for f in out] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("read", [1448, 65_536])
@pytest.mark.parametrize("door", ["feed", "payloads"])
def test_one_foreign_call_per_read(monkeypatch, read, door):
    """Beside the two or three of a stream's life in which the carry-over buffer grows."""
    calls, real_feed = [], module._feed
    monkeypatch.setattr(module, "_feed", lambda *args: calls.append(1) or real_feed(*args))
    body = b"".join(encode(None, b"x" * 190) for _ in range(5000))
    take = getattr(SSEDecoder(), door)
    reads = [body[at : at + read] for at in range(0, len(body), read)]
    assert sum(len(take(part)) for part in reads) == 5000
    assert len(calls) <= len(reads) + 3


def test_decoders_on_many_threads_are_independent():
    results: dict[int, bool] = {}

    def run(number: int) -> None:
        decoder = SSEDecoder(100_000)
        events = [(b"e%d" % number, b"%d " % number * i, b"%d" % i, i) for i in range(200)]
        body = b"".join(encode(*event) for event in events)
        frames = [f for at in range(0, len(body), 100) for f in decoder.feed(body[at : at + 100])]
        results[number] = [(f.event, f.data, f.id, f.retry) for f in frames] == events

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


def test_dropped_decoders_give_their_buffer_back():
    for _ in range(200):
        decoder = SSEDecoder()
        decoder.feed(b"data: " + b"x" * 500_000)
        carry = decoder._carry
        del decoder
        carry.clear()  # BufferError if the export were still alive
