"""merge and as_completed: nothing lost, nobody served twice before the others, bounded, lazy, and left without a trace."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import queue
import signal
import threading
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters import (
    End,
    Error,
    Limits,
    Pool,
    Reason,
    Started,
    StreamCancelledError,
    Token,
    WorkerError,
    as_completed,
    connect,
    merge,
)
from worker_adapters.dialect import Fault
from worker_adapters.runtime import channel
from worker_adapters.simulator import Simulator
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON
from .beside import in_thread
from .dialects import adapter, busy, counted, end, good, kinds, request, sent, texts, tokens, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_adapters import Event, Stream
    from worker_adapters.runtime import EngineAdapter


def paced(reads: int, gate: Hang | None = None) -> Script:
    """A Token per read; after the first, perhaps, once it is let through."""
    steps: list[Any] = [tokens(1, n) for n in range(reads)]
    if gate is not None:
        steps.insert(1, gate)
    return Script(steps=[*steps, end(reads)])


def endless() -> Script:
    """A Token per read, without end."""
    return Script(steps=(tokens(1, n) for n in itertools.count()))


def by_stream(pairs: Any) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for stream, event in pairs:
        found[stream.task_id].append(event)
    return dict(found)


def is_cancelled(event: Event) -> bool:
    return isinstance(event, End) and event.finish_reason == "cancelled"


def hands_of(stream: Stream) -> int:
    """Events that wait in the hand-over."""
    channel = stream._source.channel  # type: ignore[attr-defined]
    return channel._handover.ahead


def has_more(stream: Stream) -> bool:
    """Whether a run waits that is in nobody's hand."""
    channel = stream._source.channel  # type: ignore[attr-defined]
    return len(channel._handover) > 0


# --- what comes, and in which order -----------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3200")
def test_the_order_within_each_stream_is_kept_and_each_ends_once() -> None:
    scripts = [paced(n % 7) if n % 3 else counted(n) for n in range(40)]
    with adapter(*scripts) as a:
        streams = [a.submit(request(task_id=str(n))) for n in range(40)]
        found = by_stream(merge(streams))
        assert len(found) == 40
        for events in found.values():
            assert isinstance(events[0], Started)
            assert sum(isinstance(e, End | Error) for e in events) == 1
            assert isinstance(events[-1], End)
            assert texts(events) == "".join(f"t{n}" for n in range(events[-1].tokens_out))
        assert a.in_flight == 0


def test_a_merge_gives_what_each_stream_would_have_given_alone() -> None:
    def scripts() -> list[Script]:
        return [paced(5), counted(3), Script(steps=[tokens(2), Fault(Reason.DISCONNECTED, "gone")]), busy()]

    with adapter(*scripts()) as a:
        alone = [kinds(a.submit(request())) for _ in range(4)]
    with adapter(*scripts()) as a:
        merged = by_stream(merge([a.submit(request(task_id=str(n))) for n in range(4)]))
    assert [kinds(merged[str(n)]) for n in range(4)] == alone


def test_streams_of_several_adapters_and_dialects_are_merged() -> None:
    with adapter(counted(3)) as one, adapter(good("ta", "tb", ".")) as two:
        found = by_stream(merge([one.submit(request(task_id="one")), two.submit(request(task_id="two"))]))
    assert [texts(found["one"]), texts(found["two"])] == ["t0t1t2", "ab"]


def test_nothing_to_merge_is_nothing() -> None:
    assert list(merge([])) == []
    assert list(as_completed(iter(()))) == []
    with pytest.raises(TypeError):
        merge(None)  # type: ignore[arg-type]


