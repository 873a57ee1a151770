"""How a worker is reached: Unix sockets, names and paths of every kind, headers, what rotates. Streams and probes alike."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import shutil
import socket
import ssl
import threading
import time
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import attrs
import pytest
import trustme

from worker_adapters import (
    TLS,
    FromEnv,
    FromFile,
    InvalidRequestError,
    KeepAlive,
    Retry,
    Timeouts,
    WorkerError,
    connect,
    dump,
)
from worker_adapters.api.address import Origin
from worker_adapters.dialect import Fault, WireRequest
from worker_adapters.helpers import HELPERS
from worker_adapters.pool import Pool as Workers
from worker_adapters.testing.server import nobody_there
from worker_adapters.transport import opening
from worker_adapters.transport.connections import Pool
from worker_adapters.transport.http import HTTPTransport
from worker_adapters.transport.trust import Trust

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON, unhurried
from .relays import SocketServer, fields_of, line_of
from .servers import Server, chunk, head
from .test_opening import needs_ipv6
from .test_streams import SILENT, consume

both = pytest.mark.parametrize("way", ["stream", "submit"])
ONCE = Retry(attempts=1)


def reach(url, *, keep_alive=0.0, **config):
    dialect = attrs.evolve(SILENT, traits=attrs.evolve(SILENT.traits, keep_alive=keep_alive))
    return connect(dialect, url, **{"retry": ONCE, **config})


class Seen:
    """Serves good streams and good probes; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, client):
        while asked := client.request():
            self.asked.append(asked)
            self.answer(client, asked)

    def answer(self, client, asked):
        if asked.startswith(b"POST"):
            client.send(head("Transfer-Encoding: chunked"), chunk(GOOD), b"0\r\n\r\n")
        else:
            client.send(head("Content-Length: 4", content_type="text/plain"), b"fine")

    @property
    def targets(self):
        return [line_of(asked).split(" ")[1] for asked in self.asked]

    def all(self, field):
        return [fields_of(asked).get(field) for asked in self.asked]


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def server(seen):
    with Server(seen) as one:
        yield one


# --- Unix sockets -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("name", "after", "before"),
    [
        ("x.sock", "", ""),
        ("x.sock", ":", ""),
        ("x.sock", ":/", ""),
        ("x.sock", ":/v2/my models/", "/v2/my%20models"),
        ("a%3Ab.sock", ":/x:y", "/x:y"),  # a colon in the socket's own name
        ("ä b.sock", "", ""),
        ("%FF%e9.sock", "", ""),  # no UTF-8
    ],
)
@pytest.mark.req("ADAPT-3300", socket=True)
def test_a_worker_at_a_unix_socket(way, name, after, before, tmp_path, seen):
    path = tmp_path / os.fsdecode(unquote_to_bytes(name))
    with SocketServer(seen, path) as server, reach(f"unix://{tmp_path}/{name}{after}", keep_alive=4.0) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
        assert server.connections == 1
    assert seen.targets == [f"{before}/generate", f"{before}/health"]
    assert seen.all("host") == ["localhost", "localhost"]


@both
@pytest.mark.parametrize("left", ["nothing", "a stale socket"])
def test_nobody_at_a_unix_socket(way, left, tmp_path):
    path = tmp_path / "x.sock"
    if left != "nothing":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    with reach(f"unix://{path}") as a:
        (error,) = getattr(a, way)(request())
        detail = a.health().detail
    assert (error.code, error.reason, error.phase) == ("POOL_UNAVAILABLE", "CONNECT", "connect")
    for said in (error.message, detail):
        assert f"unix:{path}" in said
        assert "is the server running there?" in said


def all_told(of, **config):
    """Every word that is told of a worker that can't be reached, alone and in a pool."""
    with Workers([reach(of, **config)]) as pool:
        (a,) = [member.adapter for member in pool._roster.members]
        said = [repr(a), a.health().detail, pool.health().detail]
        for one in (a, pool):
            said += [list(one.stream(request()))[-1].message]
            with pytest.raises(WorkerError) as caught:
                one.properties()
            said += [str(caught.value)]
        return [*said, dump(), pool.workers[0].url, pool.workers[0].last_failure]


