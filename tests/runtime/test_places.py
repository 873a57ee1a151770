"""Admission: a place is free when the terminal event is there, and who waits for one is told why there is none."""

from __future__ import annotations

import math
import threading
import time
from functools import partial

import pytest

from worker_adapters import AdmissionRejectedError, ErrorCode, Event, InvalidRequestError, Limits, Phase, Pool, Reason
from worker_adapters.runtime import reports
from worker_adapters.transport.scripted import Hang, Script

from ..timers import SOON, at_once, unhurried
from .beside import in_thread
from .dialects import GOOD, adapter, counted, endless, frames, good, kinds, request, tokens, until

both = pytest.mark.parametrize("way", ["stream", "submit"])


@pytest.mark.req("ADAPT-3200")
@both
@pytest.mark.parametrize("read", ["iterate", "get", "result", "generate", "done"])
def test_a_place_is_free_when_the_terminal_event_is_there(way, read):
    """Submit right after it, at a limit of one, the same task again: 200 times in a row."""
    with adapter(answer=lambda _wire: good(), limits=Limits(max_in_flight=1)) as a:
        for _ in range(200):
            if read == "generate":
                a.generate(request(task_id="same"))
                continue
            stream = getattr(a, way)(request(task_id="same"), collect=read == "done")
            if read == "iterate":
                for event in stream:
                    if event.kind == "end":
                        break
            elif read == "get":
                while stream.get(5).kind != "end":
                    pass
            elif read == "done" and way == "submit":
                while not stream.done():
                    pass
            else:
                stream.result()
            assert a.in_flight == 0


@both
@pytest.mark.parametrize("by", ["cancel", "close", "drop", "leave"])
def test_a_place_is_free_soon_after_a_stream_was_given_up(way, by):
    """Not only for who waits: 100 times in a row."""
    with adapter(answer=lambda _wire: Script(steps=[frames("ta"), Hang()]), limits=Limits(max_in_flight=1)) as a:
        for n in range(100):
            stream = getattr(a, way)(request(task_id=str(n)))
            if n % 2:
                next(stream)
            if by == "cancel":
                stream.cancel()
            elif by == "close":
                stream.close()
                assert a.in_flight == 0
            elif by == "leave":
                with stream:
                    pass
                assert a.in_flight == 0
            else:
                del stream
        assert a.drain(5)


def test_more_collected_streams_than_places_finish():
    """No consumer is at work until the last of them is submitted."""
    many = 50
    with adapter(
        answer=lambda _wire: Script(steps=[frames("tx")] * 20 + [frames(".")]),
        limits=Limits(max_in_flight=3, hand_over=2, stall=0.5),
    ) as a:
        streams = [a.submit(request(), block=True, collect=True) for _ in range(many)]
        assert [stream.result().text for stream in streams] == ["x" * 20] * many


def stalled(a, **options):
    """Seconds until it was refused, and in which words."""
    began = time.monotonic()
    with pytest.raises(AdmissionRejectedError) as caught:
        a.submit(request(), block=True, **options)
    return time.monotonic() - began, caught.value


def test_who_waits_for_streams_that_nobody_reads_is_told_so():
    with adapter(
        answer=lambda _wire: Script(steps=endless()), limits=Limits(max_in_flight=2, hand_over=2, stall=0.2)
    ) as a:
        unread = [a.submit(request()), a.stream(request())]
        took, error = stalled(a)
        assert 0.2 <= took < SOON
        assert (error.reason, error.code, error.retriable) == ("LOCAL_LIMIT", "ADMISSION_REJECT", True)
        assert all(word in str(error) for word in ("2 places", "stall", "collect=True"))
        unread[0].close()
        a.submit(request(), block=True).close()  # there is room again


