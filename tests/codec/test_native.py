"""The functions that hand Python objects over (csrc/cpython.c): what they refuse, and that they lose no memory."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading

import pytest

from worker_adapters.codec import WIRE_BLOCKED, WIRE_TIME, CutOffError, SSEDecoder, Wire, _native, sockets

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


@pytest.mark.parametrize("call", [_native.begin_events, _native.begin_body, _native.content, _native.transmit])
@pytest.mark.parametrize("args", [(), ("1", 1), (0, 1), (1, "text"), (2**80, b""), (-(2**80), 1, 1), ("1", 1, 1)])
def test_the_others_refuse_what_they_can_not_use(call, args):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        call(*args)


@pytest.mark.parametrize("args", [(), ("1",), (2**32,), (1, 2)])
def test_a_descriptor_is_wanted_to_look_at(args):
    with pytest.raises((TypeError, OverflowError)):
        _native.is_silent(*args)


@pytest.mark.parametrize("args", [(), ("1", 1), (2**32, 1), (1,), (1, "1"), (1, -1)])
def test_a_descriptor_and_a_size_are_wanted_to_read(args):
    with pytest.raises((TypeError, OverflowError)):
        _native.receive(*args)


@pytest.fixture
def pair():
    """Two connected sockets that block, were they waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_nothing_yet_is_no_end(pair):
    ours, theirs = pair
    assert sockets.is_silent(ours.fileno())
    assert sockets.receive(ours.fileno(), 65536) is None
    theirs.close()
    assert not sockets.is_silent(ours.fileno())
    assert sockets.receive(ours.fileno(), 65536) == b""


def test_what_is_peeked_at_stays(pair):
    ours, theirs = pair
    theirs.sendall(b"hello")
    assert not sockets.is_silent(ours.fileno())
    assert sockets.receive(ours.fileno(), 2) == b"he"
    assert sockets.receive(ours.fileno(), 65536) == b"llo"
    assert sockets.is_silent(ours.fileno())


@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 1 << 20])
def test_as_much_as_the_kernel_takes_and_in_reads_of_64_kib(pair, size):
    ours, theirs = pair
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data, came = os.urandom(size), bytearray()
    rest = memoryview(data)
    while len(came) < size:
        rest = rest[sockets.transmit(ours.fileno(), rest) :]
        more = sockets.receive(theirs.fileno(), 65536)
        assert more is None or len(more) <= 65536
        came += more or b""
    assert came == data


def test_a_socket_that_is_full_takes_nothing(pair):
    ours, _ = pair
    while sockets.transmit(ours.fileno(), bytes(100_000)):
        pass
    assert sockets.transmit(ours.fileno(), b"x") == 0


def test_what_is_wrong_with_a_socket_is_raised(pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        sockets.transmit(ours.fileno(), b"x")
    number = ours.fileno()
    ours.close()
    for call in (lambda: sockets.receive(number, 1), lambda: sockets.transmit(number, b"x")):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
    assert not sockets.is_silent(number)


@pytest.mark.parametrize("sent", [b"x", bytes(70_000)])
def test_sockets_and_content_keep_nothing(pair, sent):
    ours, theirs = pair
    wire = Wire(chunked=False, length=None)

    def work():
        rest = memoryview(sent)
        while rest:
            rest = rest[sockets.transmit(ours.fileno(), rest) :]
            while raw := sockets.receive(theirs.fileno(), 65536):
                assert wire.feed(raw) == raw
        assert wire.feed(sent) == sent
        assert sockets.is_silent(theirs.fileno())

    flat(work)


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is none")
@pytest.mark.parametrize(
    "call",
    {
        "receive": lambda fd, _wire: sockets.receive(fd, 100),
        "transmit": lambda fd, _wire: sockets.transmit(fd, b"x"),
        "is_silent": lambda fd, _wire: sockets.is_silent(fd),
        "feed": lambda _fd, wire: wire.feed(b"x"),
        "begun": lambda _fd, _wire: (Wire(chunked=True, length=None), SSEDecoder().payloads(b"")),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_never_waits_keeps_the_interpreter_lock(call, pair):
    """Another thread, which wants it all the time, has no turn."""
    turns, begun, go, interval = [], threading.Event(), threading.Lock(), sys.getswitchinterval()
    go.acquire()

    def spin():
        begun.set()
        go.acquire()
        turns.append(True)

    thread, wire = threading.Thread(target=spin), Wire(chunked=False, length=None)
    sys.setswitchinterval(5.0)
    try:
        thread.start()
        begun.wait()
        go.release()
        for _ in range(1000):
            call[1](pair[0].fileno(), wire)
        assert not turns
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_a_death_by_signal_is_not_what_a_broken_connection_brings():
    """Where Python's own disposition of SIGPIPE was undone."""
    program = """if True:
        import signal, socket
        from worker_adapters.codec import sockets
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        theirs.close()
        try:
            sockets.transmit(ours.fileno(), b"x")
        except BrokenPipeError:
            print("told")
    """
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "told\n"), done


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
