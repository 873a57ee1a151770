"""Through an HTTP proxy: in absolute form, or in a tunnel for TLS; its own refusals, and leaving in the middle of it."""

from __future__ import annotations

import base64
import threading

import attrs
import pytest

from worker_adapters import TLS, InvalidRequestError, Retry, Timeouts, as_completed, connect, merge
from worker_adapters.testing.server import nobody_there

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON, unhurried
from .relays import CONSENT, RelayProxy, fields_of, line_of
from .servers import BlackHole, Server, chunk, head, reset
from .test_streams import SILENT, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])
ONCE = Retry(attempts=1)
PASSWORD = "s3cr/t:pass"
USER = "http://us%65r:s3cr%2Ft%3Apass@"
BASIC = base64.b64encode(b"user:" + PASSWORD.encode()).decode()


def reach(url, *, keep_alive=0.0, **config):
    dialect = attrs.evolve(SILENT, traits=attrs.evolve(SILENT.traits, keep_alive=keep_alive))
    return connect(dialect, url, **{"retry": ONCE, **config})


def with_user(proxy):
    return proxy.url.replace("http://", USER)


def engine(client):
    while asked := client.request():
        if asked.startswith(b"POST"):
            client.send(head("Transfer-Encoding: chunked"), chunk(GOOD), b"0\r\n\r\n")
        else:
            client.send(head("Content-Length: 4", content_type="text/plain"), b"fine")


@pytest.fixture
def worker():
    seen = []

    def serve(client):
        while asked := client.request():
            seen.append(asked)
            if asked.startswith(b"POST"):
                client.send(head("Transfer-Encoding: chunked"), chunk(GOOD), b"0\r\n\r\n")
            else:
                client.send(head("Content-Length: 4", content_type="text/plain"), b"fine")

    with Server(serve) as server:
        server.seen = seen
        yield server


@pytest.fixture
def secure(context):
    with Server(engine, tls=context) as server:
        yield server


@pytest.fixture
def trusting(certificates):
    return {"tls": TLS(ca_bundle=certificates.ca)}


# --- the two forms ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.req("ADAPT-3300", socket=True)
def test_a_plain_worker_is_asked_for_in_absolute_form(way, worker):
    with RelayProxy() as proxy, reach(f"{worker.url}/a b", proxy=with_user(proxy), headers={"X-Tenant": "blue"}) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
        targets = {line_of(asked).split(" ")[1] for asked in proxy.asked}
        for asked in proxy.asked:
            fields = fields_of(asked)
            assert fields["host"] == f"127.0.0.1:{worker.port}"
            assert fields["proxy-authorization"] == f"Basic {BASIC}"
            assert fields["x-tenant"] == "blue"
    assert targets == {f"{worker.url}/a%20b/generate", f"{worker.url}/a%20b/health"}


@both
@pytest.mark.req("ADAPT-3300", socket=True)
def test_tls_goes_through_a_tunnel(way, secure, trusting):
    with RelayProxy() as proxy, reach(secure.url, proxy=with_user(proxy), headers={"X-Key": "blue"}, **trusting) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
        for asked in proxy.asked:
            assert line_of(asked) == f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1"
            fields = fields_of(asked)
            assert fields["host"] == f"127.0.0.1:{secure.port}"
            assert fields["proxy-authorization"] == f"Basic {BASIC}"
            assert set(fields) == {"host", "proxy-authorization", "user-agent"}  # the rest is the worker's only


@pytest.mark.req("ADAPT-3300", socket=True)
def test_merged_streams_go_through_the_proxy_in_both_forms(worker, secure, trusting):
    for url in (worker.url, secure.url):
        with RelayProxy() as proxy, reach(url, proxy=with_user(proxy), **trusting) as a:
            streams = [a.submit(request()) for _ in range(5)]
            ended = [stream for stream, event in merge(streams) if event.kind == "end"]
            assert set(ended) == set(streams)
            assert len(proxy.asked) >= 5
            assert [stream.exception() for stream in as_completed([a.submit(request()) for _ in range(3)])] == [
                None
            ] * 3


def test_a_merge_that_is_left_ends_what_still_waits_for_a_tunnel():
    with Hanging(CONSENT[:15]) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        merged = merge([a.submit(request())])
        assert proxy.reached.wait(10)
        merged.close()
        assert proxy.left.wait(10)
        until(lambda: a.in_flight == 0)


def test_a_tunnel_is_kept_as_any_connection(secure, trusting):
    with RelayProxy() as proxy, reach(secure.url, proxy=proxy.url, keep_alive=4.0, **trusting) as a:
        for way in (a.stream, a.submit):
            assert kinds(way(request()))[-1] == "end"
        assert a.health().ready
        assert len(proxy.asked) == 1


