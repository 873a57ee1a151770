"""Streams over real sockets, against servers that do with the wire what they like."""

from __future__ import annotations

import itertools
import threading
import time

import attrs
import pytest
from prometheus_client import CollectorRegistry

from worker_adapters import Limits, MetricsOptions, Properties, Retry, StreamCancelledError, Timeouts
from worker_adapters.runtime import AdapterConfig, EngineAdapter, concluding
from worker_adapters.testing.leaks import open_files
from worker_adapters.testing.server import nobody_there
from worker_adapters.transport import opening

from ..runtime.dialects import GOOD, NOW, TINY, frames, kinds, request, texts, until
from ..timers import SOON, at_once, unhurried
from .servers import BlackHole, Client, Server, chunk, head, reset

both = pytest.mark.parametrize("way", ["stream", "submit"])


def ask_nothing(_target):
    yield from ()
    return Properties(engine="tiny", observed_at=0.0, engine_version="v9")


SILENT = attrs.evolve(TINY, identify=ask_nothing)  # no version probe on the wire


def adapter(url, *, keep_alive=0.0, **config):
    dialect = attrs.evolve(SILENT, traits=attrs.evolve(SILENT.traits, keep_alive=keep_alive))
    return EngineAdapter(AdapterConfig(**{"dialect": dialect, "url": url, "retry": Retry(attempts=1), **config}))


def answering(*data: bytes, after=lambda client: None):
    def serve(client: Client):
        client.request()
        client.send(*data)
        after(client)

    return serve


CHUNKED = head("Transfer-Encoding: chunked")
LENGTH = head(f"Content-Length: {len(GOOD)}", "Connection: close")
CLOSED = head("Connection: close")


@pytest.mark.req("ADAPT-3000", "ADAPT-3001", socket=True)
@both
@pytest.mark.parametrize(
    "data",
    [
        [CHUNKED, chunk(GOOD), b"0\r\n\r\n"],
        [CHUNKED, *[chunk(bytes([b])) for b in GOOD], b"0\r\n\r\n"],
        [CHUNKED, chunk(GOOD)],  # the end sign is enough; the terminator never comes
        [LENGTH, GOOD],
        [CLOSED, GOOD],
        [head(), GOOD],
    ],
    ids=["chunked", "a byte a chunk", "no terminator", "content-length", "close", "close, unannounced"],
)
def test_every_way_to_frame_a_body(way, data):
    with Server(answering(*data)) as server, adapter(server.url) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events) == ["started", "token", "token", "metrics", "end"]
    assert texts(events) == "ab"


HALF = frames("ta")


@pytest.mark.req("ADAPT-3002", socket=True)
@both
@pytest.mark.parametrize(
    ("data", "after", "reason"),
    [
        ([CHUNKED, chunk(HALF)], None, "TRUNCATED"),
        ([CHUNKED, chunk(HALF), b"5\r\nda"], None, "TRUNCATED"),
        ([CHUNKED, chunk(HALF), b"0\r\n\r\n"], None, "TRUNCATED"),
        ([CHUNKED, chunk(HALF), b"nonsense\r\n"], None, "PROTOCOL"),
        ([head("Content-Length: 500", "Connection: close"), HALF], None, "TRUNCATED"),
        ([CLOSED, HALF], None, "TRUNCATED"),
        ([CHUNKED, chunk(HALF)], reset, "DISCONNECTED"),
        ([CLOSED, HALF], reset, "DISCONNECTED"),
    ],
)
def test_a_body_that_is_cut_is_typed_by_how_it_was_cut(way, data, after, reason):
    got = threading.Event()

    def cut(client):
        got.wait(5)
        if after:
            after(client.sock)

    with Server(answering(*data, after=cut)) as server, adapter(server.url) as a:
        events = []
        for event in getattr(a, way)(request()):
            events.append(event)
            if event.kind == "token":
                got.set()
    assert kinds(events) == ["started", "token", "error"]
    assert (events[-1].code, events[-1].reason) == ("INTERNAL" if reason == "PROTOCOL" else "WORKER_RESET", reason)


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        ([CHUNKED, b"0\r\n\r\n"], "POOL_UNAVAILABLE", "EMPTY"),
        ([head("Content-Length: 0")], "POOL_UNAVAILABLE", "EMPTY"),
        ([CHUNKED, b"5\r\nda"], "POOL_UNAVAILABLE", "TRUNCATED"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "INTERNAL", "PROTOCOL"),
        ([b"HTTP/1.1 " + b"x" * 100_000], "INTERNAL", "PROTOCOL"),
        ([head(f"X: {'x' * 70_000}")], "INTERNAL", "PROTOCOL"),
        ([head(status="302 Found") + b"x"], "INTERNAL", "REDIRECT"),
        ([head("Content-Encoding: gzip"), b"\x1f\x8b"], "INTERNAL", "PROTOCOL"),
        ([head(content_type="text/html"), b"<html>"], "INTERNAL", "PROTOCOL"),
        ([head("Content-Length: 0", status="500 Oops")], "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ([head("Content-Length: 9", status="429 Busy"), b"too busy!"], "ADMISSION_REJECT", "OVERLOADED"),
    ],
)
def test_heads_and_bodies_that_are_no_stream(data, code, reason):
    with Server(answering(*data)) as server, adapter(server.url) as a:
        events = list(a.stream(request()))
    assert kinds(events) == ["error"]
    assert (events[0].code, events[0].reason) == (code, reason)


