"""The two functions that hand Python objects over (csrc/cpython.c): what they refuse, and that they lose no memory."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading

import pytest

from worker_adapters.codec import CutOffError, SSEDecoder, Wire, _native


@pytest.mark.parametrize(
    "args", [(), (1, b""), (0, b"", []), (2**80, b"", []), ("1", b"", []), (1, "text", []), (1, bytearray(b"x"), [])]
)
def test_take_refuses_what_it_can_not_use(args):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.take(*args)


@pytest.mark.parametrize("args", [(), (1, 1, 1), (0, 0, 0, print), ("1", 1, 1, print), (1, 1, "1", print)])
def test_pull_refuses_what_it_can_not_use(args):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.pull(*args)


def test_what_is_taken_needs_a_list_to_go_to():
    decoder = SSEDecoder()
    with pytest.raises(SystemError):
        _native.take(decoder._address, b"data: x\n\n", ())


def flat(work):
    """Runs it often; nothing is left of it."""
    for _ in range(3):
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(200):
        work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 50


def test_take_keeps_nothing():
    decoder = SSEDecoder()

    def work():
        assert decoder.payloads(b"data: one\n\ndata: two\n\nda") == [b"one", b"two"]
        assert decoder.payloads(b"ta: three\n\n") == [b"three"]
        assert decoder.payloads(b"") == []
        assert len(decoder.payloads(b"event: x\ndata: y\n\n")) == 1
        assert decoder.payloads(b"data: x\n\n" * 3000) == [b"x"] * 3000

    flat(work)


def test_pull_keeps_nothing():
    def work():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire, decoder = Wire(chunked=False, length=None), SSEDecoder()
            pull = decoder.puller(wire, ours.fileno())
            theirs.sendall(b"data: one\n\ndata: two\n\nda")
            assert pull() == [b"one", b"two"]
            theirs.sendall(b"ta: three\n\n")
            assert pull() == [b"three"]
            theirs.sendall(b": nothing complete\n\nevent: x\ndata: y\n\n")
            assert len(pull()) == 1
            theirs.close()
            assert pull() == []

    flat(work)


def test_what_is_raised_while_reading_comes_through_and_is_not_kept():
    def work():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pull = SSEDecoder().puller(Wire(chunked=True, length=None), ours.fileno())
            theirs.close()
            with pytest.raises(CutOffError):
                pull()

    flat(work)


def test_a_signal_handler_runs_while_a_pull_blocks_and_what_it_raises_ends_it():
    class Rung(Exception):  # noqa: N818
        pass

    def ring(_number, _frame):
        if len(rung) == 1:
            raise Rung
        rung.append(1)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    rung: list[int] = []
    ours, theirs = socket.socketpair()
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with ours, theirs:
            pull = SSEDecoder().puller(Wire(chunked=False, length=None), ours.fileno())
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Rung):
                pull()
            theirs.sendall(b"data: still\n\n")
            assert pull() == [b"still"]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [1]


def test_other_threads_run_while_a_pull_blocks():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pull = SSEDecoder().puller(Wire(chunked=False, length=None), ours.fileno())
        found: list[list[bytes]] = []
        reader = threading.Thread(target=lambda: found.append(pull()), daemon=True)
        reader.start()
        theirs.sendall(b"data: x\n\n")
        reader.join(10)
        assert found == [[b"x"]]
