"""The replay log: every reader gets all of it, from wherever it goes on, or is told that it can't."""

from __future__ import annotations

import contextlib
import gc
import random
import threading

import attrs
import pytest

from worker_adapters import (
    End,
    Error,
    ErrorCode,
    FinishReason,
    Reason,
    Recording,
    ReplayLog,
    Started,
    Token,
    WorkerError,
    begin_stream,
    event_stream,
    parse_events,
)
from worker_adapters.serving import HEARTBEAT
from worker_adapters.transport.scripted import Hang, Script

from ..api.test_event_records import END, STARTED
from ..runtime.dialects import adapter, busy, counted, end, request, tokens, until

TEXTS = ["Zoë", "\n\n", "data: x", "🎈"] * 5
EVENTS = [STARTED, *(Token(index=n, text=text) for n, text in enumerate(TEXTS)), END]
WHOLE = b"".join(event_stream(EVENTS))
WAYS = pytest.mark.parametrize("way", ["stream", "submit"])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def recorded(log, task_id="t1", events=EVENTS, run=3, **options):
    with Recording(log, task_id, **options) as recording:
        for at in range(0, len(events), run):
            recording.append(events[at : at + run])
    return recording


def read(log, *args, **options) -> bytes:
    return b"".join(log.read(*args, heartbeat=None, **options))


def refusal(body: bytes) -> Reason:
    (error,) = parse_events([body])
    assert isinstance(error, Error)
    assert error.code is ErrorCode.INVALID_PARAMS
    assert b"id:" not in body
    return error.reason


@pytest.mark.parametrize("run", [1, 3, len(EVENTS)])
def test_what_was_recorded_is_what_the_stream_would_have_said(run):
    log = ReplayLog()
    recorded(log, run=run)
    assert read(log, "t1") == WHOLE


@pytest.mark.parametrize("run", [1, 4, len(EVENTS)])
def test_from_every_event_on_it_goes_on_behind_it(run):
    log = ReplayLog()
    recorded(log, run=run)
    frames = [frame + b"\n\n" for frame in WHOLE.split(b"\n\n")[:-1]]
    for n in range(len(EVENTS)):
        assert read(log, "t1", last_event_id=f"t1:{n}") == b"".join(frames[n + 1 :])


def test_two_readers_of_a_stream_that_runs_each_get_all_of_it():
    log, bodies, gate = ReplayLog(), [b"", b"", b""], threading.Barrier(4)

    def reader(n: int) -> None:
        gate.wait(10)
        bodies[n] = read(log, "t1")

    with Recording(log, "t1") as recording:
        threads = [threading.Thread(target=reader, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        gate.wait(10)
        for event in EVENTS:
            recording.append([event])
        for thread in threads:
            thread.join(10)
    assert bodies == [WHOLE] * 3


def test_a_hundred_reconnects_at_random_offsets_give_the_same_bytes():
    log, rng = ReplayLog(), random.Random(7)
    recorded(log, run=5)
    for _ in range(100):
        cut = rng.randrange(len(WHOLE) + 1)
        got = WHOLE[:cut]
        whole_frames = got.count(b"\n\n")  # what a client dispatches; the rest it throws away
        seen = b"".join(part + b"\n\n" for part in got.split(b"\n\n")[:whole_frames])
        last = f"t1:{whole_frames - 1}" if whole_frames else None
        assert seen + read(log, "t1", last_event_id=last) == WHOLE


def test_who_is_not_the_owner_is_answered_as_for_a_task_that_never_was():
    log = ReplayLog()
    recorded(log, owner="alice")
    theirs = read(log, "t1", owner="bob")
    assert (
        theirs == read(log, "t1") == read(log, "t2", owner="bob") == read(log, "t1", owner="bob", last_event_id="t1:3")
    )
    assert refusal(theirs) is Reason.NOT_FOUND
    assert read(log, "t1", owner="alice") == WHOLE
    assert log.knows("t1", owner="alice")
    assert not log.knows("t1", owner="bob")


@pytest.mark.parametrize(
    "bad",
    [
        "t1:007",
        "t1:+1",
        "t1:1_0",
        "t1:\u0663",
        "t1:\ud800",
        "t1:1\r\nid: t1:2",
        "x" * 100_000,
        "t1:22",
        "t1:999999999999999999999",
        "t1:-1",
        "t1:",
        "t1",
        "22",
        "t2:1",
        "t1:²",
        "t1:1 ",
        "t1:0x1",
        ":1",
    ],
)
def test_an_id_that_was_never_given_out_is_unknown(bad):
    log = ReplayLog()
    recorded(log)
    unknown = read(log, "t2")
    assert read(log, "t1", last_event_id=bad) == unknown
    assert refusal(unknown) is Reason.NOT_FOUND


def test_what_is_too_much_goes_oldest_first_and_who_asks_for_it_is_told():
    log = ReplayLog(max_bytes=2000)
    recorded(log, run=1)
    assert log.size <= 2000
    assert refusal(read(log, "t1")) is Reason.REPLAY_GONE
    assert refusal(read(log, "t1", last_event_id="t1:2")) is Reason.REPLAY_GONE
    last = read(log, "t1", last_event_id=f"t1:{len(EVENTS) - 2}")
    assert list(parse_events([last])) == [END]


def test_a_reader_that_is_overtaken_is_told_and_gets_nothing_after_that():
    log = ReplayLog(max_bytes=2000)
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:1])
        slow = log.read("t1", heartbeat=None)
        next(slow)
        for event in EVENTS[1:-1]:
            recording.append([event])
        (error,) = parse_events(slow)
        assert error.reason is Reason.REPLAY_GONE
        recording.append([END])


