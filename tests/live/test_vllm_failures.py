"""A real vLLM under load, cancelled, overloaded, frozen, told to end, and killed under an adapter."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from asking import (
    MODES,
    assert_error,
    assert_lawful,
    long_request,
    request,
    run,
    start,
    text,
    through_first_token,
    until,
)
from vllm_server import VllmServer

from worker_adapters import End, Retry, Timeouts, connect

pytestmark = [pytest.mark.live("vllm"), pytest.mark.req("OC-ADAPT-5020"), pytest.mark.timeout(900)]

ONCE = Retry(attempts=1)
POLL = 0.05  # seconds between two looks at /metrics
CTX = 8192
LONG = (
    16384  # where a stream has to last: at a thousand tokens a second, 8192 may be over before anything is done to it
)
PATIENCE = Timeouts(first_token=20.0, idle=10.0)


def endless(**fields):
    return long_request(**{"max_tokens": CTX - 200, **fields})


def both_ways(adapter, strike):
    """The events of two streams, one by `submit`, one by `stream`, that see the same blow after their first token."""
    begun, events = threading.Event(), []

    def read():
        with adapter.stream(endless(seed=2, max_tokens=LONG - 200)) as stream:
            events.extend(through_first_token(stream))
            begun.set()
            events.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()
    with adapter.submit(endless(seed=1, max_tokens=LONG - 200)) as stream:
        others = through_first_token(stream)
        assert begun.wait(30)
        strike()
        others += stream
    reader.join()
    return events, others


@pytest.fixture(scope="module")
def server():
    with VllmServer(ctx=CTX, seqs=2) as running:
        yield running


@pytest.fixture
def adapter(server):
    with connect("vllm", server.url) as made:
        yield made
    until(lambda: server.running() == server.waiting() == 0, POLL)


def test_cancel_while_decoding(server, adapter):
    with adapter.submit(endless()) as stream:
        events = through_first_token(stream)
        stream.cancel()
        events += stream
    assert_lawful(events)
    assert events[-1].finish_reason == "cancelled"
    until(lambda: server.running() == 0, POLL)


@pytest.mark.parametrize("mode", MODES)
def test_cancel_before_the_first_token(server, adapter, mode):
    """The engine is frozen: the head of the answer has come, and nothing more does."""
    assert text(run(adapter, request(), mode))
    engine = server.engine_pid()
    os.kill(engine, signal.SIGSTOP)
    try:
        with start(adapter, request(), mode) as stream:
            caller = threading.Timer(0.3, stream.cancel)  # while the consumer blocks
            caller.start()
            events = list(stream)
            caller.join()
    finally:
        os.kill(engine, signal.SIGCONT)
    assert_lawful(events)
    assert (events[-1].finish_reason, events[-1].tokens_out) == ("cancelled", 0)


def test_cancel_in_the_queue(server, adapter):
    with adapter.submit(endless(seed=1)) as one, adapter.submit(endless(seed=2)) as two:
        through_first_token(one)
        through_first_token(two)
        with adapter.submit(request()) as third:
            until(lambda: server.waiting() == 1, POLL)
            third.cancel()
            events = list(third)
        assert_lawful(events)
        assert events[-1].finish_reason == "cancelled"
        until(lambda: server.waiting() == 0, POLL)
        one.cancel()
        two.cancel()


def test_two_hundred_streams_with_a_third_cancelled(server, adapter):
    slots, results, lock = threading.Semaphore(16), [], threading.Lock()

    def one(number):
        with slots, adapter.submit(request(seed=number, max_tokens=24, ignore_eos=True)) as stream:
            events = through_first_token(stream)
            if number % 3 == 0:
                stream.cancel()
            events += stream
            with lock:
                results.append((number, events))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    for number, events in results:
        assert_lawful(events)
        assert isinstance(events[-1], End), events[-1]
        if number % 3:
            assert (events[-1].finish_reason, events[-1].tokens_out) == ("length", 24)
        else:  # it may have said everything before the cancel arrived
            assert events[-1].finish_reason in ("cancelled", "length")
    until(lambda: server.running() == 0, POLL)


def test_overload():
    extra = ["--max-num-queued-reqs", "4"]
    with VllmServer(ctx=CTX, seqs=2, extra=extra) as server, connect("vllm", server.url, retry=ONCE) as adapter:
        streams = [adapter.submit(endless(seed=seed)) for seed in range(4)]
        until(lambda: server.running() + server.waiting() == 4, POLL)
        for mode in MODES:
            error = assert_error(run(adapter, request(), mode), "ADMISSION_REJECT", "OVERLOADED", "first_token")
            assert (error.retriable, error.attempts, error.upstream.status) == (True, 1, 503)
        for stream in streams:
            stream.close()


def test_an_engine_frozen_in_mid_stream():
    long = {"max_tokens": LONG - 200}
    with VllmServer(ctx=LONG) as server, connect("vllm", server.url) as adapter:
        with (
            adapter.submit(endless(**long), timeouts=Timeouts(idle=1.0)) as frozen,
            adapter.submit(endless(seed=8, **long)) as other,
        ):
            events = through_first_token(frozen)
            through_first_token(other)
            until(lambda: server.running() == 2, POLL)
            server.signal_engine(signal.SIGSTOP)
            events += frozen
            assert_error(events, "DECODE_TIMEOUT", "IDLE_TIMEOUT", "decode")
            assert adapter.health().ready is True
            assert adapter.health(deep=True).ready is False
            server.signal_engine(signal.SIGCONT)
            assert adapter.health(deep=True).ready is True
            other.cancel()
        until(lambda: server.running() == 0, POLL)


def test_an_engine_killed_in_mid_stream():
    with VllmServer(ctx=LONG) as server, connect("vllm", server.url, retry=ONCE) as adapter:
        for events in both_ways(adapter, lambda: server.signal_engine(signal.SIGKILL)):
            assert_lawful(events)
            error = assert_error(events, "WORKER_RESET", "ENGINE_ERROR", "decode")
            assert (error.retriable, error.attempts) == (True, 1)
        server.wait_exit()
        assert_error(run(adapter, request(), "submit"), "POOL_UNAVAILABLE", "CONNECT", "connect")


def test_a_server_killed_in_mid_stream():
    with VllmServer(ctx=LONG) as server, connect("vllm", server.url) as adapter:
        for events in both_ways(adapter, server.kill):
            assert_lawful(events)
            error = events[-1]
            assert (error.code, error.retriable, error.phase) == ("WORKER_RESET", True, "decode")
            assert error.reason in ("TRUNCATED", "DISCONNECTED")


def test_a_server_told_to_end_aborts_what_runs_and_what_waits():
    """How far it gets differs from run to run: it says so, or its engine dies first, or it falls silent for good."""
    with VllmServer(ctx=LONG, seqs=1) as server, connect("vllm", server.url, retry=ONCE) as adapter:
        runs = adapter.submit(endless(max_tokens=LONG - 200), timeouts=PATIENCE)
        events, begun = [], threading.Event()

        def read():  # all the time: it would hold back what it has to say from one that does not
            for event in runs:
                events.append(event)
                begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(30)
        waits = adapter.submit(request(seed=9), timeouts=PATIENCE)
        until(lambda: server.waiting() == 1, POLL)
        os.kill(server.pid, signal.SIGTERM)
        queued = list(waits)
        reader.join()
        assert_lawful(events)
        assert (events[-1].code, events[-1].reason) in {
            ("WORKER_RESET", "ABORTED"),
            ("WORKER_RESET", "ENGINE_ERROR"),
            ("DECODE_TIMEOUT", "IDLE_TIMEOUT"),
        }
        (refused,) = queued
        assert refused.code == "POOL_UNAVAILABLE"
        assert refused.reason in ("EMPTY", "ENGINE_ERROR", "FIRST_TOKEN_TIMEOUT")
        assert events[-1].retriable
        assert refused.retriable