def test_an_endless_body_of_an_error_is_bounded_in_size_and_time():
    def serve(client):
        client.request()
        client.send(head("Connection: close", status="500 Oops"))
        while True:
            client.send(b"x" * 65536)

    with Server(serve) as server, adapter(server.url, limits=Limits(max_error_body=5000)) as a:
        error = list(a.stream(request()))[-1]
    assert error.reason == "ENGINE_ERROR"
    assert len(error.upstream.message) <= 2048


@pytest.mark.parametrize("attempt", ["FIN", "RST"])
def test_a_connection_closed_before_the_head_is_disconnected_and_retried(attempt):
    def serve(client):
        client.request()
        if client.number < 2:
            if attempt == "RST":
                reset(client.sock)
            return
        client.send(CLOSED, GOOD)

    with Server(serve) as server:
        with adapter(server.url) as a:
            assert list(a.stream(request()))[-1].reason == "DISCONNECTED"
        with adapter(server.url, retry=NOW) as a:
            events = list(a.stream(request()))
    assert events[0].attempt == 2
    assert events[-1].kind == "end"


def test_nobody_there_is_refused_with_advice():
    with nobody_there() as url, adapter(url) as a:
        error = list(a.stream(request()))[-1]
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert "is the server running" in error.message


def test_a_name_that_does_not_resolve_is_told():
    with adapter("http://no-such-host.invalid:1") as a:
        error = list(a.stream(request()))[-1]
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "CONNECT")
    assert "no-such-host.invalid" in error.message


# --- time and cancel --------------------------------------------------------------------------------------------------


@pytest.mark.req("ADAPT-3005", socket=True)
def test_a_black_hole_is_a_connect_timeout():
    with BlackHole() as hole, adapter(hole.url, timeouts=Timeouts(connect=0.1)) as a:
        began = time.monotonic()
        error = list(a.stream(request()))[-1]
        took = time.monotonic() - began
    assert (error.reason, error.phase) == ("CONNECT_TIMEOUT", "connect")
    assert 0.09 < took < SOON


class Phases:
    """What a server does so that a stream hangs in a phase."""

    @staticmethod
    def queue(client, reached):
        client.request()
        reached.set()
        client.until_gone()

    @staticmethod
    def first_token(client, reached):
        client.request()
        client.send(CHUNKED)
        reached.set()
        client.until_gone()

    @staticmethod
    def decode(client, reached):
        client.request()
        client.send(CHUNKED, chunk(HALF))
        reached.set()
        client.until_gone()

    @staticmethod
    def flood(client, reached):
        client.request()
        client.send(CHUNKED)
        reached.set()
        while True:
            client.send(chunk(b":\n\n") * 100)


@pytest.mark.req("ADAPT-3101", socket=True)
@both
@pytest.mark.parametrize("phase", ["queue", "first_token", "decode", "flood"])
def test_a_cancel_wakes_a_blocked_read_and_the_server_sees_it(way, phase):
    reached, gone = threading.Event(), threading.Event()

    def serve(client):
        try:
            getattr(Phases, phase)(client, reached)
        finally:
            gone.set()

    with Server(serve) as server, adapter(server.url) as a:
        stream = getattr(a, way)(request())
        events = []
        consumer = threading.Thread(target=lambda: events.extend(stream))
        consumer.start()
        assert reached.wait(5)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
            assert gone.wait(2 * SOON)
    assert events[-1].finish_reason == "cancelled"


def consume(stream):
    events = []
    consumer = threading.Thread(target=lambda: events.extend(stream))
    consumer.start()
    return consumer, events