def test_what_is_no_utf_8_can_be_told(tmp_path, monkeypatch):
    """Names of files, and a resolver's words in the locale's encoding: Python makes halves of surrogate pairs of them."""
    raw = os.fsdecode(bytes(tmp_path) + b"/\xff")

    def resolve(*_args, **_named):
        raise socket.gaierror(socket.EAI_NONAME, "pas trouv\udce9")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Server(lambda client: client.until_gone()) as server:
        told = [
            all_told(f"unix://{tmp_path}/%FF"),
            all_told("http://engine.test"),
            all_told(f"https://127.0.0.1:{server.port}", tls=TLS(ca_bundle=raw)),
            all_told(server.url, credentials=FromFile(raw)),
        ]
    for text in itertools.chain(*told):
        text.encode()


@pytest.fixture
def full(tmp_path, seen):
    """A server whose backlog is full: Linux says EAGAIN, and there is nothing to wait for."""
    path = tmp_path / "x.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    fillers = []
    while True:
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        fillers.append(filler)
        if filler.connect_ex(str(path)):
            break
    yield SimpleNamespace(url=f"unix://{path}", listener=listener)
    for filler in fillers:
        filler.close()
    listener.close()


@both
def test_a_full_backlog_is_waited_for_no_longer_than_the_timer(way, full):
    with reach(full.url, timeouts=Timeouts(connect=0.2, probe=0.2)) as a:
        (error,) = getattr(a, way)(request())
        assert "0.2 s" in a.health().detail
    assert (error.reason, error.phase) == ("CONNECT_TIMEOUT", "connect")


@both
def test_a_place_in_a_full_backlog_is_taken_when_there_is_one(way, full):
    with reach(full.url) as a:
        consumer, events = consume(getattr(a, way)(request()))
        full.listener.settimeout(10)
        served = False
        while not served:
            peer, _ = full.listener.accept()
            with peer, contextlib.suppress(TimeoutError):  # a filler says nothing
                peer.settimeout(0.2)
                peer.recv(65536)
                peer.sendall(head("Connection: close") + GOOD)
                served = True
        consumer.join(5)
    assert kinds(events)[-1] == "end"


@both
def test_a_cancel_while_a_backlog_is_full(way, full):
    with reach(full.url) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        until(lambda: any(r.lifetime.phase == "connect" for r in a.places.held))
        stream.cancel()
        consumer.join(5)
    assert [e.finish_reason for e in events] == ["cancelled"]


@pytest.mark.parametrize(
    "url",
    [
        "unix:/run/x.sock",
        "unix://run/x.sock",
        "unix:///",
        "unix://",
        "unix:///run/x.sock:prefix",
        "unix:///run/x.sock?x=1",
        "unix:///run/x.sock#x",
        "unix:///run/%00x.sock",
        "unix:///" + "x" * 108,
        "unix:///run/\udcff.sock",
    ],
)
def test_what_is_no_unix_socket_is_refused_before_any_i_o(url):
    with pytest.raises(InvalidRequestError):
        reach(url)


def test_a_unix_socket_is_not_behind_a_proxy():
    with pytest.raises(InvalidRequestError, match="proxy="):
        reach("unix:///run/x.sock", proxy="http://proxy:3128")


# --- names and paths --------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/模型", "/%E6%A8%A1%E5%9E%8B"),
        ("/modèle/", "/mod%C3%A8le"),
        ("/my models", "/my%20models"),
        ("/my%20models", "/my%20models"),  # encoded once, by whoever does it first
        ("/100%/x", "/100%25/x"),
        ("/%zz%e4", "/%25zz%e4"),
        ("/a/../b/./c", "/b/c"),
        ("/../..", ""),
        ("/a//b", "/a//b"),
        ('/a"<>\\^`{|}[]', "/a%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
        ("/v1;x=1,2/@me:!$&'()*+~_-.", "/v1;x=1,2/@me:!$&'()*+~_-."),
        ("/\U0001f600", "/%F0%9F%98%80"),
        ("", ""),
        ("//", ""),
    ],
)
@pytest.mark.req("ADAPT-3300", socket=True)
def test_streams_and_probes_ask_for_the_same_path(way, path, sent, server, seen):
    with reach(f"{server.url}{path}") as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    assert seen.targets == [f"{sent}/generate", f"{sent}/health"]