def test_a_password_is_given_to_nobody_but_the_proxy(secure, trusting):
    with RelayProxy() as proxy, reach(secure.url, proxy=proxy.url, **trusting) as a:
        assert kinds(a.stream(request()))[-1] == "end"
        assert "proxy-authorization" not in fields_of(proxy.asked[0])


@both
def test_no_proxy_is_taken_from_the_environment(way, worker, monkeypatch):
    with nobody_there() as nowhere:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, nowhere)
        with reach(worker.url) as a:
            assert kinds(getattr(a, way)(request()))[-1] == "end"
            assert a.health().ready


@both
def test_no_exception_to_a_proxy_is_taken_from_the_environment(way, worker, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with RelayProxy() as proxy, reach(worker.url, proxy=proxy.url) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
        assert len(proxy.asked) == 2


@both
@pytest.mark.parametrize(
    "consent",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",  # neither means anything here
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\nVia: x\r\n\r\n",
    ],
)
def test_consents_of_every_kind(way, consent, secure, trusting):
    with RelayProxy(consent) as proxy, reach(secure.url, proxy=proxy.url, **trusting) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"


@both
def test_a_consent_that_comes_byte_by_byte(way, secure, trusting):
    class Slow(RelayProxy):
        def _relay(self, client):
            send = client.send
            client.send = lambda data: [send(bytes([byte])) for byte in data]
            super()._relay(client)

    with Slow() as proxy, reach(secure.url, proxy=proxy.url, **trusting) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"


# --- what goes wrong --------------------------------------------------------------------------------------------------

REFUSALS = [
    (407, "INTERNAL", "UPSTREAM_AUTH"),
    (403, "INTERNAL", "UPSTREAM_AUTH"),
    (405, "INTERNAL", "UNSUPPORTED"),
    (302, "INTERNAL", "REDIRECT"),
    (429, "ADMISSION_REJECT", "OVERLOADED"),
    (400, "POOL_UNAVAILABLE", "CONNECT"),
    (502, "POOL_UNAVAILABLE", "CONNECT"),
    (503, "POOL_UNAVAILABLE", "CONNECT"),
    (504, "POOL_UNAVAILABLE", "CONNECT"),
]


def refusing(status):
    """It echoes what it was sent, as some do."""

    def serve(client):
        while asked := client.request():
            client.send(head(f"Content-Length: {len(asked)}", "Retry-After: 2", status=f"{status} no"), asked)

    return Server(serve)


@both
@pytest.mark.parametrize(("status", "code", "reason"), REFUSALS)
@pytest.mark.req("ADAPT-3002", socket=True)
def test_a_refused_tunnel_is_typed_and_names_the_proxy(way, status, code, reason):
    with refusing(status) as proxy, reach("https://engine.test", proxy=with_user(proxy)) as a:
        (error,) = getattr(a, way)(request())
        health = a.health()
    assert (error.code, error.reason, error.phase) == (code, reason, "connect")
    assert error.upstream.status == status
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message
    assert "engine.test:443" in error.message
    assert health.live is False
    assert f"the proxy 127.0.0.1:{proxy.port}" in health.detail
    for secret in (PASSWORD, BASIC):
        assert secret not in repr(error) + str(error.upstream.message) + health.detail


def test_a_proxy_that_is_overloaded_says_for_how_long():
    with refusing(429) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        (error,) = a.stream(request())
    assert error.retry_after_ms == 2000


@both
@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_that_can_not_reach_the_worker_is_asked_again(way, status, secure, trusting):
    class Recovering(RelayProxy):
        def _relay(self, client):
            if client.number == 0:
                self.asked.append(client.request())
                client.send(head("Content-Length: 0", status=f"{status} no"))
            else:
                super()._relay(client)

    again = Retry(attempts=2, base=0.0)
    with Recovering() as proxy, reach(secure.url, proxy=proxy.url, retry=again, **trusting) as a:
        events = list(getattr(a, way)(request()))
    assert (kinds(events)[-1], events[0].attempt) == ("end", 2)