@both
def test_a_cancel_ends_a_connect_into_a_black_hole(way):
    with BlackHole() as hole, adapter(hole.url, timeouts=Timeouts(connect=2 * SOON)) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        until(lambda: stream._running.lifetime.phase == "connect" and stream._running.lifetime.want_fd >= 0)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
    assert kinds(events) == ["end"]


def test_a_cancel_just_before_the_connect_ends_it(monkeypatch):
    begin = opening._Race.begin

    with BlackHole() as hole, adapter(hole.url) as a:
        stream = a.stream(request())

        def begin_and_cancel(self, address):
            begin(self, address)
            stream.cancel()

        monkeypatch.setattr(opening._Race, "begin", begin_and_cancel)
        consumer, events = consume(stream)
        consumer.join(5)
        assert kinds(events) == ["end"]


@both
def test_a_worker_that_is_blocked_in_a_write_is_let_go_at_the_deadline_though_nobody_reads(way):
    """A FIN does not wake it, and a socket that was shut down opens no window: for a minute it would hold its slot."""
    gone = threading.Event()

    def serve(client):
        client.request()
        try:
            client.send(CHUNKED)
            while True:
                client.send(chunk(frames("tx")) * 100)
        except OSError:
            gone.set()

    def run(scale):
        gone.clear()
        with Server(serve) as server, adapter(server.url, limits=Limits(hand_over=2)) as a:
            stream = getattr(a, way)(request(deadline=0.3 * scale))
            before = kinds(itertools.islice(stream, 2))
            assert before[-1] == "error" or gone.wait(2 * SOON)
            return [*before, *(event.reason for event in stream if event.kind == "error")]

    expected = ["started", "token", "DEADLINE"]
    assert unhurried(run, lambda found: found == expected) == expected


@pytest.mark.req("ADAPT-3005", socket=True)
def test_a_server_that_trickles_can_not_outlive_the_deadline():
    def serve(client):
        client.request()
        client.send(CHUNKED)
        while True:
            client.send(chunk(b"d"))
            threading.Event().wait(0.005)

    with Server(serve) as server, adapter(server.url) as a, at_once():
        error = list(a.stream(request(deadline=0.15)))[-1]
    assert error.reason == "DEADLINE"


def test_the_engine_is_let_go_at_the_deadline_though_nobody_reads():
    gone = threading.Event()

    def serve(client):
        client.request()
        client.send(CHUNKED, chunk(HALF))
        client.until_gone()
        gone.set()

    def run(scale):
        gone.clear()
        with Server(serve) as server, adapter(server.url) as a:
            stream = a.stream(request(deadline=0.1 * scale))
            if next(stream).kind == "error":
                return None
            assert gone.wait(2 * SOON)
            return list(stream)[-1].reason

    assert unhurried(run, lambda reason: reason == "DEADLINE") == "DEADLINE"


def test_a_large_request_is_sent_whole():
    sizes = []

    def serve(client):
        sizes.append(len(client.request()))
        client.send(CLOSED, GOOD)

    with Server(serve) as server, adapter(server.url) as a:
        assert list(a.stream(request(prompt="x" * 5_000_000)))[-1].kind == "end"
        assert sizes[0] > 5_000_000


# --- connections ------------------------------------------------------------------------------------------------------


def keeping(client):
    while client.request():
        client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")


@both
def test_streams_one_after_another_share_a_connection(way):
    with Server(keeping) as server, adapter(server.url, keep_alive=4.0) as a:
        for _ in range(20):
            assert list(getattr(a, way)(request()))[-1].kind == "end"
            assert a.drain(5)
        assert server.connections == 1


def test_a_kept_connection_outlives_short_timers_of_an_earlier_stream():
    """The drain at the end sets a timeout on the socket; the next stream must not inherit it."""

    def serve(client):
        client.request()
        client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        client.request()
        threading.Event().wait(0.3)
        client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        client.until_gone()

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        for _ in range(2):
            assert list(a.stream(request()))[-1].kind == "end"
        assert server.connections == 1


def test_a_late_terminator_costs_the_connection_and_no_time(monkeypatch):
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 0.1)  # as it is

    def serve(client):
        while client.request():
            client.send(CHUNKED, chunk(GOOD))
            client.until_gone()

    with Server(serve) as server, adapter(server.url, keep_alive=2 * SOON) as a:
        with at_once():
            for _ in range(2):
                assert list(a.stream(request()))[-1].kind == "end"
        assert server.connections == 2


