"""`event_stream` over streams of either kind: heartbeats, runs, leaving."""

from __future__ import annotations

import gc
import threading
import weakref
from itertools import count, islice

import pytest

from worker_adapters import End, Error, FinishReason, GenerateRequest, Started, Token, event_stream, parse_events
from worker_adapters.serving import HEARTBEAT, Framer
from worker_adapters.testing import SimulatedWorker
from worker_adapters.transport.scripted import Hang, Script

from ..runtime.dialects import adapter, counted, end, request, tokens, until

WAYS = pytest.mark.parametrize("way", ["stream", "submit"])


@WAYS
def test_a_stream_comes_out_as_it_is(way):
    with adapter(counted(40), counted(40)) as a:
        task = request(task_id="t1", max_tokens=40)
        body = b"".join(event_stream(getattr(a, way)(task)))
        events = list(parse_events([body]))
        with a.stream(task) as again:
            expected = list(again)
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert [event for event in events if type(event) is Token] == [event for event in expected if type(event) is Token]
    assert b"id: t1:0\n" in body


@WAYS
def test_a_silent_stream_is_kept_alive_by_comments_and_loses_nothing(way):
    hang = Hang()
    with adapter(Script(steps=[tokens(1), hang, tokens(1, first=1) + end(2)])) as a:
        chunks = event_stream(getattr(a, way)(request(max_tokens=2)), heartbeat=0.01)
        seen = []
        for chunk in chunks:
            seen.append(chunk)
            if seen.count(HEARTBEAT) == 3:
                hang.release()
        events = list(parse_events(seen))
    assert [event.text for event in events if type(event) is Token] == ["t0", "t1"]
    assert isinstance(events[-1], End)


@WAYS
def test_what_came_together_goes_out_together(way):
    with adapter(counted(30)) as a:
        chunks = list(event_stream(getattr(a, way)(request(max_tokens=30))))
    assert len(chunks) <= 3  # with the loop, Started may go ahead; the terminal event has a run of its own
    assert sum(chunk.count(b"event: token") for chunk in chunks) == 30


@WAYS
def test_closing_it_cancels_the_stream(way):
    with adapter(Script(steps=[tokens(1), Hang()])) as a:
        stream = getattr(a, way)(request())
        chunks = event_stream(stream, heartbeat=None)
        next(chunks)
        chunks.close()
        assert stream.done()
        assert a.in_flight == 0


@WAYS
def test_dropping_it_cancels_the_stream_also_before_it_began(way):
    with adapter(Script(steps=[tokens(1), Hang()])) as a:
        stream = getattr(a, way)(request())
        gone = weakref.ref(stream)
        chunks = event_stream(stream)
        del stream, chunks
        gc.collect()
        assert gone() is None
        until(lambda: a.in_flight == 0)


def test_a_cancel_from_another_thread_ends_it_with_a_cancelled_end():
    hang = Hang()
    with adapter(Script(steps=[tokens(2), hang])) as a:
        stream = a.submit(request(max_tokens=9))
        threading.Thread(target=lambda: (hang.reached.wait(10), stream.cancel())).start()
        events = list(parse_events(event_stream(stream)))
    assert events[-1].finish_reason is FinishReason.CANCELLED


def test_an_error_alone_is_numbered_too():
    with adapter(Script(status=401, steps=[])) as a:
        body = b"".join(event_stream(a.stream(request(task_id="t9"))))
    assert body.startswith(b"event: error\nid: t9:0\n")
    assert isinstance(next(parse_events([body])), Error)


def test_other_iterables_go_out_one_by_one_and_get_their_task_id_from_started():
    with adapter(counted(3)) as a, a.stream(request(task_id="t1")) as stream:
        events = list(stream)

    asked = []

    def some():
        for event in events:
            asked.append(event)
            yield event

    chunks = event_stream(some())
    assert next(chunks).startswith(b"event: started\nid: t1:0\n")
    assert asked == events[:1]  # nothing is held back for what follows
    assert list(parse_events(chunks)) == events[1:]


def test_a_generator_is_closed_with_it():
    closed = []

    def some():
        try:
            yield Token(index=0, text="a")
            yield Token(index=1, text="b")
        finally:
            closed.append(True)

    chunks = event_stream(some())
    next(chunks)
    chunks.close()
    assert closed == [True]


def test_a_generator_that_raises_has_said_what_it_had_and_raises_through():
    closed = []

    def some():
        try:
            yield Token(index=0, text="a")
            raise KeyError
        finally:
            closed.append(True)

    chunks = event_stream(some())
    assert next(chunks)
    with pytest.raises(KeyError):
        next(chunks)
    assert closed == [True]
    assert next(chunks, None) is None


