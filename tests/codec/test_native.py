"""The two functions that hand Python objects over (csrc/cpython.c): what they refuse, and that they lose no memory."""

from __future__ import annotations

import gc
import socket
import sys

import pytest

from worker_adapters.codec import WIRE_BLOCKED, WIRE_TIME, CutOffError, SSEDecoder, Wire, _native

from .streams import Timers


@pytest.mark.parametrize(
    "args", [(), (1, b""), (0, b"", []), (2**80, b"", []), ("1", b"", []), (1, "text", []), (1, bytearray(b"x"), [])]
)
def test_take_refuses_what_it_can_not_use(args):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.take(*args)


@pytest.mark.parametrize(
    "args",
    [
        (),
        (1, 1, 1, -1, print),
        (0, 1, 1, -1, print, print),
        (1, 0, 1, -1, print, print),
        ("1", 1, 1, -1, print, print),
        (1, "1", 1, -1, print, print),
        (1, 1, "1", -1, print, print),
        (1, 1, 1, "1", print, print),
        (1, 1, 2**80, -1, print, print),
    ],
)
def test_pull_refuses_what_it_can_not_use(args):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.pull(*args)


@pytest.mark.parametrize("which", [0, 1])
def test_a_descriptor_beyond_an_int_is_not_taken_for_another_one(which):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"data: x\n\n")
        descriptors = [ours.fileno(), ours.fileno()]
        descriptors[which] += 2**32
        with pytest.raises(OverflowError):
            SSEDecoder().puller(Wire(chunked=False, length=None), *descriptors, Timers(lambda: 0.0), repr)()


def test_what_is_taken_needs_a_list_to_go_to():
    decoder = SSEDecoder()
    with pytest.raises(SystemError):
        _native.take(decoder._address, b"data: x\n\n", ())


def flat(work):
    """Runs it often; nothing is left of it. Other threads of the process may need memory meanwhile, but not each time."""
    for _ in range(3):
        work()
    assert min(_left_of(work) for _ in range(3)) < 50


def _left_of(work):
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(200):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_take_keeps_nothing():
    decoder = SSEDecoder()

    def work():
        assert decoder.payloads(b"data: one\n\ndata: two\n\nda") == [b"one", b"two"]
        assert decoder.payloads(b"ta: three\n\n") == [b"three"]
        assert decoder.payloads(b"") == []
        assert len(decoder.payloads(b"event: x\ndata: y\n\n")) == 1
        assert decoder.payloads(b"data: x\n\n" * 3000) == [b"x"] * 3000

    flat(work)


@pytest.mark.parametrize("waits", [False, True])
def test_pull_keeps_nothing(waits):
    def work():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire, decoder = Wire(chunked=False, length=None), SSEDecoder()
            wake = wakes.fileno() if waits else -1
            pull = decoder.puller(wire, ours.fileno(), wake, Timers(lambda: 0.0), lambda status: {"status": [status]})
            theirs.sendall(b"data: one\n\ndata: two\n\nda")
            assert pull() == [b"one", b"two"]
            assert pull() == {"status": [WIRE_TIME if waits else WIRE_BLOCKED]}
            theirs.sendall(b"ta: three\n\n")
            assert pull() == [b"three"]
            theirs.sendall(b": nothing complete\n\nevent: x\ndata: y\n\n")
            assert len(pull()) == 1
            theirs.close()
            assert pull() == []

    wakes, _other = socket.socketpair()
    with wakes, _other:
        flat(work)


def raises(*_args):
    raise LookupError


def test_what_is_raised_while_reading_comes_through_and_is_not_kept():
    def work():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire = Wire(chunked=True, length=None)
            pull = SSEDecoder().puller(wire, ours.fileno(), -1, raises, raises)
            with pytest.raises(LookupError):
                pull()
            pull = SSEDecoder().puller(wire, ours.fileno(), ours.fileno(), Timers(raises), raises)
            with pytest.raises(LookupError):
                pull()
            pull = SSEDecoder().puller(wire, ours.fileno(), ours.fileno(), Timers(lambda: "soon"), raises)
            with pytest.raises(TypeError):
                pull()
            theirs.close()
            pull = SSEDecoder().puller(wire, ours.fileno(), -1, raises, raises)
            with pytest.raises(CutOffError):
                pull()

    flat(work)