@pytest.fixture
def looked_up(monkeypatch, server):
    """Every name is the server's; which were asked for."""
    names = []
    where = ("127.0.0.1", server.port)

    def getaddrinfo(host, *_args):
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@both
@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("例え.test", "xn--r8jz45g.test"),
        ("Bücher.TEST", "xn--bcher-kva.test"),
        ("faß.test", "xn--fa-hia.test"),  # IDNA 2008: not fass.test
        ("例え。test", "xn--r8jz45g.test"),
        ("UPPER.test", "upper.test"),
        ("under_score.test.", "under_score.test."),
    ],
)
@pytest.mark.req("ADAPT-3300", socket=True)
def test_names_that_are_not_ascii(way, host, name, server, seen, looked_up):
    with reach(f"http://{host}:{server.port}") as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    assert set(looked_up) == {name}
    assert set(seen.all("host")) == {f"{name}:{server.port}"}


def test_the_name_that_is_told_by_tls_has_neither_a_zone_nor_a_dot_at_its_end(looked_up, monkeypatch):
    told = []
    monkeypatch.setattr(opening, "TLSLink", lambda *args: told.append(args[2]) or 1 / 0)
    with reach("https://例え.test.") as a:
        list(a.stream(request()))
    assert told == ["xn--r8jz45g.test"]


@both
@needs_ipv6
@pytest.mark.parametrize("zone", ["%251", "%1"])
@pytest.mark.req("ADAPT-3300", socket=True)
def test_a_zone_id_is_for_this_machine_only(way, zone, seen, monkeypatch):
    connected = []

    class Noted(opening.Socket):
        def connect_ex(self, where):
            connected.append(where)
            return super().connect_ex((*where[:3], 0))  # ::1 has no zone, which only link-local addresses do

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more: real(host.replace("fe80::1", "::1"), *more))
    monkeypatch.setattr(opening, "Socket", Noted)
    with Server(seen, host="::1") as server, reach(f"http://[fe80::1{zone}]:{server.port}") as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    assert [where[3] for where in connected] == [1, 1]
    assert set(seen.all("host")) == {f"[fe80::1]:{server.port}"}


@pytest.mark.parametrize(
    "url",
    [
        "http://[fe80::1%25]:80",
        "http://[fe80::1%]:80",
        "http://[::zz]",
        "http://[::1]x:80",
        "http://x[::1]:80",
        "http://[v1.x]",
        "http://::1:80",
        "http://engine.test:99999",
        "http://engine.test:-1",
        "http://engine.test:0x50",
        "http://engine.test:\uff18\uff10",
        "http://engine.test:80:80",
        "http://my host",
        "http://a..b",
        "http://" + "a" * 64 + ".test",
        "http://" + "a." * 127 + "test",
        "http://ex%41mple",
        "http://\u2028.test",
        "http://engine.test/a\nb",
        "http://engine.test/a\x7f",
        " http://engine.test",
        "http://engine.test/ ",
        "http://engine.test/\udcff",
    ],
)
def test_what_is_no_url_is_refused_before_any_i_o(url):
    with pytest.raises(InvalidRequestError):
        reach(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://engine.test?api_key=sw0rdfish",
        "http://user:sw0rdfish@engine.test:99999",
        "http://user:sw0rdfish/@engine.test",
        "http://user:sw0rdfish#@engine.test",
        "http://user:[sw0rdfish]@engine.test",
        "http://user:sw0rdfish\u2100@engine.test",
        "user:sw0rdfish@engine.test:80",
    ],
)
def test_a_key_in_a_refused_url_is_not_shown(url):
    for given in ({"url": url}, {"url": "http://engine.test", "metrics_url": url}):
        with pytest.raises(InvalidRequestError) as caught:
            connect("triton", **given)
        assert "sw0rdfish" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("engine.test:8000", "did you mean http://engine.test:8000?"),
        ("unix:/run/engine.sock", "unix:///run/engine.sock"),
        ("http:/engine.test", "it must begin with http:// or https://"),
    ],
)
def test_what_was_meant_is_guessed(url, told):
    with pytest.raises(InvalidRequestError) as caught:
        connect("mock", url)
    assert told in str(caught.value)


# --- headers ----------------------------------------------------------------------------------------------------------

SECRET = "sw0rdfish"


@both
@pytest.mark.req("ADAPT-3300", socket=True)
@pytest.mark.kills("sends no headers of the caller's")
def test_headers_go_with_streams_and_probes(way, server, seen, monkeypatch, tmp_path):
    monkeypatch.setenv("TENANT_KEY", SECRET)
    (tmp_path / "key").write_text("from a file\n")
    given = {"X-Tenant": "blue", "x-key": FromEnv("TENANT_KEY"), "X-File": FromFile(str(tmp_path / "key"))}
    with reach(server.url, headers=given, credentials="tok3n") as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    for name, value in (("x-tenant", "blue"), ("x-key", SECRET), ("x-file", "from a file"), ("host", server.url[7:])):
        assert seen.all(name) == [value, value]
    assert seen.all("authorization") == ["Bearer tok3n"] * 2