def test_what_is_too_old_goes():
    clock = Clock()
    log = ReplayLog(max_age=10, clock=clock)
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:4])
        clock.now = 8
        recording.append(EVENTS[4:])
        clock.now = 11
        assert refusal(read(log, "t1")) is Reason.REPLAY_GONE
        assert list(parse_events([read(log, "t1", last_event_id="t1:3")])) == EVENTS[4:]
    clock.now = 19
    assert refusal(read(log, "t1", last_event_id="t1:3")) is Reason.NOT_FOUND
    assert (len(log), log.size) == (0, 0)


def test_many_tasks_are_bounded_together():
    log = ReplayLog(max_bytes=20_000)
    for n in range(200):
        recorded(log, f"t{n}", [attrs.evolve(STARTED, task_id=f"t{n}"), END], run=2)
        assert log.size <= 20_000
    assert 5 < len(log) < 100
    assert log.knows("t199")
    assert not log.knows("t0")


def test_a_task_is_recorded_once_and_to_its_end():
    log = ReplayLog()
    recording = recorded(log)
    with pytest.raises(ValueError, match="already"):
        Recording(log, "t1")
    with pytest.raises(RuntimeError, match="over"):
        recording.append([END])


def test_what_is_no_event_is_not_recorded_and_the_numbers_go_on_as_if_it_had_not_come():
    log = ReplayLog()
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:2])
        recording.append([])
        with pytest.raises(TypeError):
            recording.append([*EVENTS[2:], "x"])
        recording.append(EVENTS[2:])
    assert read(log, "t1") == WHOLE


def test_a_recording_that_is_left_without_an_end_gets_one():
    log = ReplayLog()
    with contextlib.suppress(KeyError), Recording(log, "t1") as recording:
        recording.append([STARTED])
        raise KeyError
    *_, error = parse_events([read(log, "t1")])
    assert (error.code, error.reason) == (ErrorCode.INTERNAL, Reason.BUG)


def test_a_silent_task_is_kept_alive_by_comments():
    log = ReplayLog()
    with Recording(log, "t1") as recording:
        reader = log.read("t1", heartbeat=0.005)
        assert [next(reader) for _ in range(3)] == [HEARTBEAT] * 3
        recording.append(EVENTS)
        assert b"".join(reader) == WHOLE


def test_a_reader_whose_client_is_known_to_have_gone_ends():
    log = ReplayLog()
    looks = iter([False, True])
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:2])
        events = list(parse_events(log.read("t1", gone=lambda: next(looks))))
        assert events == EVENTS[:2]
        recording.append([END])


# --- recording a stream -----------------------------------------------------------------------------------------------


def in_thread(recording, stream, **options):
    ends = []
    thread = threading.Thread(target=lambda: ends.append(recording.follow(stream, **options)))
    thread.start()
    return thread, ends


@WAYS
def test_a_stream_is_recorded_to_its_end(way):
    log = ReplayLog()
    with adapter(counted(30)) as a, Recording(log, "t1") as recording:
        last = recording.follow(
            getattr(a, way)(request(task_id="t1", max_tokens=30)),
            amend=lambda started: attrs.evolve(started, queue_position=3),
        )
        events = list(parse_events(log.read("t1")))
    assert events[-1] == last
    assert isinstance(last, End)
    assert isinstance(events[0], Started)
    assert events[0].queue_position == 3
    assert [event.text for event in events if type(event) is Token] == [f"t{n}" for n in range(30)]