@pytest.mark.parametrize("reading", ["iterate", "get", "collect"])
def test_but_not_while_somebody_reads_or_collects(reading):
    """One reader who is slow, but comes, is enough: its stream will end."""
    steps = [frames("tx")] * 8

    def run(scale):
        hang, over = Hang(), threading.Event()

        def answer(wire):
            return Script(steps=[*steps, hang, frames(".")]) if b"read" in wire.body else Script(steps=endless())

        with adapter(answer=answer, limits=Limits(max_in_flight=2, hand_over=2, stall=0.15 * scale)) as a:
            unread = a.submit(request())
            stream = a.submit(request(prompt="read"), collect=reading == "collect")

            def read():
                for _ in range(8):
                    over.wait(0.05 * scale)  # a consumer's time is the subject
                    next(stream) if reading == "iterate" else stream.get(2 * SOON)
                hang.release()
                list(stream)

            def collect():
                over.wait(0.4 * scale)
                hang.release()
                stream.result()

            reader = threading.Thread(target=collect if reading == "collect" else read)
            reader.start()
            began = time.monotonic()
            try:
                a.submit(request(), block=True).close()
            except AdmissionRejectedError:
                return False
            finally:
                took = time.monotonic() - began
                reader.join()
                unread.close()
            assert took >= 0.3 * scale
            return True

    assert unhurried(run, bool), "it was not waited for"


def test_the_deadline_of_who_waits_comes_first():
    with adapter(Script(steps=endless()), limits=Limits(max_in_flight=1, stall=2 * SOON)) as a, a.submit(request()):
        began = time.monotonic()
        with pytest.raises(AdmissionRejectedError, match="before the deadline"):
            a.submit(request(deadline=0.1), block=True)
        assert 0.1 <= time.monotonic() - began < SOON