@both
def test_headers_are_asked_for_every_request(way, server, seen):
    turns = iter(range(100))
    with reach(server.url, headers=lambda: {"X-Turn": str(next(turns))}) as a:
        for _ in range(2):
            assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    assert len(set(seen.all("x-turn"))) == 3


class Provider:
    """Calls return when they are let go, each something else."""

    def __init__(self):
        self.calls, self.go = [], threading.Event()

    def hold(self, a):
        """From now on; the version was asked for by then, which needs a call, too."""
        self.go.set()
        a.engine_version()
        self.go.clear()
        self.calls.clear()

    def __call__(self):
        self.calls.append(f"token-{len(self.calls)}")
        mine = self.calls[-1]
        assert self.go.wait(SOON)
        return mine

    def with_two_under_way(self, begin):
        """Two streams that have begun while nobody else was calling."""
        begun = []
        for calls in (1, 2):
            begun.append(consume(begin()))
            until(lambda: len(self.calls) == calls)  # noqa: B023
        return begun


def waiting_for_credentials():
    return sum(job.key[0] == "credentials" for job in list(HELPERS._waiting))


@both
@pytest.mark.parametrize("given", ["credentials", "headers"])
def test_each_request_has_a_call_of_the_provider_two_at_a_time(way, given, server, seen):
    """What it gives may be of one request only."""
    provider = Provider()
    slow = {"credentials": provider} if given == "credentials" else {"headers": lambda: {"X-Token": provider()}}
    with reach(server.url, **slow) as a:
        provider.hold(a)
        streams = provider.with_two_under_way(lambda: getattr(a, way)(request()))
        streams += [consume(getattr(a, way)(request())) for _ in range(10)]
        until(lambda: waiting_for_credentials() == 10)
        assert len(provider.calls) == 2
        provider.go.set()
        for consumer, events in streams:
            consumer.join(SOON)
            assert kinds(events)[-1] == "end"
    assert len(provider.calls) == 12


@both
def test_the_time_to_connect_counts_from_the_call_of_the_provider(way, server, seen):
    def run(scale):
        def provider():
            time.sleep(0.3 * scale)  # the subject
            return "token"

        with reach(server.url, credentials=provider, timeouts=Timeouts(connect=0.5 * scale)) as a:
            streams = [consume(getattr(a, way)(request())) for _ in range(4)]
            for consumer, _ in streams:
                consumer.join(SOON)
        return [kinds(events)[-1] for _, events in streams]

    assert unhurried(run, lambda ended: set(ended) == {"end"}) == ["end"] * 4


def test_an_authorization_of_ones_own_where_there_are_no_credentials(server, seen):
    with reach(server.url, headers={"Authorization": "Basic eDp5"}) as a:
        assert a.health().ready
    assert seen.all("authorization") == ["Basic eDp5"]
    with pytest.raises(InvalidRequestError, match="authorization carries what credentials= gives"):
        reach(server.url, headers={"authorization": "Basic eDp5"}, credentials="tok3n")


@pytest.mark.parametrize(
    "headers",
    [
        *({name: SECRET} for name in ("Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade")),
        *({name: SECRET} for name in ("Keep-Alive", "Trailer", "Expect", "Proxy-Authorization", "proxy-anything")),
        *({name: SECRET} for name in ("User-Agent", "Accept", "Accept-Encoding", "Content-Type", "X-Request-Id")),
        *({name: SECRET} for name in ("", "a b", "a:", "é", "a\n", 5, b"a")),
        *(
            {"X-Key": value}
            for value in (SECRET + "\r\nX: y", SECRET + "\0", SECRET + "é", f" {SECRET}", b"x", 5, None)
        ),
        {"X-Key": SECRET, "x-key": SECRET},
        [("X-Key", SECRET)],
        SECRET,
        5,
    ],
)
def test_what_is_no_header_is_refused_before_any_i_o(headers):
    with pytest.raises(InvalidRequestError) as caught:
        reach("http://engine.test", headers=headers)
    assert "headers=" in str(caught.value)
    assert SECRET not in repr(caught.value) + str(caught.value)