@WAYS
def test_who_does_not_read_is_waited_for(way):
    """Recording stops within the window, and goes on when somebody reads."""
    log = ReplayLog()
    steps = [tokens(10, first=n) for n in range(0, 2000, 10)]
    with adapter(Script(steps=[*steps, end(2000)])) as a, Recording(log, "t1", window=4000) as recording:
        thread, ends = in_thread(recording, getattr(a, way)(request(task_id="t1", max_tokens=2000)))
        size = 0
        while size != log.size or size < 4000:  # until it stands still
            size = log.size
            thread.join(0.1)
        assert size < 8000
        events = list(parse_events(log.read("t1")))
        thread.join(10)
    assert sum(type(event) is Token for event in events) == 2000
    assert ends == [events[-1]]


@WAYS
def test_a_cancel_reaches_a_recording_that_waits_for_its_readers(way):
    log = ReplayLog()
    steps = [tokens(10, first=n) for n in range(0, 2000, 10)]
    with adapter(Script(steps=[*steps, end(2000)])) as a, Recording(log, "t1", window=4000) as recording:
        stream = getattr(a, way)(request(task_id="t1", max_tokens=2000))
        thread, ends = in_thread(recording, stream)
        until(lambda: log.size > 4000)
        stream.cancel()
        thread.join(10)
        (last,) = ends
        assert last.finish_reason is FinishReason.CANCELLED
        assert [*parse_events(log.read("t1"))][-1] == last


@WAYS
def test_a_stream_that_nobody_reads_is_cancelled_after_a_grace_time(way):
    clock = Clock()
    log = ReplayLog(clock=clock)
    with adapter(Script(steps=[tokens(1), Hang()])) as a, Recording(log, "t1", grace=10.0) as recording:
        thread, ends = in_thread(recording, getattr(a, way)(request(task_id="t1")))
        reader = log.read("t1", heartbeat=0.01)
        next(reader)
        clock.now = 100.0
        assert next(reader)
        assert not recording.is_deserted  # somebody reads
        reader.close()
        clock.now = 109.0
        assert not recording.is_deserted
        clock.now = 110.0
        thread.join(10)
        assert ends[0].finish_reason is FinishReason.CANCELLED
        assert [*parse_events(log.read("t1"))][-1] == ends[0]


def test_an_error_that_came_first_may_be_spared_for_another_try():
    log = ReplayLog()
    with adapter(busy()) as full, adapter(counted(2)) as free, Recording(log, "t1") as recording:
        first = recording.follow(full.stream(request(task_id="t1")), spare=lambda error: error.retriable)
        assert isinstance(first, Error)
        assert not recording.is_over
        second = recording.follow(free.stream(request(task_id="t1")), spare=lambda error: error.retriable)
        assert isinstance(second, End)
    events = [*parse_events(log.read("t1"))]
    assert [type(event) for event in events if event.kind != "metrics"] == [Started, Token, Token, End]


def test_an_error_that_comes_later_is_recorded():
    log = ReplayLog()
    with adapter(Script(steps=[tokens(1)])) as a, Recording(log, "t1") as recording:
        last = recording.follow(a.stream(request(task_id="t1")), spare=lambda error: True)
    assert last.reason is Reason.TRUNCATED
    assert [*parse_events(log.read("t1"))][-1] == last


def test_readers_that_come_and_go_while_it_runs_never_miss_a_byte():
    """Eight clients that drop their connection now and then and come back with the id they had; one event at a time."""
    log, turn, wrong = ReplayLog(), threading.Barrier(9), []

    def client(seed: int) -> None:
        rng, got, last, reader = random.Random(seed), b"", None, iter(())
        for _ in EVENTS:
            turn.wait(20)
            if rng.random() < 0.5 or not got:
                getattr(reader, "close", str)()
                reader = log.read("t1", last_event_id=last, heartbeat=None)
            chunk = next(reader)
            got += chunk
            last = chunk.rpartition(b"\nid: ")[2].partition(b"\n")[0].decode()
            turn.wait(20)
        if got + b"".join(reader) != WHOLE:
            wrong.append(seed)

    with Recording(log, "t1") as recording:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for event in EVENTS:
            turn.wait(20)
            recording.append([event])
            turn.wait(20)
        for thread in threads:
            thread.join(20)
    assert wrong == []


