"""Reading a socket without blocking, and waiting for it: who ends a wait, what is told, and that nothing is lost by it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from math import inf
from typing import Any

import attrs
import pytest

from worker_adapters.codec import (
    WIRE_BLOCKED,
    WIRE_MORE,
    WIRE_TIME,
    WIRE_WOKEN,
    Frame,
    SSEDecoder,
    Wire,
    _native,
    read_room,
)
from worker_adapters.codec.sockets import read_at_most

from ..timers import unhurried
from .streams import Timers, cut

STREAM = b"data: one\n\n: comment\n\nevent: e\ndata: two\n\nid: 7\n\ndata: a\ndata: b\n\ndata: \xc3\xa9\n\n"
FRAMED = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (STREAM[:5], STREAM[5:30], STREAM[30:])) + b"0\r\n\r\n"
SOON = 0.05  # seconds until a helper does what a pull waits for


def never() -> float:
    raise AssertionError("how long to wait is asked, where nothing waits")


@attrs.define
class Line:
    """Both ends of a connection, and what wakes whoever reads it."""

    reader: socket.socket
    writer: socket.socket
    wakes: int
    waker: int

    def pull(
        self,
        *,
        waits: bool,
        patience: Callable[[], float] = lambda: 30.0,
        timers: Timers | None = None,
        nothing_yet: Callable[[int], Any] = lambda status: status,
        decoder: SSEDecoder | None = None,
        wire: Wire | None = None,
    ) -> Callable[[], Any]:
        """Answers the status where there is nothing yet."""
        wire = wire or Wire(chunked=False, length=None)
        decoder = decoder or SSEDecoder()
        wake = self.wakes if waits else -1
        timers = timers or Timers(patience if waits else never)
        return decoder.puller(wire, self.reader.fileno(), wake, timers, nothing_yet, read_room() if waits else None)

    def wake(self) -> None:
        os.write(self.waker, b"!")

    def calm(self) -> None:
        os.read(self.wakes, 100)

    def usable(self, pull: Callable[[], Any]) -> bool:
        self.writer.sendall(b"data: still\n\n")
        return pull() == [b"still"]


def opened(kind: int) -> Iterator[Line]:
    reader, writer = socket.socketpair(socket.AF_UNIX, kind)
    wakes, waker = os.pipe()
    with reader, writer:
        yield Line(reader, writer, wakes, waker)
    os.close(wakes)
    os.close(waker)


@pytest.fixture
def line():
    yield from opened(socket.SOCK_STREAM)


@pytest.fixture
def packets():
    """As line, and each read takes what one write gave: the reads can be counted by the content."""
    yield from opened(socket.SOCK_SEQPACKET)


@pytest.fixture
def helper():
    """Does something in a while, on another thread."""
    threads = []

    def start(work, seconds=SOON):
        thread = threading.Timer(seconds, work)
        threads.append(thread)
        thread.start()

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


# --- without waiting: as an event loop drives it ------------------------------------------------------------------------


def test_a_pull_that_is_not_to_wait_says_that_it_would(line):
    pull = line.pull(waits=False)
    for _ in range(3):
        assert pull() == WIRE_BLOCKED
    assert line.usable(pull)
    assert pull() == WIRE_BLOCKED


@pytest.mark.parametrize("at", range(len(FRAMED) + 1))
def test_the_next_pull_goes_on_where_it_was_at_every_cut(line, at):
    """One puller for all of the stream; a pull between the parts blocks nothing and loses nothing."""
    asked: list[int] = []

    def nothing_yet(status: int) -> str:
        asked.append(status)
        return "later"

    wire, decoder = Wire(chunked=True, length=None), SSEDecoder()
    pull = line.pull(waits=False, nothing_yet=nothing_yet, wire=wire, decoder=decoder)
    given: list[object] = []
    for part in cut(FRAMED, [at]):
        assert wire.over or pull() == "later"
        line.writer.sendall(part)
        while isinstance(batch := pull(), list) and batch:
            given += batch
        assert batch == ([] if wire.over else "later")
    assert given == SSEDecoder().payloads(STREAM)
    assert wire.reusable
    assert decoder.last_event_id == b"7"
    assert set(asked) <= {WIRE_BLOCKED, WIRE_MORE}


@pytest.mark.parametrize("waits", [False, True])
def test_blocks_that_only_set_the_id_keep_nobody_reading(line, waits):
    """They are records, so C hands them over; without end they must not keep a loop from everything else."""

    def nothing_yet(status: int) -> int:
        line.writer.sendall(b"id: 1\n\n")
        return status

    wire = Wire(chunked=False, length=None)
    pull = line.pull(waits=waits, nothing_yet=nothing_yet, wire=wire)
    line.writer.sendall(b"id: 1\n\n")
    for blocks in range(1, 5):
        assert (pull(), wire.content) == (WIRE_MORE, 7 * blocks)


def test_a_body_that_ends_in_such_a_block_is_over_and_nobody_waits_for_more_of_it(line):
    body = b"data: x\n\nid: 1\n\n"
    pull = line.pull(waits=False, wire=Wire(chunked=False, length=len(body)))
    line.writer.sendall(body[:9])
    assert pull() == [b"x"]
    line.writer.sendall(body[9:])
    assert pull() == []


# --- waiting ------------------------------------------------------------------------------------------------------------


def test_a_pull_that_waits_is_ended_by_its_other_descriptor(line, helper):
    asked: list[int] = []
    pull = line.pull(waits=True, nothing_yet=lambda status: asked.append(status) or "woken")
    helper(line.wake)
    begun = time.monotonic()
    assert pull() == "woken"
    assert asked == [WIRE_WOKEN]
    assert SOON / 2 < time.monotonic() - begun < 10
    line.calm()
    assert line.usable(pull)


def test_who_is_woken_may_go_on_waiting(line, helper):
    def nothing_yet(status):
        assert status == WIRE_WOKEN
        line.calm()
        helper(lambda: line.writer.sendall(b"data: x\n\n"))

    pull = line.pull(waits=True, nothing_yet=nothing_yet)
    helper(line.wake)
    assert pull() == [b"x"]


def test_what_wakes_comes_before_what_is_there_to_read(line):
    pull = line.pull(waits=True, patience=lambda: 0.0)
    assert pull() == WIRE_TIME  # all that was there is taken: the next read is waited for first
    line.writer.sendall(b"data: x\n\n")
    line.wake()
    assert [pull(), pull()] == [WIRE_WOKEN, WIRE_WOKEN]
    line.calm()
    assert pull() == [b"x"]


def test_a_pull_waits_for_what_patience_says_and_asks_again(line):
    answers = [0.1, 0, -5, -inf, 0.05]
    given = iter(answers)
    asked: list[int] = []

    def nothing_yet(status):
        asked.append(status)
        return "enough" if len(asked) == len(answers) else None

    begun = time.monotonic()
    assert line.pull(waits=True, patience=lambda: next(given), nothing_yet=nothing_yet)() == "enough"
    assert asked == [WIRE_TIME] * len(answers)
    assert 0.15 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("answer", [inf, 1e7, 10**9])
def test_patience_without_end(line, helper, answer):
    helper(lambda: line.writer.sendall(b"data: x\n\n"))
    assert line.pull(waits=True, patience=lambda: answer)() == [b"x"]


@pytest.mark.parametrize("part", [b"lf\n: ping\n", b"lf a frame"])
def test_what_completes_nothing_buys_no_time(line, helper, part):
    """A timer that runs out while a stream is kept alive by comments runs out then, not a whole wait later."""

    def run(scale: float) -> float:
        asked: list[int] = []
        line.writer.sendall(b"data: ha")
        helper(lambda: line.writer.sendall(part), 0.9 * scale)
        until = time.monotonic() + scale
        pull = line.pull(
            waits=True, patience=lambda: until - time.monotonic(), nothing_yet=lambda s: asked.append(s) or s
        )
        assert pull() == WIRE_TIME
        assert asked == [WIRE_TIME]
        return (time.monotonic() - until) / scale

    assert 0 <= unhurried(run, lambda late: late < 0.8) < 0.8


def test_what_is_there_at_first_and_completes_nothing_is_no_time_that_has_run_out(line, helper):
    """Nor is a first read that finds nothing. It is not known yet that all has been taken."""
    line.writer.sendall(b": hello\n\n")
    helper(lambda: line.writer.sendall(b"data: x\n\n"))
    assert line.pull(waits=True)() == [b"x"]


class Rung(Exception):  # noqa: N818
    pass


@pytest.fixture
def alarm():
    before = signal.getsignal(signal.SIGALRM)

    def start(handler, every=0.01):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, every, every)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# Entering a function of Python's serves signals, too. One of C's does not.
PATIENCES = {"of Python": lambda: 30.0, "of C": repeat(30.0).__next__}


@pytest.mark.parametrize("patience", PATIENCES)
def test_a_signal_handler_runs_while_a_pull_waits_and_what_it_raises_ends_it(line, alarm, patience):
    def ring(_number, _frame):
        rung.append(1)
        if len(rung) == 3 and pulling:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Rung

    pulling, rung = [True], []
    asked: list[int] = []
    pull = line.pull(waits=True, patience=PATIENCES[patience], nothing_yet=asked.append)
    line.writer.sendall(b"data: st")  # which nothing that happens now may lose
    too_late = threading.Timer(5, line.writer.sendall, [b"alled\n\n"])
    too_late.start()
    alarm(ring)
    try:
        with pytest.raises(Rung):
            pull()
    finally:
        pulling.clear()
        too_late.cancel()
    assert len(rung) == 3
    assert asked == []  # an interrupted wait is no answer
    line.writer.sendall(b"ill\n\n")
    assert pull() == [b"still"]


def test_an_interrupted_wait_asks_anew_how_long(line, alarm):
    """Else a timer that rings more often than the time runs out would keep it waiting for ever."""
    alarm(lambda _number, _frame: None)
    until = time.monotonic() + 0.2
    pull = line.pull(waits=True, patience=lambda: until - time.monotonic())
    assert pull() == WIRE_TIME
    assert 0.2 <= time.monotonic() - until + 0.2 < 20


def test_how_long_it_may_wait_is_asked_only_when_it_does_not_hold_any_more(line):
    timers = Timers(lambda: 30.0, holds=True)
    pull = line.pull(waits=True, timers=timers)
    for n in range(3):
        line.writer.sendall(b"data: %d\n\n" % n)
        assert pull() == [b"%d" % n]
    assert len(timers.waited) == 1
    timers.retimed = True
    line.writer.sendall(b"data: one\n\n")
    assert pull() == [b"one"]
    assert len(timers.waited) == 2


def test_where_it_runs_out_within_a_wait_that_is_told_how_long_it_has_waited_and_goes_on(line):
    answers = iter([0.05, 0.1])
    timers = Timers(lambda: next(answers), holds=True)
    statuses: list[int] = []
    pull = line.pull(waits=True, timers=timers, nothing_yet=lambda status: statuses.append(status) or status)
    line.writer.sendall(b"data: one\n\n")
    assert pull() == [b"one"]
    assert pull() == WIRE_TIME
    assert statuses == [
        WIRE_TIME
    ]  # of the second wait: the first was too short, as content has put off what it was for
    assert timers.waited[0] < timers.waited[1] < 20


def test_who_is_asked_what_to_do_has_been_told_before_how_long_it_has_waited(line):
    """A timer that content puts off runs from the beginning of the wait, whatever ends that."""
    timers = Timers(lambda: 30.0, holds=True)
    pull = line.pull(waits=True, timers=timers)
    line.writer.sendall(b"data: one\n\n")
    assert pull() == [b"one"]
    line.wake()
    assert pull() == WIRE_WOKEN
    assert len(timers.waited) == 2


def test_what_patience_raises_comes_out_and_the_stream_goes_on_afterwards(line):
    def patience():
        if angry:
            raise angry.pop()
        return 30.0

    angry: list[BaseException] = []
    asked: list[int] = []
    pull = line.pull(waits=True, patience=patience, nothing_yet=asked.append)
    line.writer.sendall(b"data: one\n\ndata: st")
    assert pull() == [b"one"]
    for error in (LookupError("x"), KeyboardInterrupt()):
        angry.append(error)
        with pytest.raises(type(error)) as caught:
            pull()
        assert caught.value is error
    line.writer.sendall(b"ill\n\n")
    assert pull() == [b"still"]
    assert asked == []


def test_other_threads_run_while_a_pull_waits(line):
    found: list[list[bytes]] = []
    reader = threading.Thread(target=lambda: found.append(line.pull(waits=True)()), daemon=True)
    reader.start()
    time.sleep(SOON)
    line.writer.sendall(b"data: x\n\n")
    reader.join(10)
    assert found == [[b"x"]]


@pytest.mark.parametrize("waits", [False, True])
def test_the_interpreter_lock_is_given_up_by_who_waits_and_by_nobody_else(line, waits):
    """Threads are not made to give it up here, so one that is ready runs as soon as the other does so by itself."""

    def follow():
        gate.acquire()
        ran.append(True)

    gate, ran = threading.Lock(), []
    gate.acquire()
    other = threading.Thread(target=follow, daemon=True)
    pull = line.pull(waits=waits, patience=lambda: 0.0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        other.start()
        time.sleep(SOON)  # until it stands at the gate
        gate.release()
        until = time.monotonic() + SOON
        while time.monotonic() < until:  # until it wants the lock
            pass
        assert not ran
        until = time.monotonic() + (5 if waits else 0.2)
        while not ran and time.monotonic() < until:
            pull()
        assert bool(ran) is waits
    finally:
        sys.setswitchinterval(before)
        other.join(10)
    assert ran


# --- much of what completes nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [30.0, 0.0])
def test_a_flood_of_comments_is_told_after_64_reads_at_most(packets, patience):
    for _ in range(200):
        packets.writer.send(b":\n")
    wire = Wire(chunked=False, length=None)
    told: list[tuple[int, int]] = []

    def nothing_yet(status):
        told.append((status, wire.content // 2))
        return "asked"

    pull = packets.pull(waits=True, patience=lambda: patience, nothing_yet=nothing_yet, wire=wire)
    begun = 0
    while begun < 200 - 64:
        assert pull() == "asked"
        status, content = told[-1]
        assert status == WIRE_MORE
        assert 0 < content - begun <= 64
        begun = content


def test_a_drizzle_of_comments_is_told_by_the_clock(packets, helper):
    """Few reads, which no counting would tell: what has been decided elsewhere must be seen all the same."""

    def drizzle():
        for _ in range(60):
            packets.writer.send(b":\n")
            time.sleep(0.005)
        packets.writer.send(b"data: x\n\n")

    told: list[int] = []
    pull = packets.pull(waits=True, nothing_yet=told.append)
    helper(drizzle, 0)
    assert pull() == [b"x"]
    assert set(told) == {WIRE_MORE}
    assert len(told) > 3


def test_signals_are_served_in_a_flood_of_comments(line, alarm):
    """Nothing is ever waited for in it, so nothing is interrupted."""

    def flood():
        while not over.is_set():
            line.writer.sendall(b":" + b"x" * 98 + b"\n")
        line.writer.sendall(b"\ndata: x\n\n")

    def ring(_number, _frame):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Rung

    over = threading.Event()
    told: list[int] = []
    pull = line.pull(waits=True, nothing_yet=told.append)
    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    stop = threading.Timer(40, over.set)
    stop.start()
    alarm(ring, 0.2)
    begun = time.monotonic()
    with pytest.raises(Rung):
        pull()
    assert time.monotonic() - begun < 20
    assert WIRE_MORE in told
    stop.cancel()
    over.set()
    assert pull() == [b"x"]
    thread.join(10)


# --- several on one thread ----------------------------------------------------------------------------------------------


def stream_of(name: bytes) -> tuple[list[bytes], list[object]]:
    """Parts of a stream of named events, none of which is whole in one part, and what they are."""
    stream = b"".join(b"event: %s\ndata: %s %d\n\n" % (name, name * 40, n) for n in range(60))
    parts = [stream[at : at + 61] for at in range(0, len(stream), 61)]
    return parts, SSEDecoder().payloads(stream)


@pytest.mark.parametrize(("waits", "holds"), [(False, False), (True, False), (True, True)])
def test_streams_read_within_each_others_callbacks_do_not_disturb_each_other(waits, holds):
    """The buffer that a read goes to is the thread's. Nothing is in it when Python is called."""
    names = [b"a", b"b", b"c"]
    lines = [opened(socket.SOCK_STREAM) for _ in names]
    ends = [next(one) for one in lines]
    try:
        parts, expected = zip(*map(stream_of, names), strict=True)
        given: list[list[object]] = [[] for _ in names]
        pulls: list[Callable[[], Any]] = []
        depth = []

        def step(number: int) -> None:
            """One more part of a stream, read within whatever is being read."""
            if parts[number]:
                ends[number].writer.sendall(parts[number].pop(0))
            depth.append(number)
            batch = pulls[number]()
            depth.pop()
            if isinstance(batch, list):
                given[number] += batch

        def others(number: int) -> None:
            if len(depth) < 3:
                for other in range(len(names)):
                    if other not in depth and other != number:
                        step(other)

        room = read_room()  # the thread's, for all of them

        def puller(number: int) -> Callable[[], Any]:
            """As SSEDecoder.puller, but with the others read before anything is done with what was read."""
            decoder, wire = SSEDecoder(), Wire(chunked=False, length=None)

            def nothing_yet(_status: int) -> str:
                others(number)
                return "nothing"

            def patience() -> float:
                others(number)
                return 0.002 if holds else 0.0  # then they are asked after a read, too, before it is looked at

            def otherwise(status: int, content: bytes, found: list[Any]) -> Any:
                others(number)
                return decoder._after_read(wire, nothing_yet, status, content, found)

            fd, wake = ends[number].reader.fileno(), ends[number].wakes if waits else -1
            buffer = int(_native.ffi.cast("uintptr_t", room)) if waits else 0
            timers = Timers(patience, holds=holds)
            return lambda: _native.pull(wire.address, decoder._address, fd, wake, timers, otherwise, buffer)

        pulls += [puller(number) for number in range(len(names))]
        while any(parts):
            for number in range(len(names)):
                step(number)
        for number in range(len(names)):
            step(number)
        assert given == list(expected)
        assert all(isinstance(event, Frame) for event in given[0])
    finally:
        for one in lines:
            next(one, None)


def test_a_pull_that_is_not_to_wait_reads_as_much_as_was_said(line):
    """With many streams the loop has less read at a time."""
    event = b"data: x\n\n"
    line.writer.sendall(event * 1000)
    pulls = [line.pull(waits=waits, wire=Wire(chunked=False, length=None)) for waits in (False, True)]
    try:
        read_at_most(10 * len(event))
        assert [len(pulls[0]()) for _ in range(3)] == [10, 10, 10]
        assert len(pulls[1]()) == 970
    finally:
        read_at_most(65536)
    line.writer.sendall(event * 1000)
    assert len(pulls[0]()) == 1000