def provides(value):
    def provider():
        if isinstance(value, Exception):
            raise value
        return value

    return provider


@both
@pytest.mark.parametrize(
    "headers",
    [
        provides({"Host": "x"}),
        provides({"X-Key": "a\nb"}),
        provides({"X-Key": None}),
        provides(None),
        provides(OSError("no file")),
        {"X-Key": provides(5)},
        {"X-Key": provides(OSError("no file"))},
        {"X-Key": FromEnv("NOT_SET_ANYWHERE")},
    ],
)
def test_a_provider_that_fails_is_typed(way, headers, server, seen):
    with reach(server.url, headers=headers) as a:
        (error,) = getattr(a, way)(request())
        assert a.health().live is False
    assert (error.code, error.reason) == ("INTERNAL", "UPSTREAM_AUTH")
    assert "the headers provider failed" in error.message
    assert seen.asked == []


@both
def test_a_header_that_the_dialect_sends_is_not_replaced(way, server, seen):
    encode = SILENT.encode

    def with_a_field(asked, /, *, attempt):
        return attrs.evolve(encode(asked, attempt=attempt), headers={"X-Own": "1"})

    dialect = attrs.evolve(SILENT, encode=with_a_field)
    with connect(dialect, server.url, headers={"x-own": "2"}, retry=ONCE) as a:
        (error,) = getattr(a, way)(request())
    assert error.reason == "VALIDATION"
    assert "x-own" in error.message
    assert seen.asked == []


@both
def test_headers_are_secrets(way, seen):
    def echo(client, asked):
        client.send(head(f"Content-Length: {len(asked)}", status="400 no"), asked)

    seen.answer = echo
    with Server(seen) as server, reach(server.url, headers={"X-Key": SECRET}) as a:
        (error,) = getattr(a, way)(request())
        shown = repr(error) + str(error.upstream) + a.health().detail + repr(a) + repr(a._config)
    assert "X-Key" in error.upstream.message
    assert SECRET not in shown


def test_an_adapter_with_literal_headers_does_not_pickle():
    with (
        connect("vllm", "http://engine.test", headers={"X-Key": SECRET}) as a,
        pytest.raises(TypeError, match="literal"),
    ):
        pickle.dumps(a)


def test_an_adapter_with_headers_from_providers_pickles(server, seen, monkeypatch):
    monkeypatch.setenv("TENANT_KEY", SECRET)
    with connect("vllm", server.url, headers={"X-Key": FromEnv("TENANT_KEY")}, keepalive=KeepAlive(idle=5)) as a:
        blob = pickle.dumps(a)
    assert SECRET.encode() not in blob
    with pickle.loads(blob) as b:
        b.health()
    assert seen.all("x-key") == [SECRET]


def test_an_adapter_with_the_password_of_a_proxy_does_not_pickle():
    with connect("vllm", "http://engine.test", proxy="http://user:sw0rdfish@proxy:3128") as a:
        assert "sw0rdfish" not in repr(a._config)
        with pytest.raises(TypeError, match="password"):
            pickle.dumps(a)
    with connect("vllm", "http://engine.test", proxy="http://proxy:3128") as a, pickle.loads(pickle.dumps(a)) as b:
        assert b._config.proxy == a._config.proxy


@pytest.mark.parametrize("same", [True, False])
def test_headers_are_not_for_the_origin_of_the_metrics(same, server, seen):
    with Server(other := Seen()) as elsewhere:
        where = (server if same else elsewhere).url
        with connect("trtllm", server.url, headers={"X-Key": SECRET}, metrics_url=f"{where}/metrics", retry=ONCE) as a:
            a._transport.call(attrs.evolve(METRICS, to_metrics=True), {"X-Key": SECRET}, Timeouts(), 1000)
    assert (seen if same else other).all("x-key") == [SECRET if same else None]


METRICS = next(SILENT.health(None))


def test_adapters_that_reach_a_worker_alike_share_its_properties(monkeypatch):
    """An engine bears only so many reads; who has other headers, or another proxy, may see another worker."""
    monkeypatch.setenv("KEY", SECRET)
    here, same = {"X-Key": FromEnv("KEY"), "X-Tenant": "blue"}, {"X-Tenant": "blue", "X-Key": FromEnv("KEY")}
    others = [{"headers": {"X-Key": FromEnv("KEY"), "X-Tenant": "red"}}, {"headers": lambda: here}, {}]
    others.append({"headers": here, "proxy": "http://proxy:3128"})
    with (
        connect("vllm", "http://engine.test", headers=here) as a,
        connect("vllm", "http://engine.test", headers=same) as b,
    ):
        assert a._worker._facts is b._worker._facts
        for more in others:
            with connect("vllm", "http://engine.test", **more) as c:
                assert c._worker._facts is not a._worker._facts