# What proxies say of themselves: Squid 5.7 and tinyproxy 1.11 as seen, and RFC 9209.
OWN = {
    "squid": (503, ["Server: squid/5.7", "X-Squid-Error: ERR_CONNECT_FAIL 111", "Via: 1.1 x (squid/5.7)"], "CONNECT"),
    "squid, no name": (502, ["X-Squid-Error: ERR_DNS_FAIL 0"], "CONNECT"),
    "squid, forbidden": (403, ["Server: squid/5.7", "X-Squid-Error: ERR_ACCESS_DENIED 0"], "UPSTREAM_AUTH"),
    "tinyproxy": (500, ["Server: tinyproxy/1.11.1"], "CONNECT"),
    "tinyproxy, filtered": (403, ["Server: tinyproxy/1.11.1"], "UPSTREAM_AUTH"),
    "who asks": (401, ["Proxy-Authenticate: Basic realm=x"], "UPSTREAM_AUTH"),
    "RFC 9209": (502, ['Proxy-Status: relay.test; error=connection_refused; details="x"'], "CONNECT"),
}
WORKERS = {
    "its server": (502, ["Server: uvicorn", "Via: 1.1 squid.test (squid/5.7)"], "ENGINE_ERROR"),
    "passed on": (502, ["Proxy-Status: relay.test; received-status=502"], "ENGINE_ERROR"),
    "says nothing": (403, [], "UPSTREAM_AUTH"),
}


@pytest.mark.parametrize("way", ["stream", "submit", "merge"])
@pytest.mark.parametrize("name", [*OWN, *WORKERS])
def test_in_absolute_form_a_proxys_own_refusal_is_told_from_a_workers(way, name):
    status, lines, reason = {**OWN, **WORKERS}[name]

    def serve(client):
        while client.request():
            client.send(head("Content-Length: 0", "Retry-After: 2", *lines, status=f"{status} no"))

    with Server(serve) as proxy, reach("http://engine.test", proxy=proxy.url) as a:
        (error,) = (
            [event for _, event in merge([a.submit(request())])] if way == "merge" else getattr(a, way)(request())
        )
        health = a.health()
    assert (error.reason, error.upstream.status) == (reason, status)
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message
    assert error.retry_after_ms == 2000
    assert ("refused to ask" in error.message) == (name in OWN)
    assert health.live == (name in WORKERS)
    assert not health.ready


@both
@pytest.mark.parametrize(
    ("status", "reason"), [(407, "UPSTREAM_AUTH"), (403, "UPSTREAM_AUTH"), (502, "ENGINE_ERROR"), (504, "ENGINE_ERROR")]
)
def test_a_refusal_in_absolute_form_names_the_proxy_too(way, status, reason):
    with refusing(status) as proxy, reach("http://engine.test", proxy=with_user(proxy)) as a:
        (error,) = getattr(a, way)(request())
    assert error.reason == reason
    assert error.upstream.status == status
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message
    assert BASIC not in repr(error)


def closing(client):
    client.request()


def resetting(client):
    client.request()
    reset(client.sock)


def within_the_head(client):
    client.request()
    client.send(CONSENT[:20])


def talking_ssh(client):
    client.request()
    client.send(b"SSH-2.0-OpenSSH_9\r\n")


@both
@pytest.mark.parametrize("proxy_does", [closing, resetting, within_the_head, talking_ssh])
def test_a_proxy_that_breaks_off_is_a_failure_to_connect(way, proxy_does):
    with Server(proxy_does) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        (error,) = getattr(a, way)(request())
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message


@both
@pytest.mark.parametrize("url", ["http://engine.test", "https://engine.test"])
def test_a_proxy_that_is_not_there_is_named(way, url):
    with nobody_there() as nowhere, reach(url, proxy=nowhere) as a:
        (error,) = getattr(a, way)(request())
        detail = a.health().detail
    assert error.reason == "CONNECT"
    for said in (error.message, detail):
        assert f"the proxy {nowhere.removeprefix('http://')}" in said


@both
def test_what_follows_a_consent_is_the_workers_and_no_tls(way):
    def serve(client):
        client.request()
        client.send(CONSENT, b"HTTP/1.1 200 OK\r\n\r\n")
        client.until_gone()

    with Server(serve) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        (error,) = getattr(a, way)(request())
    assert (error.reason, error.phase) == ("CONNECT", "connect")
    assert f"TLS with engine.test:443 through the proxy 127.0.0.1:{proxy.port}" in error.message


@both
def test_the_certificate_in_a_tunnel_is_the_workers(way, secure):
    """And not trusted without its CA: the proxy's word changes nothing."""
    with RelayProxy() as proxy, reach(secure.url, proxy=proxy.url) as a:
        (error,) = getattr(a, way)(request())
    assert error.reason == "CONNECT"
    assert f"TLS with 127.0.0.1:{secure.port}" in error.message


# --- in the middle of it ----------------------------------------------------------------------------------------------