def test_an_engine_that_closes_after_every_stream_gets_new_connections():
    with Server(keeping) as server, adapter(server.url, keep_alive=0.0) as a:
        for _ in range(3):
            assert list(a.stream(request()))[-1].kind == "end"
        assert server.connections == 3


def test_an_idle_connection_is_not_reused_beyond_its_time():
    with Server(keeping) as server, adapter(server.url, keep_alive=0.03) as a:
        list(a.stream(request()))
        time.sleep(0.05)  # the subject
        list(a.stream(request()))
        assert server.connections == 2


@both
@pytest.mark.parametrize("how", ["FIN", "RST", "on request"])
def test_a_kept_connection_that_went_stale_is_replaced_silently(way, how):
    """No byte of a response came, so it counts as no attempt."""
    dropped = threading.Event()

    def serve(client):
        client.request()
        client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        if client.number == 0:
            if how == "on request":
                client.request()
            if how == "RST":
                reset(client.sock)
            else:
                client.sock.close()
            dropped.set()
        else:
            client.until_gone()

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        list(getattr(a, way)(request()))
        assert how == "on request" or dropped.wait(5)
        events = list(getattr(a, way)(request()))
        assert server.connections == 2
    assert events[-1].kind == "end"
    assert events[0].attempt == 1


@both
def test_it_is_replaced_once_only(way):
    def serve(client):
        if client.number == 0:
            client.request()
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        client.request()

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        list(getattr(a, way)(request()))
        assert list(getattr(a, way)(request()))[-1].reason == "DISCONNECTED"
        assert server.connections == 2


def test_a_body_whose_end_is_there_is_read_to_it_however_late_that_is(monkeypatch):
    """By a process that stood still for longer than the end is waited for: the connection is kept all the same."""
    monkeypatch.setattr(concluding, "DRAIN_SECONDS", 0.0)
    read, sent = threading.Event(), threading.Event()

    def serve(client):
        while client.request():
            client.send(CHUNKED, chunk(GOOD))
            assert read.wait(2 * SOON)
            client.send(b"0\r\n\r\n")
            sent.set()

    with Server(serve) as server, adapter(server.url, keep_alive=2 * SOON) as a:
        for event in a.stream(request()):
            if event.kind == "token":
                read.set()
                assert sent.wait(2 * SOON)
        assert event.kind == "end"
        assert list(a.stream(request()))[-1].kind == "end"
        assert server.connections == 1


@both
def test_the_first_token_timer_goes_on_over_the_replacement(way):
    """The engine has the request for no longer than the caller allows, however many connections that takes."""

    def run(scale):
        def serve(client):
            client.request()
            if client.number == 0:
                client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
                client.request()
                time.sleep(0.4 * scale)  # the subject
            else:
                client.until_gone()

        timeouts = Timeouts(first_token=0.6 * scale)
        with Server(serve) as server, adapter(server.url, keep_alive=100.0, timeouts=timeouts) as a:
            list(getattr(a, way)(request()))
            began = time.monotonic()
            error = list(getattr(a, way)(request()))[-1]
            took = time.monotonic() - began
        return error.reason, error.attempts, server.connections, took / scale

    *came, took = unhurried(run, lambda found: found[2] == 2 and found[3] < 0.9)
    assert came == ["FIRST_TOKEN_TIMEOUT", 1, 2]
    assert 0.59 < took < 0.9  # 1.0 if it began anew


@both
def test_it_is_not_replaced_once_a_byte_of_a_response_has_come(way):
    def serve(client):
        client.request()
        if client.number == 0:
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
            client.request()
        client.send(b"HTTP/1.1 200 OK\r\nConten")

    with Server(serve) as server, adapter(server.url, keep_alive=4.0, retry=NOW) as a:
        list(getattr(a, way)(request()))
        error = list(getattr(a, way)(request()))[-1]
        assert (error.reason, error.phase, error.attempts) == ("DISCONNECTED", "first_token", 1)
        assert server.connections == 1


@both
def test_fifty_cancelled_streams_leave_no_descriptor(way):
    def serve(client):
        client.request()
        client.send(CHUNKED, chunk(HALF))
        client.until_gone()

    with Server(serve) as server, adapter(server.url) as a:
        mine = lambda: sum("socket" in target for target in open_files().values())  # noqa: E731
        for n in range(50):
            with getattr(a, way)(request()) as stream:
                next(stream)
                if n % 2:
                    next(stream)
                    stream.cancel()
        assert a.drain(5)
        until(lambda: mine() <= 1 or not any(t.is_alive() for t in server._threads[1:]))
        assert a.in_flight == 0