def test_without_a_bundle_the_systems_certificates_are_trusted(monkeypatch, certificates):
    """Those that OpenSSL was built to find, whatever SSL_CERT_FILE says."""
    paths = ssl.get_default_verify_paths()
    system = paths._replace(openssl_cafile=certificates.ca, openssl_capath="/nowhere")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: system)
    assert Trust(TLS()).context().cert_store_stats()["x509_ca"] == 1


# --- what rotates -----------------------------------------------------------------------------------------------------


class Rotating:
    """A provider whose token is replaced by the next one whenever a server has refused it."""

    def __init__(self, seen, *tokens, refused):
        self.left = list(tokens)
        good = type(seen).answer

        def answer(client, asked):
            if (token := fields_of(asked)["authorization"].removeprefix("Bearer ")) in refused:
                if token == self.left[0] and len(self.left) > 1:
                    del self.left[0]
                client.send(head("Content-Length: 0", status="401 no"))
            else:
                good(seen, client, asked)

        seen.answer = answer

    def __call__(self):
        return self.left[0]


def tries(seen):
    return [value.removeprefix("Bearer ") for value in seen.all("authorization")]


@both
@pytest.mark.parametrize(
    ("tokens", "refused", "tried", "ends"),
    [
        (["old", "new"], ["old"], ["old", "new"], "end"),
        (["old", "new", "newer"], ["old", "new"], ["old", "new"], "error"),  # once
        (["same"], ["same"], ["same"], "error"),  # the same again would be refused again
    ],
)
@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.req("ADAPT-3300", socket=True)
def test_a_401_is_answered_once_with_a_credential_that_is_newer(
    way, tokens, refused, tried, ends, attempts, server, seen
):
    credentials = Rotating(seen, *tokens, refused=refused)
    with reach(server.url, credentials=credentials, retry=Retry(attempts=attempts, base=0.0)) as a:
        events = list(getattr(a, way)(request()))
    assert kinds(events)[-1] == ends
    assert tries(seen) == tried
    if ends == "error":
        assert (events[-1].reason, events[-1].attempts) == ("UPSTREAM_AUTH", len(tried))


@both
def test_a_literal_that_was_refused_is_not_tried_again(way, server, seen):
    Rotating(seen, "literal", "new", refused=["literal"])
    with reach(server.url, credentials="literal") as a:
        (error,) = getattr(a, way)(request())
    assert (error.reason, tries(seen)) == ("UPSTREAM_AUTH", ["literal"])


def test_a_probe_that_is_refused_is_asked_again_with_a_newer_credential(server, seen):
    with reach(server.url, credentials=Rotating(seen, "old", "new", refused=["old"])) as a:
        assert a.health().ready
    assert tries(seen) == ["old", "new"]


@both
@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_provider_that_is_of_no_help_after_a_401_leaves_the_refusal(way, how, server, seen):
    def run(scale):
        rotating, gate = Rotating(seen, "old", "new", refused=["old"]), threading.Event()

        def provider():
            if rotating() == "new":
                if how == "fails":
                    raise OSError("no file")
                gate.wait(2 * SOON)
            return rotating()

        with reach(server.url, credentials=provider, timeouts=Timeouts(connect=0.2 * scale)) as a:
            (error,) = getattr(a, way)(request())
            gate.set()
        return error

    error = unhurried(run, lambda error: error.reason == "UPSTREAM_AUTH")
    assert (error.reason, error.upstream.status) == ("UPSTREAM_AUTH", 401)


@both
def test_a_cancel_while_a_provider_is_asked_again(way, server, seen):
    rotating, gate, reached = Rotating(seen, "old", "new", refused=["old"]), threading.Event(), threading.Event()

    def provider():
        if rotating() == "new":
            reached.set()
            gate.wait(10)
        return rotating()

    with reach(server.url, credentials=provider) as a:
        stream = getattr(a, way)(request())
        consumer, events = consume(stream)
        assert reached.wait(5)
        stream.cancel()
        consumer.join(5)
        gate.set()
    assert [(e.kind, e.finish_reason) for e in events] == [("end", "cancelled")]