def test_what_is_too_old_is_not_counted_though_nobody_asks():
    clock = Clock()
    log = ReplayLog(max_age=10, clock=clock)
    recorded(log)
    assert (len(log), log.size > 0) == (1, True)
    clock.now = 11
    assert (len(log), log.size) == (0, 0)


def test_a_reader_that_the_collector_meets_while_the_log_is_busy_leaves():
    """Dropped in a cycle, as a server's exceptions make them: its end comes on whatever thread allocates next."""
    collecting = [False]

    def clock():  # asked with the log's lock held
        if collecting[0]:
            gc.collect()
        return 0.0

    log = ReplayLog(clock=clock)
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:2])
        reader = log.read("t1", heartbeat=None)
        next(reader)
        cycle = [reader]
        cycle.append(cycle)
        del reader, cycle
        collecting[0] = True
        done = threading.Thread(target=lambda: recording.append(EVENTS[2:]), daemon=True)
        done.start()
        done.join(10)
        assert not done.is_alive()
        collecting[0] = False
    assert read(log, "t1") == WHOLE
    assert log._tasks["t1"].readers == 0


def test_readers_get_all_of_it_or_are_told_while_what_is_oldest_goes():
    """Whoever is overtaken has got the begin without a gap, and then the one event that says so."""
    log, frames = ReplayLog(max_bytes=3000), [frame + b"\n\n" for frame in WHOLE.split(b"\n\n")[:-1]]
    gate, wrong, told = threading.Barrier(6), [], []

    def reader(seed: int) -> None:
        rng, got = random.Random(seed), b""
        gate.wait(20)
        for chunk in log.read("t1", heartbeat=None):
            got += chunk
            if rng.random() < 0.2:
                stalled.wait(20)
        seen = [frame + b"\n\n" for frame in got.split(b"\n\n")[:-1]]
        if seen == frames:
            return
        told.append(seed)
        if seen[:-1] != frames[: len(seen) - 1] or refusal(seen[-1]) is not Reason.REPLAY_GONE:
            wrong.append(seed)

    stalled = threading.Event()
    with Recording(log, "t1") as recording:
        recording.append(EVENTS[:1])
        threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(5)]
        for thread in threads:
            thread.start()
        gate.wait(20)
        for event in EVENTS[1:]:
            recording.append([event])
        stalled.set()
        for thread in threads:
            thread.join(20)
    assert wrong == []
    assert refusal(read(log, "t1")) is Reason.REPLAY_GONE  # so some may have been


def test_the_end_of_a_task_reaches_all_who_wait_for_it():
    log, bodies = ReplayLog(), []
    with Recording(log, "t1"):
        threads = [threading.Thread(target=lambda: bodies.append(read(log, "t1"))) for _ in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: log._tasks["t1"].readers == 20)
    for thread in threads:
        thread.join(20)
    assert len(bodies) == 20
    assert {*bodies} == {read(log, "t1")}
    assert [*parse_events(bodies[:1])][-1].reason is Reason.BUG


@pytest.mark.parametrize("bad", [{"max_bytes": 0}, {"max_age": 0.0}])
def test_bounds_are_greater_than_0(bad):
    with pytest.raises(ValueError, match="greater than 0"):
        ReplayLog(**bad)


def test_a_failure_before_anything_else_is_raised_and_a_later_one_is_an_event():
    log = ReplayLog()
    failure = Error(code=ErrorCode.POOL_UNREADY, reason=Reason.LOADING, message="loading")
    for task_id, events in {"t1": [failure], "t2": [STARTED, failure]}.items():
        with Recording(log, task_id) as recording:
            recording.append(events)
    with pytest.raises(WorkerError) as caught:
        begin_stream(log.read("t1"))
    assert caught.value.error == failure
    assert log._tasks["t1"].readers == 0  # though the exception is still held
    with pytest.raises(WorkerError, match="NOT_FOUND"):
        begin_stream(log.read("t1", last_event_id="t1:7"))
    assert list(parse_events(begin_stream(log.read("t2", last_event_id="t2:0")))) == [failure]
    assert b"".join(begin_stream(log.read("t2"))) == read(log, "t2")


def test_what_has_begun_is_closed_with_what_it_came_from():
    with adapter(Script(steps=[tokens(1), Hang()])) as a:
        stream = a.submit(request())
        chunks = begin_stream(event_stream(stream))
        next(chunks)
        chunks.close()
        assert stream.done()
