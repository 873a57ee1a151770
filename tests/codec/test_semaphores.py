"""Binary semaphores, and a poll that releases them without the interpreter lock (csrc/semaphores.c)."""

from __future__ import annotations

import datetime
import os
import select
import signal
import sys
import threading
import time
from queue import SimpleQueue

import pytest

from worker_adapters.codec import _native, semaphores
from worker_adapters.polling import _Polls, poller
from worker_adapters.waiting import READ

from .test_native import flat

LINUX = pytest.mark.skipif(semaphores.release_and_poll is None, reason="there is no epoll")
FOR_EVER = 1e9
SLICE = 0.05  # seconds: a signal that comes just before a wait does not end it (waiting.MAIN_THREAD_SECONDS)


@pytest.fixture(params=["epoll", "poll"])
def ready(request):
    """`ready` of a poller at which nothing ever is."""
    one = poller() if request.param == "epoll" else _Polls()
    yield one.ready
    one.close()


def passing(semaphore, times=1):
    """A thread that goes through it so often, and tells each time."""
    passed = SimpleQueue()

    def run():
        for _ in range(times):
            semaphores.acquire(semaphore, FOR_EVER)
            passed.put(True)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, passed


def test_it_is_binary():
    one = semaphores.semaphore()
    for _ in range(3):
        semaphores.release(one)
    semaphores.acquire(one, FOR_EVER)
    began = time.monotonic()
    semaphores.acquire(one, 0.05)
    assert time.monotonic() - began >= 0.05
    semaphores.release(one)
    semaphores.acquire(one, 0.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("-inf")])
def test_no_time_is_no_wait(seconds):
    semaphores.acquire(semaphores.semaphore(), seconds)


def test_each_release_wakes_who_waits():
    one = semaphores.semaphore()
    thread, passed = passing(one, 50)
    for _ in range(50):
        semaphores.release(one)
        assert passed.get(timeout=30)
    thread.join()


def test_a_signal_s_handler_runs_within_a_wait_which_goes_on():
    one, handled, told = semaphores.semaphore(), [], SimpleQueue()

    def handle(*_):
        handled.append(True)
        told.put(True)
        if len(handled) == 3:
            semaphores.release(one)

    before = signal.signal(signal.SIGUSR1, handle)

    def send():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
            told.get(timeout=30)

    try:
        sender = threading.Thread(target=send)
        sender.start()
        while len(handled) < 3:
            semaphores.acquire(one, SLICE)
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_a_handler_raises_ends_a_wait():
    def handle(*_):
        raise KeyError("told")

    before = signal.signal(signal.SIGUSR1, handle)
    one = semaphores.semaphore()
    sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))

    def wait():
        sender.start()
        while True:
            semaphores.acquire(one, SLICE)

    try:
        with pytest.raises(KeyError, match="told"):
            wait()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    semaphores.release(one)
    semaphores.acquire(one, FOR_EVER)


def test_a_poll_lets_them_all_through(ready):
    ones = [semaphores.semaphore() for _ in range(600)]  # more than are released at once
    assert ready(0.0, [*ones]) == []
    for one in ones:
        semaphores.acquire(one, FOR_EVER)


@LINUX
def test_who_is_let_through_has_its_turn_while_the_poll_goes_on():
    """It polls for ever, and whoever else had the interpreter lock would keep it for five seconds."""
    one, ends, interval = semaphores.semaphore(), os.pipe(), sys.getswitchinterval()
    epoll = select.epoll()
    epoll.register(ends[0], select.EPOLLIN)
    sys.setswitchinterval(5.0)
    try:
        thread, passed = passing(one)
        ended = threading.Thread(target=lambda: (thread.join(), os.write(ends[1], b"x")))
        ended.start()
        assert semaphores.release_and_poll(epoll.fileno(), FOR_EVER, [one]) == [ends[0]]
        assert passed.get(timeout=30)
        ended.join()
    finally:
        sys.setswitchinterval(interval)
        epoll.close()
        for end in ends:
            os.close(end)


def test_a_poll_says_what_is_ready():
    ends = os.pipe()
    for one in (poller(), _Polls()):
        one.register(ends[0], READ)
        assert one.ready(0.0, []) == []
        os.write(ends[1], b"x")
        assert one.ready(FOR_EVER, []) == [ends[0]]
        os.read(ends[0], 1)
        one.unregister(ends[0])
        one.close()
    for end in ends:
        os.close(end)


@LINUX
def test_a_poll_that_fails_has_released_them():
    one = semaphores.semaphore()
    with pytest.raises(OSError, match="Bad file descriptor"):
        semaphores.release_and_poll(-1, FOR_EVER, [one])
    thread, passed = passing(one)
    thread.join()
    assert passed.get(timeout=30)


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("semaphore", (1,)),
        ("acquire", ()),
        ("acquire", (None, 1.0)),
        ("release", ()),
        ("release", (1,)),
        ("release", (datetime.datetime_CAPI,)),  # another's capsule
        ("read_at_most", ()),
        ("read_at_most", (0,)),
        ("read_at_most", (65537,)),
        ("read_at_most", (-1,)),
        ("read_at_most", ("1",)),
    ],
)
def test_what_they_can_not_use_is_refused(call, args):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        getattr(_native, call)(*args)


@LINUX
@pytest.mark.parametrize(
    "args",
    [(), (1, 1.0), ("1", 1.0, []), (1, "1", []), (1, 1.0, ()), (1, 1.0, None), (1, 1.0, [None]), (2**40, 1.0, [])],
)
def test_a_poll_refuses_what_it_can_not_use(args):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        semaphores.release_and_poll(*args)


def test_they_keep_nothing(ready):
    def work():
        ones = [semaphores.semaphore() for _ in range(10)]
        ready(0.0, ones)
        semaphores.acquire(semaphores.semaphore(), 0.0)

    flat(work)
