"""The hand-over: in order, bounded, and nobody sleeps through the end."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from worker_adapters import Timeouts, waiting
from worker_adapters.lifetime import Cause, Lifetime
from worker_adapters.runtime.channel import Channel

from ..timers import SOON, at_once


class Stream:
    """A running stream, as far as its hand-over is concerned."""

    def __init__(self, size=4):
        self.running = SimpleNamespace(lifetime=Lifetime(Timeouts()), over=False, moves=0, record=None)
        self.channel = Channel(self.running, size)
        self.running.lifetime.waker = SimpleNamespace(wake=self.channel.wake)

    def end(self, terminal="end"):
        self.running.over = True
        self.channel.wake()

    def take(self, **given):
        hand = self.channel.take(**given)
        return None if hand is None else list(hand)


def in_thread(work, *args):
    thread = threading.Thread(target=work, args=args)
    thread.start()
    return thread


def test_everything_arrives_in_order_and_never_more_than_the_bound_and_one_run_is_unfinished():
    stream, room = Stream(), threading.Event()
    channel, given, unfinished, handed = stream.channel, [], [], [0]
    channel.room = room.set

    def produce():
        for start in range(0, 301, 7):
            while channel.full:
                channel.parked = True
                if channel.full:
                    assert room.wait(5)
                room.clear()
                channel.parked = False
            channel.put(list(range(start, start + 7)))
            handed[0] += 7
        stream.end()

    producer = in_thread(produce)
    while run := stream.take():
        unfinished.append(handed[0] - len(given))
        given += run
    producer.join()
    assert given == [*range(301)]
    assert max(unfinished) <= 4 - 1 + 7


def test_what_the_consumer_has_not_finished_with_counts():
    stream, room = Stream(), []
    channel = stream.channel
    channel.put([1, 2, 3, 4])
    assert channel.full
    channel.room, channel.parked = lambda: room.append(1), True
    assert stream.take() == [1, 2, 3, 4]
    assert (channel.full, room) == (True, [])  # four events are still in the consumer's hands
    with pytest.raises(TimeoutError):
        stream.take(until=0.0)
    assert (channel.full, room) == (False, [1])


def test_a_run_that_was_not_received_is_given_again():
    """An exception of a signal handler may strike between taking it and iterating it."""
    stream = Stream()
    stream.channel.put([1, 2])
    assert list(stream.channel.take()) == [1, 2]
    stream.channel.put([3, 4])
    lost = stream.channel.take()
    assert next(lost) == 3
    assert stream.take() == [4]


def test_a_consumer_is_woken_by_a_run_by_a_cancel_and_by_the_end():
    """Blocked already, or just about to: nothing tells from outside, and both must do."""
    for n in range(100):
        stream, taken = Stream(), []
        consumer = in_thread(lambda stream=stream, taken=taken: taken.append(stream.take()))
        expected = None
        if n % 3 == 0:
            stream.channel.put(expected := [1])
        elif n % 3 == 1:
            stream.running.lifetime.trip(Cause.CANCELLED)
        else:
            stream.end()
        consumer.join(5)
        assert taken == [expected]


def test_a_consumer_waits_for_the_terminal_event_when_the_deadline_passes():
    stream, taken = Stream(), []
    consumer = in_thread(lambda: taken.append(stream.take()))
    stream.running.lifetime.trip(Cause.DEADLINE)
    assert taken == []
    stream.end("error")
    consumer.join(5)
    assert taken == [None]


def test_what_came_before_the_end_is_taken_before_it():
    stream = Stream()
    stream.channel.put([1, 2, 3, 4])
    stream.channel.put(["metrics"])  # the last run, which always fits
    stream.end()
    assert [stream.take(), stream.take(), stream.take(), stream.take()] == [[1, 2, 3, 4], ["metrics"], None, None]


def test_a_run_goes_over_whole_where_there_is_any_room():
    """Its events exist already: cut up, they would only wait on the other side."""
    stream = Stream()
    stream.channel.put([1, 2, 3])
    assert not stream.channel.full
    stream.channel.put(list(range(10)))
    assert [len(stream.take()), len(stream.take())] == [3, 10]


def test_a_wake_up_that_is_older_than_the_end_does_not_hide_it(monkeypatch):
    monkeypatch.setattr(waiting, "MAIN_THREAD_SECONDS", 2 * SOON)
    stream = Stream()
    stream.channel.wake()
    stream.running.lifetime.wake()
    stream.end()
    with at_once():
        assert [stream.take(), stream.take()] == [None, None]


def test_a_limit_of_time_loses_nothing():
    stream = Stream()
    with pytest.raises(TimeoutError):
        stream.take(until=time.monotonic() + 0.01)
    stream.channel.put([1])
    assert stream.take(until=0.0) == [1]  # what is there needs no time


def test_a_collector_takes_the_bound_away():
    stream, room = Stream(), []
    stream.channel.put([1, 2, 3, 4])
    stream.channel.room, stream.channel.parked = lambda: room.append(1), True
    stream.channel.collect()
    assert (stream.channel.full, room) == (False, [1])
    stream.channel.put([5])
    events = []
    stream.channel.empty_into(events)
    assert events == [1, 2, 3, 4, 5]
