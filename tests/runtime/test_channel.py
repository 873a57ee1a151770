"""The hand-over: in order, bounded, and nobody sleeps through the end."""

from __future__ import annotations

import threading
import time

import pytest

from worker_adapters import Timeouts
from worker_adapters.lifetime import Cause, Interrupted, Lifetime
from worker_adapters.runtime.channel import Channel

from .dialects import until


@pytest.fixture
def lifetime():
    lifetime = Lifetime(Timeouts())
    yield lifetime
    lifetime.finish()


@pytest.fixture
def channel(lifetime):
    channel = Channel(4, lifetime, time.monotonic)
    lifetime.attach(channel.wake)
    return channel


def in_thread(work, *args):
    thread = threading.Thread(target=work, args=args)
    thread.start()
    return thread


def test_everything_arrives_in_order_and_never_more_than_the_bound_and_one_run_is_unfinished(channel):
    given, unfinished, handed = [], [], [0]

    def produce():
        for start in range(0, 301, 7):
            channel.put(list(range(start, start + 7)))
            handed[0] += 7
        channel.finish(["end"])

    producer = in_thread(produce)
    while run := channel.take():
        unfinished.append(handed[0] - len(given))
        given += run
    producer.join()
    assert given == [*range(301), "end"]
    assert max(unfinished) <= 4 - 1 + 7


def test_what_the_consumer_has_not_finished_with_counts(channel):
    channel.put([1, 2, 3, 4])
    assert channel.take() == [1, 2, 3, 4]
    put = threading.Event()
    producer = in_thread(lambda: (channel.put([5]), put.set()))
    until(lambda: channel._gate)  # it waits: four events are still in the consumer's hands
    assert not put.is_set()
    assert channel.take() == [5]
    producer.join()


def test_the_time_a_producer_is_blocked_is_measured(lifetime):
    now = [0.0]
    channel = Channel(1, lifetime, lambda: now[0])
    channel.put([1])
    producer = in_thread(channel.put, [2])
    until(lambda: channel._gate)
    now[0] = 3.5
    assert channel.take() == [1]
    assert channel.take() == [2]
    producer.join()
    assert channel.blocked_seconds == 3.5


@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.DEADLINE, Cause.IDLE_TIMEOUT])
def test_a_blocked_producer_is_woken(channel, lifetime, cause):
    caught = []

    def produce():
        try:
            channel.put(list(range(9)))
            channel.put([9])
        except Interrupted as exc:
            caught.append(exc.cause)

    producer = in_thread(produce)
    until(lambda: channel._gate)
    lifetime.trip(cause)
    producer.join(5)
    assert caught == [cause]


def test_a_consumer_is_woken_by_a_cancel(channel, lifetime):
    """Blocked already, or just about to: nothing tells from outside, and both must do."""
    taken = []
    consumer = in_thread(lambda: taken.append(channel.take()))
    lifetime.trip(Cause.CANCELLED)
    consumer.join(5)
    assert taken == [[]]


def test_a_consumer_waits_for_the_terminal_event_when_the_deadline_passes(channel, lifetime):
    taken = []
    consumer = in_thread(lambda: taken.append(channel.take()))
    lifetime.trip(Cause.DEADLINE)
    channel.finish(["error"])
    consumer.join(5)
    assert taken == [["error"]]


def test_the_terminal_run_always_fits(channel):
    channel.put([1, 2, 3, 4])
    channel.finish(["metrics", "end"])
    assert channel.take() == [1, 2, 3, 4]
    assert channel.take() == ["metrics", "end"]
    assert channel.take() == []


def test_a_run_goes_over_whole_where_there_is_any_room(channel):
    """Its events exist already: cut up, they would only wait on the other side."""
    channel.put([1, 2, 3])
    channel.put(list(range(10)))
    assert [len(channel.take()), len(channel.take())] == [3, 10]


def test_a_wake_up_that_is_older_than_the_end_does_not_hide_it(channel):
    channel.wake()
    channel.wake()
    channel.finish(["end"])
    assert [channel.take(), channel.take(), channel.take()] == [["end"], [], []]
