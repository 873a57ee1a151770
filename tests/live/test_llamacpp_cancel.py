"""A real llama-server and callers that go away, wait in its queue, or do not read; and two hundred streams at once.

Slots are watched in the server's log: asking for them often keeps the engine from noticing that a client left.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest
import tiny_gguf
from asking import (
    MODES,
    ask,
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
from llama_server import SLOT_POLL, LlamaServer

from worker_adapters import CancelOutcome, End, Retry, Timeouts, Token, connect
from worker_adapters.testing import no_leaks

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001")]

AT_ONCE = 0.5  # seconds; generous on a busy machine, and far below any timer
LAUNCHED = r"launch_slot_: .*processing task"
RELEASED = r"slot +release"
DEFERRED = "no slot is available, defer task"
DEBUG = ["-lv", "5"]  # to see requests being queued


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def endless():
    """A model whose context takes many seconds to fill."""
    return tiny_gguf.model(tiny_gguf.Options(ctx=65536))


@pytest.fixture(scope="module")
def server(endless):
    with LlamaServer(model=endless, ctx=65536) as running:
        yield running


@pytest.fixture(scope="module")
def adapter(server):
    with connect("llamacpp", server.url) as made:
        yield made


class Reader:
    """Reads a stream on a thread of its own, as a caller would that is cancelled by somebody else."""

    def __init__(self, stream):
        self.events = []
        self._stream = stream
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        for event in self._stream:
            self.events.append(event)

    def join(self, seconds):
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        assert_lawful(self.events)
        return self.events


def assert_cancelled(events, *, started):
    last = events[-1]
    assert isinstance(last, End)
    assert (last.finish_reason, last.finish_reason_source) == ("cancelled", "inferred")
    assert (len(events) > 1) is started


# --- cancel, phase by phase -----------------------------------------------------------------------------------------


def test_cancel_between_tokens(server, adapter, mode):
    mark = len(server.log_text())
    with start(adapter, long_request(), mode) as stream:
        events = through_first_token(stream)
        began = time.monotonic()
        assert adapter.cancel(stream.task_id) is CancelOutcome.CLOSED
        assert stream.cancel() is CancelOutcome.CLOSED
        events += stream
        assert time.monotonic() - began < AT_ONCE
        assert_lawful(events)
        assert_cancelled(events, started=True)
        assert events[-1].tokens_out > 0
        assert adapter.cancel(stream.task_id) is CancelOutcome.UNKNOWN
    server.wait_for_log(RELEASED, 2.0, start=mark)


def test_cancel_while_the_consumer_waits_for_the_next_token(server, adapter, mode):
    mark = len(server.log_text())
    stream = start(adapter, long_request(), mode)
    reader = Reader(stream)
    server.wait_for_log(LAUNCHED, start=mark)
    until(lambda: any(isinstance(event, Token) for event in reader.events), pause=0.01)
    stream.cancel()
    assert_cancelled(reader.join(AT_ONCE), started=True)
    server.wait_for_log(RELEASED, 2.0, start=mark)


def test_cancel_while_the_prompt_is_processed(server, adapter, mode):
    """The engine looks once a second, and between two batches."""
    mark = len(server.log_text())
    stream = start(adapter, long_request(prompt="door " * 30000), mode, Timeouts(first_token=None))
    reader = Reader(stream)
    server.wait_for_log(LAUNCHED, start=mark)
    stream.cancel()
    assert_cancelled(reader.join(AT_ONCE), started=False)
    released = server.wait_for_log(RELEASED + r": .*n_tokens = (\d+)", start=mark)
    assert int(released[1]) < 30000  # of more than 30000


def test_leaving_the_with_block_cancels(server, adapter, mode):
    mark = len(server.log_text())
    with start(adapter, long_request(), mode) as stream:
        through_first_token(stream)
    server.wait_for_log(RELEASED, 2.0, start=mark)


def test_dropping_the_stream_cancels(server, adapter, mode):
    mark = len(server.log_text())
    stream = start(adapter, long_request(), mode)
    through_first_token(stream)
    del stream
    server.wait_for_log(RELEASED, 2.0, start=mark)


def test_cancel_of_a_stream_that_nobody_reads(server, adapter):
    """The hand-over is full, and the engine runs ahead: what it has made meanwhile is dropped."""
    mark = len(server.log_text())
    stream = adapter.submit(long_request())
    server.wait_for_log(LAUNCHED, start=mark)
    time.sleep(SLOT_POLL)  # nobody reads
    stream.cancel()
    assert_cancelled(list(stream), started=False)  # what lay in the hand-over is dropped too
    server.wait_for_log(RELEASED, 2.0, start=mark)


def test_closing_the_adapter_cancels_all(server):
    mark = len(server.log_text())
    other = connect("llamacpp", server.url)
    streams = [other.submit(long_request()) for _ in range(2)]
    for stream in streams:
        through_first_token(stream)
    began = time.monotonic()
    other.close()
    assert time.monotonic() - began < AT_ONCE
    for stream in streams:
        assert_cancelled(list(stream), started=False)
    until(lambda: server.log_text()[mark:].count("release:") == 2, pause=0.05, timeout=2.0)


def test_a_slow_reader_loses_nothing_and_does_not_slow_the_engine(server, adapter):
    """Traits.backpressure is false: the engine finishes while its reader sleeps, and all of it arrives after that."""
    asked = request(max_tokens=600, ignore_eos=True)
    mark = len(server.log_text())
    with adapter.submit(asked, timeouts=Timeouts(idle=0.2)) as stream:
        events = through_first_token(stream)
        server.wait_for_log(RELEASED, start=mark)
        time.sleep(0.5)  # longer than the idle timer, which is the engine's and stands still meanwhile
        events += stream
    assert_lawful(events)
    assert events[-1].tokens_out == 600
    assert text(events) == text(run(adapter, asked, "stream"))


# --- queueing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(endless):
    """A server whose only slot is taken: the server, an adapter, and the stream in the slot."""
    with (
        LlamaServer(model=endless, slots=1, ctx=32768, extra=DEBUG) as server,
        connect("llamacpp", server.url) as adapter,
        adapter.submit(long_request()) as first,
    ):
        through_first_token(first)
        yield server, adapter, first


def test_a_queued_request_waits_its_turn(busy, mode):
    server, adapter, first = busy
    reader = Reader(start(adapter, request(), mode))
    server.wait_for_log(DEFERRED)
    assert reader.events == []  # not even a status line
    first.cancel()
    events = reader.join(10.0)
    assert events[-1].tokens_out == 64


def test_cancel_in_the_queue_is_at_once_for_us_and_unseen_by_the_engine(busy, mode):
    """Traits.cancel is never_while_queued: the engine starts the dead request when its turn comes, and then finds out."""
    server, adapter, first = busy
    stream = start(adapter, long_request(), mode)
    reader = Reader(stream)
    server.wait_for_log(DEFERRED)
    mark = len(server.log_text())
    stream.cancel()
    assert_cancelled(reader.join(AT_ONCE), started=False)
    time.sleep(SLOT_POLL)
    assert "cancel task" not in server.log_text()[mark:]
    assert adapter.properties(scrape=True).queue_depth == 1
    first.cancel()
    server.wait_for_log(r"cancel task[\s\S]*" + LAUNCHED + r"[\s\S]*cancel task[\s\S]*" + RELEASED, start=mark)
    assert text(ask(adapter, mode))


def test_no_first_token_in_the_queue_is_typed_and_not_asked_again(busy, mode):
    server, adapter, _first = busy
    began = time.monotonic()
    events = run(adapter, request(), mode, Timeouts(first_token=0.5))
    assert 0.45 < time.monotonic() - began < 2
    error = assert_error(events, "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT", "queue")
    assert (error.attempts, error.retriable) == (1, True)
    assert "0.5" in error.message
    assert len(server.log_text().split(DEFERRED)) == 2  # sent once


# --- soak -----------------------------------------------------------------------------------------------------------

STREAMS, AT_A_TIME = 200, 16


def test_two_hundred_streams_sixteen_at_a_time_a_third_cancelled():
    """Every stream ends lawfully; no slot, thread or socket is left."""
    chance = random.Random(5001)
    plans = [
        (number, chance.choice(MODES), chance.uniform(0, 0.4) if chance.random() < 1 / 3 else None)
        for number in range(STREAMS)
    ]
    waiting, results, lock = iter(plans), {}, threading.Lock()

    def work(adapter):
        while True:
            with lock:
                plan = next(waiting, None)
            if plan is None:
                return
            number, mode, after = plan
            asked = request(task_id=f"soak-{number}", seed=number, max_tokens=80, ignore_eos=True)
            with start(adapter, asked, mode) as stream, _cancelled(adapter, asked.task_id, after):
                events = list(stream)
            with lock:
                results[number] = events

    with LlamaServer(slots=4) as server:
        with no_leaks(), connect("llamacpp", server.url, retry=Retry(attempts=1)) as adapter:
            threads = [threading.Thread(target=work, args=(adapter,)) for _ in range(AT_A_TIME)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert len(results) == STREAMS
        server.idle_slots()
        assert sum(slot["is_processing"] for slot in server.slots()) == 0
    whole = {}
    for number, _, after in plans:
        assert_lawful(results[number])
        last = results[number][-1]
        assert isinstance(last, End), last
        if after is None:
            assert (last.finish_reason, last.tokens_out) == ("length", 80)
            whole[number] = text(results[number])
    cancelled = sum(results[number][-1].finish_reason == "cancelled" for number, _, _ in plans)
    assert cancelled > 20
    assert len(set(whole.values())) == len(whole)


@contextlib.contextmanager
def _cancelled(adapter, task_id, after):
    if after is None:
        yield
        return
    timer = threading.Timer(after, adapter.cancel, (task_id,))
    timer.start()
    try:
        yield
    finally:
        timer.join()