def test_a_generator_without_end_is_asked_as_far_as_somebody_reads():
    asked = []
    chunks = event_stream(Token(index=n, text="a") for n in count() if not asked.append(n))
    assert len(list(islice(chunks, 100))) == 100
    chunks.close()
    assert len(asked) == 100


@pytest.mark.parametrize("foreign", ["x", b"x", None, {"event": "token", "i": 0, "t": "a"}, object()])
def test_what_is_no_event_is_refused_by_its_kind(foreign):
    for before in ([], [Token(index=n, text="a") for n in range(9)]):
        chunks = event_stream([*before, foreign])
        for _ in before:
            next(chunks)
        with pytest.raises(TypeError, match=f"not {type(foreign).__name__}"):
            next(chunks)
        with pytest.raises(TypeError, match=f"not {type(foreign).__name__}"):
            Framer("t").frames([*before, foreign])


@WAYS
def test_no_heartbeat_follows_the_end(way):
    with adapter(counted(2)) as a:
        stream = getattr(a, way)(request(max_tokens=2))
        chunks = [chunk for chunk in event_stream(stream, heartbeat=1e-9) if chunk != HEARTBEAT]
        assert isinstance([*parse_events(chunks)][-1], End)
        again = event_stream(stream, heartbeat=1e-9)
        assert [*again] == []


@WAYS
def test_a_heartbeat_may_be_as_far_away_as_one_likes(way):
    with adapter(counted(2)) as a:
        chunks = event_stream(getattr(a, way)(request(max_tokens=2)), heartbeat=float("inf"))
        assert isinstance([*parse_events(chunks)][-1], End)


def test_a_stream_of_somebody_else_s_gets_heartbeats():
    class Theirs:
        task_id = "t"

        def __init__(self):
            self.answers = [TimeoutError(), Token(index=0, text="a"), None]
            self.closed = False

        def get(self, timeout=None):
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def cancel(self):
            raise AssertionError

        def close(self):
            self.closed = True

    theirs = Theirs()
    assert list(event_stream(theirs)) == [
        HEARTBEAT,
        b'event: token\nid: t:0\ndata: {"event":"token","i":0,"t":"a"}\n\n',
    ]
    assert theirs.closed


@WAYS
def test_a_client_that_is_known_to_have_gone_ends_it(way):
    with adapter(Script(steps=[tokens(1), Hang()])) as a:
        stream = getattr(a, way)(request())
        looks = iter([False, True])
        chunks = list(event_stream(stream, gone=lambda: next(looks)))
        assert HEARTBEAT not in chunks
        assert stream.done()
        assert next(looks, None) is None


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), "15"])
def test_a_heartbeat_is_a_time(bad):
    with pytest.raises(ValueError, match="heartbeat"):
        event_stream([], heartbeat=bad)


@WAYS
def test_many_at_once_is_what_came_together(way):
    with adapter(counted(5)) as a, getattr(a, way)(request(max_tokens=5)) as stream:
        runs = []
        while run := stream.get_many():
            runs.append(run)
        assert stream.get_many(0.0) == []
    assert isinstance(runs[0][0], Started)
    assert len(runs) <= 3
    assert isinstance(runs[-1][-1], End)
    assert [event.index for run in runs for event in run if type(event) is Token] == [0, 1, 2, 3, 4]


@WAYS
def test_many_at_once_waits_no_longer_than_it_is_told_and_loses_nothing(way):
    hang = Hang()
    with adapter(Script(steps=[hang, tokens(2) + end(2)])) as a:
        stream = getattr(a, way)(request(max_tokens=2), collect=True)
        with pytest.raises(TimeoutError):
            stream.get_many(0.01)
        hang.release()
        seen = []
        while run := stream.get_many(5.0):
            seen += run
        assert [type(event) for event in seen][-1] is End
        assert stream.result().text == "t0t1"


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize(
    "engine", ["llamacpp", "vllm", "tgi", "triton-vllm", "triton-trtllm", "triton-llmapi", "trtllm", "sglang"]
)
def test_every_engine_s_stream_comes_out_and_back_over_sockets(engine):
    says = ["Zoë", " says", "\r\n", "🎈", " end"]
    with SimulatedWorker(engine, says=says) as worker, worker.connect() as a:
        body = b"".join(event_stream(a.submit(GenerateRequest(prompt="x", max_tokens=32))))
    events = list(parse_events([body]))
    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events if type(event) is Token) == "".join(says)
    assert isinstance(events[-1], End)