@both
@pytest.mark.parametrize("status", [408, 425, 429, 503, 520, 524, 529])
def test_statuses_to_retry_are_a_choice(way, status, seen):
    good = Seen.answer
    seen.answer = lambda client, asked: (
        client.send(head("Content-Length: 0", status=f"{status} no"))
        if len(seen.asked) % 2
        else good(seen, client, asked)
    )
    by_default = status in (429, 503)
    for statuses in ({408, 425, 520, 524, 529}, ()):
        with Server(seen) as server, reach(server.url, retry=Retry(base=0.0, statuses=statuses)) as a:
            del seen.asked[:]
            events = list(getattr(a, way)(request()))
        assert kinds(events)[-1] == ("end" if statuses or by_default else "error")


@both
@pytest.mark.req("ADAPT-3300", socket=True)
def test_a_bundle_that_has_changed_is_read_anew(way, certificates, context, seen, tmp_path):
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    with Server(seen, tls=context) as server, reach(server.url, tls=TLS(ca_bundle=str(bundle))) as a:
        (error,) = getattr(a, way)(request())
        assert error.reason == "CONNECT"
        shutil.copy(certificates.ca, bundle)
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
        trustme.CA().cert_pem.write_to_path(tmp_path / "next")
        (tmp_path / "next").rename(bundle)
        assert list(getattr(a, way)(request()))[-1].reason == "CONNECT"
        bundle.unlink()
        assert list(getattr(a, way)(request()))[-1].reason == "CONNECT"
        assert a.health().live is False


@both
def test_a_client_certificate_that_has_changed_is_shown_to_new_connections(way, certificates, context, tmp_path):
    authority = trustme.CA()
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    serials = []

    def serve(client):
        serials.append(client.sock.getpeercert()["serialNumber"])
        Seen()(client)

    def issue():
        issued = authority.issue_cert("client.test")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
        issued.private_key_pem.write_to_path(tmp_path / "key")

    issue()
    tls = TLS(ca_bundle=certificates.ca, client_cert=str(tmp_path / "cert"), client_key=str(tmp_path / "key"))
    with Server(serve, tls=context) as server, reach(server.url, tls=tls) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        issue()
        assert kinds(getattr(a, way)(request()))[-1] == "end"
    assert serials[0] == serials[1] != serials[2]


@both
def test_tls_looks_at_no_environment_variable(way, certificates, context, seen, monkeypatch, tmp_path):
    log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    monkeypatch.setenv("SSL_CERT_DIR", os.path.dirname(certificates.ca))  # noqa: PTH120
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.ca)
    with Server(seen, tls=context) as server:
        with reach(server.url) as a:
            assert list(getattr(a, way)(request()))[-1].reason == "CONNECT"
            assert a.health().live is False
        with reach(server.url, tls=TLS(ca_bundle=certificates.ca)) as a:
            assert kinds(getattr(a, way)(request()))[-1] == "end"
            assert a.health().ready
    assert not log.exists()


# --- keep-alive -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("keepalive", "options"),
    [
        (None, (1, 60, 15, 4)),
        (KeepAlive(idle=5.2, interval=0.5, probes=3), (1, 6, 1, 3)),
        (KeepAlive(idle=3600, interval=90, probes=1000), (1, 3600, 90, 127)),
        (KeepAlive(idle=1e9), (1, 32767, 15, 4)),
        (KeepAlive(idle=None), (0,)),
    ],
)
@pytest.mark.req("ADAPT-3300", socket=True)
def test_tcp_looks_after_connections(way, keepalive, options, server, monkeypatch):
    found = []

    class Noted(opening.Socket):
        def connect_ex(self, where):
            tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            names = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *((socket.IPPROTO_TCP, name) for name in tcp)]
            found.append(tuple(self.getsockopt(*name) for name in names))
            assert self.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            return super().connect_ex(where)

    monkeypatch.setattr(opening, "Socket", Noted)
    with reach(server.url, keepalive=keepalive) as a:
        assert kinds(getattr(a, way)(request()))[-1] == "end"
        assert a.health().ready
    assert [one[: len(options)] for one in found] == [options, options]


@pytest.mark.parametrize("keepalive", [60, "on", True])
def test_what_is_no_keep_alive_is_refused(keepalive):
    with pytest.raises(InvalidRequestError, match="keepalive="):
        reach("http://engine.test", keepalive=keepalive)


# --- waiting for it ---------------------------------------------------------------------------------------------------