@pytest.mark.req("ADAPT-3200")
def test_no_stream_has_a_second_run_while_another_waits() -> None:
    """One at full speed beside nine that come now and then: measured by runs, not by time. A read is a run here."""
    gates = [[Hang() for _ in range(20)] for _ in range(9)]
    scripts = [endless()]
    scripts += [Script(steps=[s for n, gate in enumerate(some) for s in (tokens(1, n), gate)]) for some in gates]
    with adapter(*scripts, limits=Limits(hand_over=2)) as a:
        streams = []
        for n in range(10):
            streams.append(a.submit(request(task_id=str(n))))
            until(lambda n=n: sent(a) == n + 1)  # type: ignore[misc]
        merged, waiting, turns, served = merge(streams), set[str](), 0, Counter[str]()
        for stream, event in merged:
            if not isinstance(event, Token):
                continue
            served[stream.task_id] += 1
            waiting.discard(stream.task_id)
            if stream is streams[0]:
                assert not waiting, f"{waiting} waited while the fast one came twice"
                waiting = {noted.stream().task_id for noted in merged._ready.noted if has_more(noted.stream())} - {"0"}
                gates[turns % 9][turns // 9 % 20].release()
                turns += 1
            if turns == 170:
                break
        merged.close()
    assert len(served) == 10
    assert min(served.values()) > 10


def test_a_turn_for_each_that_has_something() -> None:
    """All are full before anybody looks: then their runs come one by one, in turn."""
    with adapter(*[endless() for _ in range(5)], limits=Limits(hand_over=4)) as a:
        streams = [a.submit(request(task_id=str(n))) for n in range(5)]
        until(lambda: all(stream._source.channel.parked for stream in streams))  # type: ignore[attr-defined]
        merged, order = merge(streams), list[str]()
        for stream, event in merged:
            if isinstance(event, Token):
                order.append(stream.task_id)
            until(lambda: all(map(has_more, streams)))
            if len(order) == 60:
                break
        merged.close()
    rounds = [sorted(order[at : at + 5]) for at in range(20, 60, 5)]
    assert rounds == [list("01234")] * 8


# --- bounded ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3200")
def test_a_consumer_that_stops_pulling_is_waited_for() -> None:
    with adapter(*[endless() for _ in range(4)], limits=Limits(hand_over=3)) as a:
        streams = [a.submit(request()) for _ in range(4)]
        merged = merge(streams)
        for _ in itertools.islice(merged, 50):
            pass
        until(lambda: all(s._source.channel.parked for s in streams))  # type: ignore[attr-defined]
        most = max(hands_of(stream) for stream in streams)
        assert most <= 3 + 1  # Started comes with the first Token: a run goes over whole
        merged.close()


def test_the_iterable_is_taken_lazily_and_may_wait_for_places() -> None:
    """300 streams over 16 places, submitted by a generator that blocks."""
    most, submitted = 0, 0
    with adapter(limits=Limits(max_in_flight=16, hand_over=1)) as a:
        a._transport._answer = lambda _wire: paced(3)

        def jobs() -> Iterator[Stream]:
            nonlocal submitted
            for n in range(300):
                submitted += 1
                yield a.submit(request(task_id=str(n)), block=True)

        found: Counter[str] = Counter()
        merged = merge(jobs())
        assert submitted == 0
        for stream, event in merged:
            most = max(most, a.in_flight)
            found[stream.task_id] += isinstance(event, End)
        assert (len(found), set(found.values())) == (300, {1})
        assert most <= 16
        assert a.in_flight == 0


def test_a_place_that_all_wait_for_becomes_free_though_every_hand_over_is_full() -> None:
    """The consumer is inside of submit(block=True): what holds the only place must not wait for it."""
    with adapter(limits=Limits(max_in_flight=1, hand_over=1, stall=30.0)) as a:
        a._transport._answer = lambda _wire: paced(20)
        jobs = (a.submit(request(task_id=str(n)), block=True) for n in range(20))
        found = by_stream(merge(jobs))
        assert [texts(events) for events in found.values()] == ["".join(f"t{n}" for n in range(20))] * 20


def test_streams_are_read_on_while_the_iterable_blocks_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what it blocks for may come, and memory stays bounded if it does not."""
    monkeypatch.setattr(channel, "AHEAD", 100)
    with adapter(endless(), paced(60), limits=Limits(hand_over=4)) as a:
        done = threading.Event()

        def jobs() -> Iterator[Stream]:
            held = a.submit(request(task_id="endless"))
            yield held
            until(lambda: sent(a) == 1)
            other = a.submit(request(task_id="other"))
            other.add_done_callback(lambda _: done.set())
            yield other
            assert done.wait(SOON)
            until(lambda: hands_of(held) >= 100 and held._source.channel.parked)  # type: ignore[attr-defined]
            assert hands_of(held) <= 101

        found: dict[str, list[Event]] = defaultdict(list)
        merged = merge(jobs())
        for stream, event in merged:
            found[stream.task_id].append(event)
            if len(found["endless"]) > 300:
                break
        merged.close()
    assert texts(found["endless"]) == "".join(f"t{n}" for n in range(300))
    assert texts(found["other"]) == "".join(f"t{n}" for n in range(60))


def _pooled(places: int) -> Any:
    """Two workers' worth of places."""
    workers = [adapter(limits=Limits(max_in_flight=places // 2, hand_over=1)) for _ in range(2)]
    for worker in workers:
        worker._transport._answer = lambda _wire: endless()
    return Pool(workers)


def _alone(places: int) -> Any:
    worker = adapter(limits=Limits(max_in_flight=places, hand_over=1))
    worker._transport._answer = lambda _wire: endless()
    return worker


@pytest.mark.parametrize("make", [_alone, _pooled])
def test_an_iterable_that_would_wait_for_a_place_holds_up_no_event(make: Any) -> None:
    """Streams that only the consumer ends, once it has seen something of them: who waits for a place waits for it."""
    with make(4) as a:
        jobs = (a.submit(request(task_id=str(n), deadline=20.0), block=True) for n in range(40))
        found: dict[str, list[Event]] = defaultdict(list)
        for stream, event in merge(jobs):
            found[stream.task_id].append(event)
            if len(found[stream.task_id]) == 3:
                stream.cancel()
        assert [kinds(events) for events in found.values()] == [["started", "token", "token", "end"]] * 40
        assert a.in_flight == 0


def test_a_place_that_somebody_else_leaves_is_found() -> None:
    """All places are held by silent streams that are merged; one is left without the merge being told, as places are."""
    with adapter(limits=Limits(max_in_flight=2)) as a:
        hangs = [Hang() for _ in range(3)]
        scripts = iter([Script(steps=[tokens(1), hang, end(1)]) for hang in hangs])
        a._transport._answer = lambda _wire: next(scripts)
        merged = merge(a.submit(request(task_id=str(n), deadline=20.0), block=True) for n in range(3))
        seen = [next(merged) for _ in range(4)]
        a._streams.places.most = 3
        assert [event.kind for _, event in (next(merged), next(merged))] == ["started", "token"]
        for hang in hangs:
            hang.release()
        assert [event.kind for _, event in [*seen, *merged]].count("end") == 3


def test_one_that_filled_up_just_before_the_iterable_is_asked_is_looked_at_first() -> None:
    """A stream may park between the last look and the question: the gate is opened first, and then looked again."""
    with adapter(counted(1)) as a:
        merged = merge(iter([a.submit(request())]))

        class Late:
            """Has nothing at the first look, and something once the gate is open."""

            def __init__(self) -> None:
                self.looks = 0

            def __bool__(self) -> bool:
                self.looks += 1
                return merged._gate.open  # type: ignore[union-attr]

        ready, merged._ready.noted = merged._ready.noted, Late()  # type: ignore[assignment]
        merged._add_one()
        assert merged._new == []
        assert merged._open == {}
        assert not merged._gate.open  # type: ignore[union-attr]
        merged._ready.noted = ready
        assert kinds(event for _, event in merged)[-1] == "end"


# --- iterables ----------------------------------------------------------------------------------------------------------


both = pytest.mark.parametrize("gather", [merge, as_completed])


@both
def test_an_iterable_that_raises_ends_it_and_cancels_the_rest(gather: Any) -> None:
    with adapter(Script(steps=[tokens(1), Hang()]), counted()) as a:
        given: list[Stream] = []

        def jobs() -> Iterator[Stream]:
            given.append(a.submit(request()))
            yield given[0]
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(gather(jobs()))
        assert a.in_flight == 0
        assert [is_cancelled(e) for e in given[0]] == [True]


@both
def test_what_is_given_after_it_was_closed_is_cancelled(gather: Any) -> None:
    """By a signal handler, while the iterable waits for a place."""
    with adapter(Script(steps=[tokens(1), Hang()]), counted()) as a:
        given: list[Stream] = []

        def jobs() -> Iterator[Stream]:
            for _ in range(2):
                given.append(a.submit(request()))
                yield given[-1]
                gathered.close()  # as if it had struck within

        gathered = gather(jobs())
        found = list(gathered)  # of the first, what came before the iterable was asked again
        assert all(one is given[0] for one, _ in found) if gather is merge else found == []
        assert a.in_flight == 0
        assert [[is_cancelled(event) for event in stream] for stream in given] == [[True], [True]]


@both
def test_a_stream_that_its_consumer_drives_can_not_be_merged(gather: Any) -> None:
    with adapter(Script(steps=[tokens(1), Hang()]), counted(2)) as a:
        submitted = a.submit(request())
        until(lambda: sent(a) == 1)
        direct = a.stream(request())
        with pytest.raises(TypeError, match="submitted"):
            list(gather([submitted, direct]))
        assert submitted.done()
        assert texts(direct) == "t0t1"  # it is its consumer's still
        with pytest.raises(TypeError, match="int"):
            list(gather([1]))


@both
def test_a_stream_that_is_read_already_can_not_be_merged(gather: Any) -> None:
    with adapter(counted(2), counted(2), counted(2)) as a:
        read = a.submit(request())
        next(read)
        with pytest.raises(RuntimeError, match="iterated"):
            list(gather([read]))
        assert texts(read) == "t0t1"
        collected = a.submit(request())
        collected.result()
        if gather is merge:
            with pytest.raises(RuntimeError, match="collected"):
                list(gather([collected]))
        else:
            assert list(gather([collected])) == [collected]
        twice = a.submit(request())
        with pytest.raises(RuntimeError, match=r"once|merged"):
            list(gather([twice, twice]))
        assert a.in_flight == 0


@pytest.mark.parametrize("read", [next, iter, lambda s: s.get(0.0), lambda s: s.get_many(0.0), lambda s: s.result(0.0)])
@pytest.mark.parametrize("by", ["the thread that merges", "another"])
def test_a_stream_that_is_merged_is_read_by_nobody_else(read: Callable[[Any], Any], by: str) -> None:
    """Whoever tried took events of the merge's, and left it waiting for good where a token came next."""
    gates = [Hang(), Hang()]
    refused: list[str] = []

    def tries(stream: Stream) -> None:
        with pytest.raises(RuntimeError) as raised:
            read(stream)
        refused.append(str(raised.value))

    def merges() -> None:
        stream = a.submit(request())
        with merge([stream]) as merged:
            found.extend(itertools.islice(merged, 2))
            if by == "another":
                in_thread(tries, stream).join(20)
            else:
                tries(stream)
            for gate in gates:
                gate.release()
                found.append(next(merged))
            found.extend(merged)
            found.extend((stream, event) for event in stream)  # it is over, and nobody's

    found: list[Any] = []
    with adapter(Script(steps=[tokens(1), gates[0], tokens(1, 1), gates[1], tokens(1, 2), end(3)])) as a:
        in_thread(merges).join(20)  # on a thread other than the main one, which looks now and then of itself
    assert kinds(event for _, event in found) == ["started", *["token"] * 3, "metrics", "end"]
    assert refused == ["a stream is iterated, or merged, or collected: one of them"]


def test_streams_are_added_while_it_runs_by_whoever_has_them() -> None:
    more: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
    with adapter() as a:
        a._transport._answer = lambda _wire: paced(4)

        def give() -> None:
            for n in range(20):
                more.put(a.submit(request(task_id=str(n))))
            more.put(None)

        giver = in_thread(give)
        found = by_stream(merge(iter(more.get, None)))
        giver.join(10)
    assert [texts(found[str(n)]) for n in range(20)] == ["t0t1t2t3"] * 20


@both
def test_what_follows_from_an_answer_is_added_in_the_body_of_the_loop(gather: Any) -> None:
    """Where the iterable has come to its end, and the last that was there is over."""
    with adapter() as a:
        a._transport._answer = lambda _wire: counted(2)
        gathered, over = gather([a.submit(request(task_id="0"))]), []
        for one in gathered:
            stream = one if gather is as_completed else one[0]
            if gather is as_completed or isinstance(one[1], End):
                over.append(stream.task_id)
                if len(over) < 10:
                    gathered.add(a.submit(request(task_id=str(len(over)))))
        assert over == [str(n) for n in range(10)]
        read = a.submit(request())
        next(read)
        with pytest.raises(RuntimeError, match="iterated"):
            gathered.add(read)
        assert texts(read) == "t0t1"


def test_what_is_there_already_is_taken_at_once() -> None:
    """A list of streams: the first, at full speed, does not keep the others from being looked after."""
    with adapter(*[endless() for _ in range(4)]) as a:
        streams = [a.submit(request()) for _ in range(4)]
        with merge(streams) as merged:
            next(merged)
            assert set(merged._open) == set(streams)
        assert a.in_flight == 0


# --- leaving ------------------------------------------------------------------------------------------------------------


def started_merge(a: EngineAdapter, count: int) -> tuple[Any, list[Stream]]:
    streams = [a.submit(request()) for _ in range(count)]
    merged = merge(streams)
    next(merged)
    return merged, streams


@pytest.mark.req("ADAPT-3200")
@pytest.mark.parametrize("by", ["close", "with", "exception", "drop", "drop in a cycle"])
def test_leaving_cancels_the_rest_and_frees_every_place(by: str) -> None:
    with adapter(*[Script(steps=[tokens(2), Hang()]) for _ in range(6)]) as a:
        merged, streams = started_merge(a, 6)
        if by == "close":
            merged.close()
            merged.close()
            assert a.in_flight == 0
            assert list(merged) == []
        elif by == "with":
            with merged:
                next(merged)
            assert a.in_flight == 0
        elif by == "exception":
            pairs = iter(merged)
            del merged
            with contextlib.suppress(ZeroDivisionError):
                _fails_within(pairs)
            del pairs
        elif by == "drop":
            del merged
        else:
            merged.itself = merged
            del merged
            gc.collect()
        until(lambda: a.in_flight == 0)
        for stream in streams:
            assert stream.done()


def _fails_within(pairs: Any) -> None:
    for _ in pairs:
        raise ZeroDivisionError


@both
@pytest.mark.parametrize("given", [list, tuple, set, dict.fromkeys, deque])
@pytest.mark.parametrize("by", ["close", "with", "drop"])
def test_leaving_before_the_first_look_cancels_what_was_given(gather: Any, given: Any, by: str) -> None:
    with adapter(*[Script(steps=[tokens(2), Hang()]) for _ in range(3)], counted(2)) as a:
        streams = [a.submit(request()) for _ in range(3)]
        gathered = gather(given(streams))
        if by == "close":
            gathered.close()
        elif by == "with":
            with contextlib.suppress(ZeroDivisionError), gathered:
                raise ZeroDivisionError
        else:
            del gathered
        until(lambda: a.in_flight == 0)
        if by != "drop":
            assert [[is_cancelled(event) for event in stream] for stream in streams] == [[True]] * 3
        jobs = (a.submit(request()) for _ in range(1))
        gather(jobs).close()  # asks for nothing
        assert sum(1 for _ in jobs) == 1


@both
def test_one_that_can_not_be_merged_cancels_those_after_it_too(gather: Any) -> None:
    with adapter(*[Script(steps=[tokens(1), Hang()]) for _ in range(3)]) as a:
        first, read, last = (a.submit(request()) for _ in range(3))
        assert isinstance(next(read), Started)
        with pytest.raises(RuntimeError, match="iterated"):
            list(gather([first, read, last]))
        assert (first.done(), read.done(), last.done()) == (True, False, True)
        read.cancel()


def test_leaving_a_loop_over_a_temporary_merge_cancels() -> None:
    with adapter(*[Script(steps=[tokens(2), Hang()]) for _ in range(3)]) as a:
        for _ in merge([a.submit(request()) for _ in range(3)]):
            break
        until(lambda: a.in_flight == 0)


def test_leaving_as_completed_cancels_the_rest() -> None:
    with adapter(counted(1), Script(steps=[Hang()])) as a:
        first = a.submit(request(task_id="first"))
        until(first.done)
        second = a.submit(request())
        for stream in as_completed([first, second]):
            assert stream is first
            assert stream.result().text == "t0"
            break
        until(lambda: a.in_flight == 0)
        assert second.done()


def test_what_was_merged_to_its_end_keeps_nothing_alive() -> None:
    """No cycle is left for the collector: thousands of streams would wait for it."""
    gc.collect()
    gc.disable()
    try:
        with adapter(*[counted(1) for _ in range(20)]) as a:
            streams = [a.submit(request()) for _ in range(20)]
            runnings = [stream._running for stream in streams]  # type: ignore[attr-defined]
            for _ in merge(streams):
                pass
            assert not any(running._waiting for running in runnings)
            assert not any(stream._source.channel._waiter for stream in streams)  # type: ignore[attr-defined]
    finally:
        gc.enable()


# --- cancel, close, deadline --------------------------------------------------------------------------------------------


def test_one_is_cancelled_from_another_thread_and_the_others_go_on() -> None:
    hang, gate = Hang(), Hang()
    with adapter(Script(steps=[tokens(2), hang]), paced(3, gate)) as a:
        one = a.submit(request(task_id="one"))
        until(lambda: sent(a) == 1)
        two = a.submit(request(task_id="two"))
        canceller = in_thread(lambda: (hang.reached.wait(10), one.cancel(), gate.release()))
        found = by_stream(merge([one, two]))
        canceller.join(10)
    assert is_cancelled(found["one"][-1])
    assert kinds(found["one"]).count("end") == 1
    assert texts(found["two"]) == "t0t1t2"


def test_no_token_comes_after_a_cancel_of_its_stream() -> None:
    """Nine are in hand: they are taken back."""
    with adapter(Script(steps=[tokens(10), Hang()]), Script(steps=[tokens(10), Hang()])) as a:
        streams = [a.submit(request(task_id=str(n))) for n in range(2)]
        after: list[Event] = []
        cancelled: set[str] = set()
        for stream, event in merge(streams):
            if stream.task_id in cancelled:
                after.append(event)
            elif isinstance(event, Token):
                stream.cancel()
                cancelled.add(stream.task_id)
        assert [is_cancelled(event) for event in after] == [True, True]


@both
def test_the_adapter_is_closed_from_another_thread(gather: Any) -> None:
    hangs = [Hang() for _ in range(4)]
    a = adapter(*[Script(steps=[tokens(1), hang]) for hang in hangs])
    streams = [a.submit(request()) for _ in hangs]
    closer = in_thread(lambda: ([hang.reached.wait(10) for hang in hangs], a.close()))
    got = list(gather(streams))
    closer.join(10)
    if gather is merge:
        assert sum(is_cancelled(event) for _, event in got) == 4
    else:
        assert len(got) == 4
        for stream in got:
            assert isinstance(stream.exception(), StreamCancelledError)


def test_a_deadline_ends_its_own_stream_only() -> None:
    gate = Hang()
    with adapter(Script(steps=[tokens(2), Hang()]), paced(3, gate)) as a:
        late = a.submit(request(task_id="late", deadline=0.05))
        until(lambda: sent(a) == 1)
        fine = a.submit(request(task_id="fine"))
        found = defaultdict(list)
        for stream, event in merge([late, fine]):
            found[stream.task_id].append(event)
            if isinstance(event, Error):
                gate.release()
    error = found["late"][-1]
    assert isinstance(error, Error)
    assert error.reason is Reason.DEADLINE
    assert texts(found["fine"]) == "t0t1t2"


# --- Ctrl-C -------------------------------------------------------------------------------------------------------------


class _Handled(KeyboardInterrupt):
    """What the handler raises: pytest's own Ctrl-C is another."""


def interrupted(work: Callable[[], object], every: float = 0.0005) -> int:
    """Do it, again and again until it returns, while a signal handler raises in it. How often it did."""
    armed, over, raised = False, threading.Event(), 0

    def handler(*_args: Any) -> None:
        nonlocal armed, raised
        if armed:
            armed = False
            raised += 1
            raise _Handled

    def strike() -> None:
        while not over.wait(every):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    striker = in_thread(strike)
    try:
        while True:
            with contextlib.suppress(_Handled):
                armed = True
                work()
                armed = False
                return raised
    finally:
        over.set()
        striker.join(10)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.req("ADAPT-3200")
@pytest.mark.parametrize("way", ["next", "for"])
def test_an_interrupt_in_next_loses_nothing(way: str) -> None:
    """Wherever they strike: every event of every stream comes once, in its order."""
    raised = 0
    while raised < 10:
        pairs: list[tuple[Stream, Event]] = []
        with adapter(limits=Limits(hand_over=2)) as a:
            a._transport._answer = lambda _wire: paced(60)
            merged = merge([a.submit(request(task_id=str(n))) for n in range(30)])
            some: Any = merged if way == "for" else iter(merged.__next__, None)
            # list.extend takes and keeps in C, so that no handler runs between: `next` alone is the subject.
            raised += interrupted(functools.partial(pairs.extend, some))
        found = by_stream(pairs)
        assert len(found) == 30
        for events in found.values():
            assert kinds(events) == ["started", *["token"] * 60, "metrics", "end"]
            assert [e.index for e in events if isinstance(e, Token)] == list(range(60))


def test_an_interrupt_in_as_completed_loses_no_stream() -> None:
    raised = 0
    while raised < 10:
        done: list[Stream] = []
        with adapter() as a:
            a._transport._answer = lambda _wire: paced(30)
            completed = as_completed([a.submit(request(task_id=str(n))) for n in range(200)])
            raised += interrupted(functools.partial(done.extend, completed), every=0.0002)
            assert sorted(int(stream.task_id) for stream in done) == list(range(200))
            assert {len(stream.result().text) for stream in done} == {len("".join(f"t{n}" for n in range(30)))}


# --- futures ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3200")
def test_each_stream_comes_once_it_has_ended_however_it_ended() -> None:
    hang = Hang()
    scripts = [
        counted(2),
        Script(steps=[tokens(1), Fault(Reason.DISCONNECTED, "gone")]),
        Script(steps=[tokens(1), hang]),
    ]
    with adapter(*scripts) as a:
        streams = []
        for n in range(3):
            streams.append(a.submit(request(task_id=str(n))))
            until(lambda n=n: sent(a) == n + 1)  # type: ignore[misc]
        canceller = in_thread(lambda: (hang.reached.wait(10), streams[2].cancel()))
        found = {}
        for stream in as_completed(streams):
            assert stream.done()
            with contextlib.suppress(TimeoutError):
                found[stream.task_id] = stream.exception(timeout=0) or stream.result(timeout=0)  # does not block
        canceller.join(10)
    assert found["0"].text == "t0t1"
    assert isinstance(found["1"], WorkerError)
    assert found["1"].partial.text == "t0"
    assert isinstance(found["2"], StreamCancelledError)
    assert found["2"].partial.text == "t0"


def test_as_completed_yields_what_is_over_already_however_often_it_was_asked() -> None:
    """By itself, collected, by result(), by another as_completed, cancelled; but what was iterated raises."""
    with adapter() as a:
        a._transport._answer = lambda _wire: counted(2)
        untouched, background = a.submit(request()), a.submit(request(), collect=True)
        resulted, twice, cancelled = a.submit(request()), a.submit(request()), a.submit(request())
        cancelled.cancel()
        assert resulted.result().text == "t0t1"
        assert list(as_completed([twice])) == [twice]
        assert a.drain(5)
        over = [untouched, background, resulted, twice, cancelled]
        for _ in range(2):
            assert list(as_completed(over)) == over
        assert [stream.result(timeout=0).text for stream in over[:4]] == ["t0t1"] * 4
        assert isinstance(cancelled.exception(timeout=0), StreamCancelledError)
        iterated = a.submit(request())
        assert texts(iterated)
        with pytest.raises(RuntimeError):
            list(as_completed([iterated]))
        with pytest.raises(RuntimeError):
            list(merge([resulted]))


def test_what_is_collected_is_bounded() -> None:
    with adapter(endless(), limits=Limits(max_collected=1000)) as a:
        (stream,) = as_completed([a.submit(request())])
        error = stream.exception()
        assert isinstance(error, WorkerError)
        assert error.error.reason is Reason.EVENT_TOO_LARGE
        assert "max_collected" in error.error.message
        assert 900 < len(error.partial.text) < 1100


def test_a_job_of_any_length_is_a_generator_that_submits() -> None:
    with adapter(limits=Limits(max_in_flight=4)) as a:
        a._transport._answer = lambda _wire: counted(2)
        jobs = (a.submit(request(task_id=str(n)), block=True) for n in range(200))
        done = [stream.task_id for stream in as_completed(jobs) if stream.result().text == "t0t1"]
    assert sorted(done, key=int) == [str(n) for n in range(200)]


# --- over sockets -------------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3200", socket=True)
def test_five_hundred_streams_take_no_thread_each() -> None:
    count, most = 500, 0
    with (
        Simulator("vllm", rate=200, slots=count) as engine,
        connect("vllm", engine.url, limits=Limits(max_in_flight=count)) as a,
    ):
        done: Counter[str] = Counter()
        streams = (a.submit(request(task_id=str(n), max_tokens=8, ignore_eos=True)) for n in range(count))
        for stream, event in merge(streams):
            if isinstance(event, End | Error):
                assert isinstance(event, End), event
                done[stream.task_id] += 1
                ours = [t for t in threading.enumerate() if t.name.startswith("worker-adapters-")]
                most = max(most, len(ours))
        assert (len(done), set(done.values())) == (count, {1})
        assert most <= 8, sorted(t.name for t in ours)
        assert a.in_flight == 0