def test_many_streams_at_once_with_cancels_among_them():
    """Every other stream is cut; none of the others may be touched by it, whoever uses the connections next."""

    def serve(client):
        while asked := client.request():
            if b"slow" in asked:
                client.send(CHUNKED, chunk(HALF))
                client.until_gone()
                return
            client.send(CHUNKED, *[chunk(HALF)] * 20, chunk(frames(".")), b"0\r\n\r\n")

    wrong = []

    def work(a):
        for n in range(25):
            slow = a.submit(request(prompt="slow"))
            next(slow)
            slow.cancel()
            events = list((a.stream if n % 2 else a.submit)(request()))
            if events[-1].kind != "end" or texts(events) != "a" * 20 or events[0].attempt != 1:
                wrong.append(events[-1])

    with Server(serve) as server, adapter(server.url, keep_alive=4.0) as a:
        threads = [threading.Thread(target=work, args=(a,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# --- requests ---------------------------------------------------------------------------------------------------------


def test_what_is_sent_is_what_is_meant_to_be(monkeypatch):
    """No proxy or credential of the environment, no encodings, the token in one header only."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    asked = []

    def serve(client):
        asked.append(client.request())
        client.send(CLOSED, GOOD)

    with Server(serve) as server, adapter(server.url + "/base/", credentials=lambda: "tok3n") as a:
        assert list(a.stream(request(prompt="é")))[-1].kind == "end"
    top, _, body = asked[0].partition(b"\r\n\r\n")
    line, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (h.partition(": ") for h in lines)}
    assert line == "POST /base/generate HTTP/1.1"
    assert len(headers) == len(lines)
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("worker-adapters/")
    assert headers["authorization"] == "Bearer tok3n"
    assert asked[0].count(b"tok3n") == 1
    assert int(headers["content-length"]) == len(body)
    assert body.startswith("é ".encode())


def test_a_redirect_is_not_followed_and_carries_the_token_nowhere():
    stranger_asked = []

    def stranger(client):
        stranger_asked.append(client.request())

    with (
        Server(stranger) as other,
        Server(answering(head(f"Location: {other.url}/", "Content-Length: 0", status="307 Elsewhere"))) as server,
        adapter(server.url, credentials=lambda: "tok3n") as a,
    ):
        error = list(a.stream(request()))[-1]
    assert (error.reason, error.upstream.status) == ("REDIRECT", 307)
    assert other.url in error.message
    assert stranger_asked == []


@pytest.mark.req("ADAPT-3004", socket=True)
@both
def test_a_stream_over_a_socket_is_counted_and_logged(way, caplog):
    caplog.set_level("INFO", "worker_adapters")
    registry = CollectorRegistry()
    metrics = MetricsOptions(registry=registry)
    with Server(answering(CLOSED, GOOD)) as server, adapter(server.url, metrics=metrics, replica_id="r") as a:
        assert kinds(getattr(a, way)(request(task_id="id")))[-1] == "end"
        assert a.drain(5)
    counted = {
        s.name: s.value for family in registry.collect() for s in family.samples if s.labels.get("replica_id") == "r"
    }
    assert counted["tokens_out_total"] == 2
    assert counted["latency_first_token_ms_count"] == 1
    (line,) = caplog.records
    assert (line.task_id, line.engine, line.tokens_out, line.code) == ("id", "tiny", 2, None)


def test_a_thread_that_collects_what_another_one_has_given_up_waiting_for_is_woken():
    """What reads in C waits with whoever drives it now, not with whom it was begun by."""
    silent, ended, given_up = threading.Event(), [], threading.Event()

    def give_up(stream):
        with pytest.raises(TimeoutError):
            stream.result(0.05)
        given_up.set()
        silent.wait(2 * SOON)  # and goes on, with something else

    def collect(stream):
        with pytest.raises(StreamCancelledError) as cancelled:
            stream.result()
        ended.append(cancelled.value.partial.text)

    with (
        Server(answering(CHUNKED, chunk(HALF), after=lambda _client: silent.wait(2 * SOON))) as server,
        adapter(server.url) as a,
    ):
        stream = a.stream(request())
        first = threading.Thread(target=give_up, args=(stream,))
        first.start()
        assert given_up.wait(5)
        second = threading.Thread(target=collect, args=(stream,))
        second.start()
        until(lambda: stream._running.driver == second.ident and stream._running.tokens_seen)
        stream.cancel()
        second.join(SOON)
        silent.set()
        first.join(5)
    assert ended == ["a"]