def loading(seen, times, words=b"Loading model"):
    good = Seen.answer

    def answer(client, asked):
        if len(seen.asked) <= times:
            client.send(head(f"Content-Length: {len(words)}", status="503 no"), words)
        else:
            good(seen, client, asked)

    seen.answer = answer


@pytest.mark.req("ADAPT-3300", socket=True)
def test_wait_ready_returns_when_the_worker_is(server, seen):
    loading(seen, 2)
    with reach(server.url) as a:
        assert a.wait_ready(30).ready
        assert a.wait_ready().ready
    assert len(seen.asked) == 4


def test_wait_ready_says_what_the_worker_said_last(server, seen):
    loading(seen, 1000)

    def run(scale):
        with reach(server.url) as a, pytest.raises(WorkerError) as caught:
            a.wait_ready(0.3 * scale)
        assert f"within {0.3 * scale:g} s" in str(caught.value)
        return caught.value

    error = unhurried(run, lambda error: error.reason == "LOADING")
    assert (error.code, error.reason, error.error.phase) == ("POOL_UNREADY", "LOADING", "prepare")
    assert "Loading model" in str(error)


def test_wait_ready_waits_for_a_worker_that_is_not_there_yet(tmp_path, seen):
    path = tmp_path / "x.sock"
    with reach(f"unix://{path}") as a:
        found = []
        waiter = threading.Thread(target=lambda: found.append(a.wait_ready(30)))
        waiter.start()
        with SocketServer(seen, path):
            waiter.join(10)
        assert found[0].ready


def test_wait_ready_of_nobody_says_why():
    def run(scale):
        with nobody_there() as url, reach(url) as a, pytest.raises(WorkerError) as caught:
            a.wait_ready(0.2 * scale)
        return caught.value

    error = unhurried(run, lambda error: error.reason == "CONNECT")
    assert (error.code, error.reason) == ("POOL_UNAVAILABLE", "CONNECT")
    assert "refused" in str(error)


def test_wait_ready_does_not_wait_for_what_waiting_does_not_mend(server):
    asked = []

    def fails():
        asked.append(1)
        raise OSError("no file")

    with reach(server.url, headers=fails) as a, pytest.raises(WorkerError) as caught:
        a.wait_ready(2)
    assert caught.value.reason == "UPSTREAM_AUTH"
    assert len(asked) == 1


@pytest.mark.parametrize("in_the_middle_of", ["a pause", "a look"])
def test_wait_ready_is_ended_by_close(in_the_middle_of, seen):
    reached, gate = threading.Event(), threading.Event()
    loading(seen, 1000)
    said = seen.answer

    def answer(client, asked):
        if in_the_middle_of == "a look":
            reached.set()
            gate.wait(10)
        said(client, asked)
        reached.set()

    seen.answer = answer
    with Server(seen) as server, reach(server.url, timeouts=Timeouts(probe=60)) as a:
        raised = []

        def wait():
            try:
                a.wait_ready(60)
            except WorkerError as exc:
                raised.append(exc)

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert reached.wait(5)
        a.close()
        waiter.join(5)
        gate.set()
        assert [exc.reason for exc in raised] == ["ADAPTER_CLOSED"]
        with pytest.raises(WorkerError, match="closed"):
            a.wait_ready(1)


@pytest.mark.parametrize("begun", ["before", "within"])
def test_a_probe_that_close_interrupts_says_so(begun, seen, monkeypatch):
    """Also one that has passed the adapter's door, and begins in the middle: it went on until its own time was up."""
    reached, gate, raised = threading.Event(), threading.Event(), []

    def answer(_client, _asked):
        reached.set()
        gate.wait(10)

    seen.answer = answer
    with Server(seen) as server:
        transport = HTTPTransport(Origin.of(server.url), TLS(), pool_size=1, keep_alive=0.0)

        def ask():
            with pytest.raises(Fault) as caught:
                transport.call(WireRequest(target="/"), {}, Timeouts(probe=60), 100)
            raised.append(caught.value.reason)

        asking, close = threading.Thread(target=ask), Pool.close

        def begin(pool=None):
            if not asking.ident:
                asking.start()
                assert reached.wait(5)
            if pool is not None:
                close(pool)

        if begun == "before":
            begin()
        monkeypatch.setattr(Pool, "close", begin)
        transport.close()
        asking.join(5)
        gate.set()
        assert raised == ["ADAPTER_CLOSED"]