def test_everyone_who_waits_gets_a_place_in_the_end():
    with adapter(answer=lambda _wire: good(), limits=Limits(max_in_flight=2)) as a:
        texts = []
        threads = [
            threading.Thread(target=lambda: texts.extend(a.generate(request(), block=True).text for _ in range(10)))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert texts == ["ab"] * 120
        assert a.in_flight == 0


@both
def test_taking_events_of_one_long_run_is_reading(way):
    """What one read has brought may be hundreds of events: who takes them one by one comes for no others meanwhile."""

    def run(scale):
        limits = Limits(max_in_flight=1, hand_over=2, stall=0.25 * scale)
        with adapter(Script(steps=[tokens(50), Hang()]), good(), limits=limits) as a:
            stream = getattr(a, way)(request())

            def read():
                for _ in zip(range(12), stream, strict=False):
                    time.sleep(0.05 * scale)  # a consumer's time is the subject
                stream.close()

            reader = threading.Thread(target=read)
            reader.start()
            try:
                a.submit(request(), block=True).close()
            except AdmissionRejectedError as refused:
                return refused
            finally:
                reader.join()

    assert unhurried(run, lambda refused: refused is None) is None


def test_draining_without_waiting_says_whether_all_is_out(monkeypatch):
    """It said no for a second after the last report: the thread that makes them was still there."""
    monkeypatch.setattr(reports, "LINGER", 60.0)
    with adapter(good()) as a:
        assert kinds(a.submit(request()))[-1] == "end"
        assert a.drain(5)
        until(lambda: not reports.REPORTS._reporting)
        assert all(a.drain(0) for _ in range(20))
        held, reached = threading.Event(), threading.Event()
        stream = a.submit(request())
        stream.add_done_callback(lambda _stream: (reached.set(), held.wait(SOON)))
        assert reached.wait(SOON)
        assert not a.drain(0)
        held.set()
        until(lambda: a.drain(0))
        monkeypatch.undo()
        reports.REPORTS.call(lambda: None)  # its thread waits no longer than usual from here on


def test_no_number_is_no_time_to_drain():
    """Who waited until NaN looked again and again without a pause."""
    with adapter(Script(steps=[Hang()])) as a, Pool([a]) as pool:
        stream = a.submit(request())
        for ask in (a.drain, a.wait_ready, pool.drain, pool.wait_ready, partial(pool.drain, worker=a)):
            with pytest.raises(ValueError, match="nan"):
                ask(math.nan)
        stream.close()


def test_draining_waits_for_what_is_in_flight_and_no_longer_than_it_is_told():
    hang = Hang()
    with adapter(Script(steps=[hang, frames("ta", ".")])) as a:
        stream = a.submit(request(), collect=True)
        assert hang.reached.wait(5)
        began = time.monotonic()
        assert not a.drain(0.05)
        assert 0.05 <= time.monotonic() - began < SOON
        threading.Timer(0.05, hang.release).start()
        assert a.drain(5)
        assert stream.done()
        assert kinds([stream.get(0)]) == ["started"]
    until(lambda: a.in_flight == 0)


@both
def test_the_limit_of_streams_in_flight(way: str) -> None:
    scripts = (Script(steps=[tokens(1), Hang()]), counted()) if way == "submit" else (counted(),)
    with adapter(*scripts, limits=Limits(max_in_flight=1)) as a:
        first = getattr(a, way)(request())
        if way == "submit":
            next(first)  # it has its script
        with pytest.raises(AdmissionRejectedError) as raised:
            getattr(a, way)(request())
        error = raised.value.error
        assert (error.code, error.reason, error.retriable) == (ErrorCode.ADMISSION_REJECT, Reason.LOCAL_LIMIT, True)
        assert error.phase is Phase.PREPARE
        with pytest.raises(AdmissionRejectedError):  # waits, until its deadline
            getattr(a, way)(request(deadline=0.02), block=True)
        events: list[Event] = []
        waiter = in_thread(lambda: events.extend(getattr(a, way)(request(), block=True)))
        first.close()
        waiter.join(10)
        assert kinds(events)[-1] == "end"


@both
def test_a_task_id_is_in_flight_once(way: str) -> None:
    with adapter(Script(steps=[Hang()]), counted()) as a:
        first = getattr(a, way)(request(task_id="one"))
        with pytest.raises(InvalidRequestError) as raised:
            getattr(a, way)(request(task_id="one"))
        assert raised.value.error.code is ErrorCode.INVALID_PARAMS
        assert isinstance(raised.value, ValueError)
        first.close()
        again = getattr(a, way)(request(task_id="one"))
        again.close()


def test_generate_may_wait_for_a_place():
    hang = Hang()
    with adapter(Script(steps=[hang, GOOD]), good(), limits=Limits(max_in_flight=1)) as a:
        first = a.submit(request())
        assert hang.reached.wait(5)
        done = []
        waiting = threading.Thread(target=lambda: done.append(a.generate(request(), block=True).text))
        waiting.start()
        until(lambda: a.places._waiting)
        hang.release()
        assert first.result().text == "ab"
        waiting.join(5)
        assert done == ["ab"]


@both
def test_no_thread_to_be_had_is_a_local_limit_and_keeps_no_place(way, monkeypatch, no_loop_thread):
    with adapter(good(), limits=Limits(max_in_flight=1)) as a:

        def start(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(AdmissionRejectedError, match=r"LOCAL_LIMIT.*no thread"):
                getattr(a, way)(request(task_id="id"))
            assert a.in_flight == 0
            with at_once():
                assert a.drain(2 * SOON)  # nothing is left that only the loop could end
        assert kinds(getattr(a, way)(request(task_id="id")))[-1] == "end"


def test_an_answer_is_made_under_no_lock():
    """One that takes its time does not hold up another stream's."""
    entered, go_on = threading.Event(), threading.Event()

    def answer(wire):
        if b"slow" in wire.body:
            entered.set()
            assert go_on.wait(10)
        return Script(steps=[frames("ta", ".")])

    with adapter(answer=answer) as a:
        slow = threading.Thread(target=lambda: list(a.stream(request(prompt="slow"))))
        slow.start()
        assert entered.wait(10)
        assert kinds(list(a.stream(request(prompt="quick"))))[-1] == "end"
        go_on.set()
        slow.join(10)