class Hanging(Server):
    """Reads the CONNECT, answers with `begin`, and waits until the client has gone."""

    def __init__(self, begin=b""):
        self.reached, self.left = threading.Event(), threading.Event()
        self._begin = begin
        super().__init__(self._hang)

    def _hang(self, client):
        try:
            client.request()
            client.send(self._begin)
            self.reached.set()
            client.until_gone()
        finally:
            self.left.set()


MIDDLES = {"before the consent": b"", "within it": CONSENT[:15], "in the handshake": CONSENT}
middles = pytest.mark.parametrize("begin", MIDDLES.values(), ids=MIDDLES)


@both
@middles
def test_a_proxy_that_hangs_is_ended_by_the_timer_to_connect(way, begin):
    def run(scale):
        timeouts = Timeouts(connect=0.2 * scale)
        with Hanging(begin) as proxy, reach("https://engine.test", proxy=proxy.url, timeouts=timeouts) as a:
            (error,) = getattr(a, way)(request())
            assert proxy.left.wait(2 * SOON) or not proxy.connections
            return error, proxy.connections

    error, connections = unhurried(run, lambda found: found[1])
    assert connections == 1
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT_TIMEOUT", "connect")


@both
@middles
def test_a_proxy_that_hangs_does_not_outlive_the_deadline(way, begin):
    with Hanging(begin) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        (error,) = getattr(a, way)(request(deadline=0.2))
        assert proxy.left.wait(5) or not proxy.connections
    assert (error.code, error.reason) == ("DEADLINE_UNMET", "DEADLINE")


@both
@middles
@pytest.mark.parametrize("by", ["cancel", "close"])
def test_a_cancel_in_the_middle_of_a_tunnel(way, begin, by):
    with Hanging(begin) as proxy, reach("https://engine.test", proxy=proxy.url) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        assert proxy.reached.wait(5)
        if by == "cancel":
            stream.cancel()
        else:
            a.close()
        consumer.join(5)
        assert proxy.left.wait(5)
        until(lambda: a.in_flight == 0)
    assert [(e.kind, e.finish_reason) for e in events] == [("end", "cancelled")]


def test_a_probe_through_a_proxy_that_hangs_is_bounded_and_ended_by_close():
    with Hanging() as proxy, reach("https://engine.test", proxy=proxy.url, timeouts=Timeouts(connect=0.2)) as a:
        assert "0.2 s" in a.health().detail
    with (
        Hanging() as proxy,
        reach("https://engine.test", proxy=proxy.url, timeouts=Timeouts(connect=60, probe=60)) as a,
    ):
        found = []
        asker = threading.Thread(target=lambda: found.append(a.health()))
        asker.start()
        assert proxy.reached.wait(5)
        a.close()
        asker.join(5)
        assert found[0].live is False


@both
def test_a_proxy_in_a_black_hole_is_ended_by_the_timer(way):
    with (
        BlackHole() as hole,
        reach("https://engine.test", proxy=hole.url, timeouts=Timeouts(connect=0.2)) as a,
    ):
        (error,) = getattr(a, way)(request())
    assert error.reason == "CONNECT_TIMEOUT"


# --- what is no proxy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("https://proxy:3128", "http://"),
        ("socks5://proxy:1080", "http://"),
        ("proxy:3128", "http://"),
        ("http://", "no host"),
        ("http://proxy:0", "no host"),
        ("http://proxy:port", "ort"),
        ("http://proxy/path", "a path"),
        ("http://proxy?x=1", "a path"),
        ("http://user:sw0rdfish\n@proxy", "control"),
        ("http://us%3Aer:sw0rdfish@proxy", "colon"),
        ("http://user:sw0rdfish%0A@proxy", "control"),
        ("http://user:sw0rdfish@pro xy", "no name"),
        ("http://user:sw0rdfish@proxy:99999", "65535"),
        ("http://user:sw0rdfish/@proxy", "%2F"),
        ("http://user:sw0rdfish#@proxy", "%23"),
        ("http://user:sw0rdfish?@proxy", "%3F"),
        ("http://user:[sw0rdfish]@proxy", "brackets"),
        ("http://user:sw0rdfish\u2100@proxy", "no name"),
        ("http://user:sw0rdfish@[::1]x:80", "can't be read"),
        (5, "text"),
        (b"http://proxy", "text"),
    ],
)
def test_what_is_no_proxy_is_refused_before_any_i_o(proxy, says):
    with pytest.raises(InvalidRequestError) as caught:
        reach("http://engine.test", proxy=proxy)
    assert says in str(caught.value)
    assert "proxy=" in str(caught.value)
    assert "sw0rdfish" not in repr(caught.value) + str(caught.value)
