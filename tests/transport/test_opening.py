"""From a name to a connection: several addresses (RFC 8305), and look-ups that do not return."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from worker_adapters import Timeouts
from worker_adapters.helpers import HELPERS
from worker_adapters.testing.server import nobody_there
from worker_adapters.transport import opening

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON, at_once, unhurried
from .servers import BlackHole, Server
from .test_streams import CLOSED, adapter, answering, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])
URL = "http://many.test:1"
TOO_LONG = 2 * SOON  # seconds: a timer that is not the subject


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def port_of(url):
    return int(url.rpartition(":")[2])


def found(*where):
    """What getaddrinfo would give for these, of which each is an URL, or a host and a port."""
    pairs = [("127.0.0.1", port_of(one)) if isinstance(one, str) else one for one in where]
    return [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))
        for host, port in pairs
    ]


@pytest.fixture
def resolves_to(monkeypatch):
    return lambda *where: monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found(*where))


@pytest.fixture
def made(monkeypatch):
    """Every socket that was made to connect."""
    socks = []

    class Noted(opening.Socket):
        def __init__(self, *args):
            super().__init__(*args)
            socks.append(self)

    monkeypatch.setattr(opening, "Socket", Noted)
    return socks


@pytest.fixture
def refusing():
    with nobody_there() as url:
        yield url


@pytest.fixture
def hole():
    with BlackHole() as black:
        yield black.url


@pytest.fixture
def server():
    with Server(answering(CLOSED, GOOD)) as one:
        yield one


def all_closed(socks):
    return all(sock.fileno() == -1 for sock in socks)


# --- several addresses ------------------------------------------------------------------------------------------------


@both
def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second_and_no_attempt(
    way, hole, server, resolves_to, made
):
    resolves_to(hole, server.url)
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        began = time.monotonic()
        events = list(getattr(a, way)(request()))
        took = time.monotonic() - began
    assert kinds(events)[-1] == "end"
    assert events[0].attempt == 1
    assert opening.STAGGER * 0.99 < took < SOON
    assert len(made) == 2
    assert all_closed(made)


@both
def test_an_address_that_refuses_costs_nothing(way, refusing, server, resolves_to, made, monkeypatch):
    monkeypatch.setattr(opening, "STAGGER", TOO_LONG)
    resolves_to(refusing, refusing, server.url)
    with adapter(URL, timeouts=Timeouts(connect=2 * TOO_LONG)) as a, at_once():
        events = list(getattr(a, way)(request()))
    assert (kinds(events)[-1], events[0].attempt) == ("end", 1)
    assert len(made) == 3
    assert all_closed(made)


@both
def test_the_first_one_may_still_win_when_the_second_has_begun(way, server, refusing, resolves_to, monkeypatch):
    """The second fails while the first is slow: that ends nothing."""
    monkeypatch.setattr(opening, "STAGGER", 0.0)
    resolves_to(server.url, refusing)
    with adapter(URL) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"


@both
def test_a_refusal_after_a_black_hole_does_not_end_the_wait_for_it(way, hole, refusing, resolves_to, made):
    resolves_to(hole, refusing)
    with adapter(URL, timeouts=Timeouts(connect=0.4)) as a:
        (error,) = getattr(a, way)(request())
    assert error.reason == "CONNECT_TIMEOUT"
    assert all_closed(made)


@both
@pytest.mark.parametrize("last", ["refused", "unreachable"])
def test_where_all_fail_the_last_error_is_told(way, last, refusing, resolves_to, made):
    nowhere = ("255.255.255.255", 9)
    resolves_to(*((nowhere, refusing) if last == "refused" else (refusing, nowhere)))
    with adapter(URL) as a:
        (error,) = getattr(a, way)(request())
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert ("refused" in error.message) is (last == "refused")
    assert "many.test:1" in error.message
    assert all_closed(made)


def test_a_name_without_an_address_is_told(resolves_to):
    resolves_to()
    with adapter(URL) as a:
        (error,) = a.stream(request())
    assert error.reason == "CONNECT"
    assert "can't be resolved" in error.message


@pytest.mark.parametrize("way", ["stream", "submit"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, "can't be resolved: TypeError"),
        ([(socket.AF_INET, 1)], "can't be resolved: not enough values"),
        ([(socket.AF_INET, 1, 6, "", ("127.0.0.1", "80"))], "it is no address"),
        ([(socket.AF_INET, 1, 6, "", ("127.0.0.1", 1 << 20))], "it is no address"),
        (TimeoutError(), "can't be resolved: TimeoutError"),
        (UnicodeError("label too long"), "can't be resolved: label too long"),
        (SystemExit(3), "can't be resolved: SystemExit: 3"),
    ],
    ids=repr,
)
def test_what_a_resolver_of_somebody_elses_may_say_and_raise(way, said, told, monkeypatch):
    """Its exit is not that of the thread that asks: it runs on another one."""

    def resolve(*_args, **_named):
        if isinstance(said, BaseException):
            raise said
        return said

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with adapter(URL) as a:
        (error,) = getattr(a, way)(request())
        detail = a.health().detail
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "CONNECT")
    assert told in error.message
    assert told in detail


@both
def test_the_families_are_tried_in_turn(way, refusing, resolves_to, monkeypatch):
    monkeypatch.setattr(opening, "STAGGER", 0.02)
    tried = []
    begin = opening._Race.begin
    monkeypatch.setattr(opening._Race, "begin", lambda self, one: (tried.append(one[3][0]), begin(self, one))[1])
    six = [(f"2001:db8::{n}", 9) for n in (1, 2)]
    resolves_to(*six, refusing, ("127.0.0.2", port_of(refusing)), ("127.0.0.3", port_of(refusing)))
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        stream = getattr(a, way)(request())
        consumer, _ = consume(stream)
        until(lambda: len(tried) == 5 or not consumer.is_alive())
        stream.cancel()
        consumer.join(5)
    assert tried == [six[0][0], "127.0.0.1", six[1][0], "127.0.0.2", "127.0.0.3"]


@needs_ipv6
@both
def test_an_ipv6_literal(way):
    asked = []

    def serve(client):
        asked.append(client.request())
        client.send(CLOSED, GOOD)

    with Server(serve, host="::1") as server, adapter(server.url) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert f"Host: [::1]:{server.port}\r\n".encode() in asked[0]


@needs_ipv6
@both
def test_the_other_family_takes_over_at_once_where_one_refuses(way, refusing, server, resolves_to, monkeypatch):
    monkeypatch.setattr(opening, "STAGGER", TOO_LONG)
    resolves_to(("::1", port_of(refusing)), server.url)
    with adapter(URL, timeouts=Timeouts(connect=2 * TOO_LONG)) as a, at_once():
        assert kinds(getattr(a, way)(request()))[-1] == "end"


@both
def test_the_connect_timer_covers_all_addresses(way, hole, resolves_to, made, monkeypatch):
    resolves_to(hole, hole, hole, hole)
    stagger = opening.STAGGER

    def run(scale):
        made.clear()
        monkeypatch.setattr(opening, "STAGGER", stagger * scale)
        with adapter(URL, timeouts=Timeouts(connect=0.6 * scale)) as a:
            began = time.monotonic()
            (error,) = getattr(a, way)(request())
            took = time.monotonic() - began
        assert (error.reason, error.phase) == ("CONNECT_TIMEOUT", "connect")
        return took / scale

    took = unhurried(run, lambda took: took < 1.0 and len(made) == 3)
    assert 0.59 < took < 1.0  # 2.4 if each had one of its own
    assert len(made) == 3
    assert all_closed(made)


@both
def test_a_cancel_ends_a_race(way, hole, resolves_to, made, monkeypatch):
    monkeypatch.setattr(opening, "STAGGER", 0.01)
    resolves_to(hole, hole, hole)
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        until(lambda: len(made) == 3)
        with at_once():
            stream.cancel()
            consumer.join(2 * SOON)
        assert a.drain(5)
        assert all_closed(made)
    assert kinds(events) == ["end"]


@both
def test_a_deadline_ends_a_race(way, hole, resolves_to, made, monkeypatch):
    monkeypatch.setattr(opening, "STAGGER", 0.01)
    resolves_to(hole, hole, hole)

    def run(scale):
        made.clear()
        with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
            began = time.monotonic()
            (error,) = getattr(a, way)(request(deadline=0.1 * scale))
            assert 0.09 * scale < time.monotonic() - began < SOON
            assert a.drain(5)
        assert error.reason == "DEADLINE"
        assert all_closed(made)
        return len(made)

    assert unhurried(run, lambda tried: tried == 3) == 3


# --- look-ups ---------------------------------------------------------------------------------------------------------


class Resolver:
    """A look-up that returns when it is let go. `asked`: hosts, in the order of the calls; `most`: calls at once."""

    def __init__(self, where):
        self.asked, self.most = [], 0
        self.go = threading.Event()
        self._inside = []
        self._where = where

    def __call__(self, host, *_args):
        self.asked.append(host)
        self._inside.append(host)
        self.most = max(self.most, len(self._inside))
        self.go.wait(30)
        self._inside.remove(host)
        return found(self._where)


@pytest.fixture
def resolver(monkeypatch, refusing):
    one = Resolver(refusing)
    monkeypatch.setattr(socket, "getaddrinfo", one)
    yield one
    one.go.set()
    until(lambda: HELPERS.in_use == 0)


@both
@pytest.mark.parametrize("by", ["connect timer", "deadline", "cancel"])
def test_a_look_up_that_hangs_is_left_at_once_and_counted_until_it_returns(way, by, resolver):

    def run(scale):
        enough = 0.5 * scale  # seconds to begin a look-up
        timeouts = Timeouts(connect=enough if by == "connect timer" else TOO_LONG)
        with adapter(URL, timeouts=timeouts) as a:
            stream = getattr(a, way)(request(deadline=enough if by == "deadline" else None))
            consumer, events = consume(stream)
            until(lambda: resolver.asked or events)
            if by == "cancel":
                with at_once():
                    stream.cancel()
                    consumer.join(2 * SOON)
            consumer.join(2 * SOON)
            assert kinds(events) == ["end" if by == "cancel" else "error"]
            if by != "cancel":
                assert events[0].reason == ("DEADLINE" if by == "deadline" else "CONNECT_TIMEOUT")
            if resolver.asked:
                until(lambda: HELPERS.abandoned == 1)
            return list(resolver.asked)

    assert unhurried(run, bool) == ["many.test"]
    resolver.go.set()
    until(lambda: HELPERS.abandoned == HELPERS.in_use == 0)


@both
def test_closing_the_adapter_does_not_wait_for_a_look_up(way, resolver):
    a = adapter(URL, timeouts=Timeouts(connect=TOO_LONG))
    consumer, events = consume(getattr(a, way)(request()))
    until(lambda: resolver.asked)
    with at_once():
        a.close()
        consumer.join(2 * SOON)
    assert kinds(events) == ["end"]


def waiting():
    """Who waits for a look-up that has not begun; version probes do, too."""
    return sum(1 + len(job.others) for job in list(HELPERS._waiting) if job.key[0] == "look-up")


def looked_up(way, adapters):
    return [consume(getattr(one, way)(request())) for one in adapters]


def stuck_twice(way, a, resolver):
    """Two streams whose look-ups are under way."""
    streams = []
    for asked in (1, 2):
        streams.append(getattr(a, way)(request()))
        streams[-1] = streams[-1], *consume(streams[-1])
        until(lambda: len(resolver.asked) == asked)  # noqa: B023
    return streams


@both
def test_of_one_host_two_look_ups_are_under_way_at_a_time_and_others_share_the_next(way, resolver):
    """Hundreds of streams that begin at once had to wait for hundreds of look-ups, two at a time."""
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        under_way = stuck_twice(way, a, resolver)
        streams = looked_up(way, [a] * 50)
        until(lambda: waiting() == 50)
        assert resolver.asked == ["many.test"] * 2
        resolver.go.set()
        for consumer, events in [*[one[1:] for one in under_way], *streams]:
            consumer.join(SOON)
            assert "refused" in events[-1].message
    assert len(resolver.asked) == 3
    assert resolver.most == 2


@both
def test_who_shares_a_look_up_does_not_depend_on_who_asked_for_it(way, resolver):
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        under_way = stuck_twice(way, a, resolver)
        first = getattr(a, way)(request())
        asking, _ = consume(first)
        until(lambda: waiting() == 1)
        consumer, events = consume(getattr(a, way)(request()))
        until(lambda: waiting() == 2)
        first.cancel()
        asking.join(SOON)
        until(lambda: waiting() == 1)
        resolver.go.set()
        for one in [consumer, *[one[1] for one in under_way]]:
            one.join(SOON)
        assert "refused" in events[-1].message


@both
def test_of_all_hosts_thirty_two_are(way, resolver):
    adapters = [adapter(f"http://host-{n}.test:1") for n in range(36)]
    streams = looked_up(way, adapters)
    until(lambda: len(resolver.asked) >= 32 and len(resolver.asked) + waiting() == 36)
    assert len(resolver.asked) == 32
    resolver.go.set()
    for (consumer, events), one in zip(streams, adapters, strict=True):
        consumer.join(5)
        assert "refused" in events[-1].message
        one.close()
    assert len(resolver.asked) == 36
    assert resolver.most == 32


@both
def test_streams_that_wait_for_a_look_up_in_vain_leave_the_queue(way, resolver):
    with adapter(URL, timeouts=Timeouts(connect=TOO_LONG)) as a:
        under_way = stuck_twice(way, a, resolver)
        streams = [getattr(a, way)(request()) for _ in range(3)]
        consumers = [consume(stream) for stream in streams]
        until(lambda: waiting() == 3)
        for stream in [*streams, *[one[0] for one in under_way]]:
            stream.cancel()
        for consumer, events in [*consumers, *[one[1:] for one in under_way]]:
            consumer.join(SOON)
            assert kinds(events) == ["end"]
        resolver.go.set()
        until(lambda: HELPERS.in_use == 0)
    assert len(resolver.asked) == 2
