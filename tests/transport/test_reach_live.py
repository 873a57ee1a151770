"""How a worker is reached, with what stands between in earnest: Debian's nginx, tinyproxy and squid (apt install them).

Marked live, and skipped where a program is missing: `python -m pytest -m live tests/transport`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from worker_adapters import TLS, FromFile, GenerateRequest, Retry, Timeouts, connect, merge
from worker_adapters.simulator import ENGINES, Simulator

from ..runtime.dialects import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

both = pytest.mark.parametrize("way", ["stream", "submit", "merge"])
ONCE = Retry(attempts=1)

NGINX = """
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  proxy_buffering off;
  proxy_http_version 1.1;
  server {{
    listen 127.0.0.1:{plain};
    listen [::1]:{plain};
    listen unix:{folder}/nginx.sock;
    location /open/ {{ proxy_pass http://{worker}/; }}
    location "/my models/" {{ proxy_pass http://{worker}/; }}
    location /guarded/ {{
      if ($http_x_api_key != "sw0rdfish") {{ return 401; }}
      proxy_pass http://{worker}/;
    }}
    location /gone/ {{ proxy_pass http://127.0.0.1:{nobody}/; }}
  }}
  server {{
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    location / {{ proxy_pass http://{worker}/; }}
  }}
}}
"""
TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 30
LogLevel Error
{auth}
ConnectPort {allowed}
"""


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(port: int, *command: str) -> Iterator[None]:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    process = subprocess.Popen([program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port) or process.poll() is not None, 10)
        assert process.poll() is None, f"{command[0]} did not start"
        yield
    finally:
        process.terminate()
        process.wait(10)


class Front:
    def __init__(self, folder: Path) -> None:
        self.plain, self.secure, self.nobody = a_port(), a_port(), a_port()
        self.unix = f"unix://{folder}/nginx.sock"
        self.http = f"http://127.0.0.1:{self.plain}"
        self.six = f"http://[::1]:{self.plain}"
        self.https = f"https://127.0.0.1:{self.secure}"


@contextlib.contextmanager
def nginx(folder: Path, certificates, worker: str) -> Iterator[Front]:
    front = Front(folder)
    names = {"folder": folder, "worker": worker.removeprefix("http://"), "cert": certificates.cert}
    (folder / "nginx.conf").write_text(NGINX.format(**names, key=certificates.key, **vars(front)))
    with running(front.plain, "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"):
        yield front


@pytest.fixture(params=[sorted(ENGINES)[0]])
def engine(request):
    return request.param


@pytest.fixture
def simulator(engine):
    with Simulator(engine, seed=7, model="m") as one:
        yield one


@pytest.fixture
def front(tmp_path, certificates, simulator):
    with nginx(tmp_path, certificates, simulator.url) as one:
        yield one


@contextlib.contextmanager
def tinyproxy(folder: Path, allowed: int, auth: str = "") -> Iterator[str]:
    port = a_port()
    conf = folder / "tinyproxy.conf"
    conf.write_text(TINYPROXY.format(port=port, allowed=allowed, auth=auth))
    with running(port, "tinyproxy", "-d", "-c", str(conf)):
        yield f"127.0.0.1:{port}"


SQUID = """
http_port 127.0.0.1:{port}
pid_filename {folder}/squid.pid
access_log none
cache_log {folder}/cache.log
cache deny all
cache_mem 0 MB
coredump_dir {folder}
shutdown_lifetime 0 seconds
visible_hostname squid.test
acl banned dstdomain banned.test
http_access deny banned
http_access allow all
"""


@contextlib.contextmanager
def squid(folder: Path) -> Iterator[str]:
    port = a_port()
    conf = folder / "squid.conf"
    conf.write_text(SQUID.format(port=port, folder=folder))
    for one in (folder, *folder.parents[:3]):  # it gives up being root
        one.chmod(0o777)
    with running(port, "squid", "-N", "-f", str(conf)):
        yield f"127.0.0.1:{port}"


def begun(adapter, way: str, request: GenerateRequest):
    """Its events, in one of three ways."""
    if way == "merge":
        return (event for _, event in merge([adapter.submit(request)]))
    return getattr(adapter, way)(request)


def whole(adapter, way: str) -> str:
    events = list(begun(adapter, way, GenerateRequest(prompt="p", max_tokens=8, seed=3)))
    assert events[-1].kind == "end", events
    assert adapter.health().ready, adapter.health().detail
    return "".join(event.text for event in events if event.kind == "token")


def last(adapter, way: str):
    return list(begun(adapter, way, GenerateRequest(prompt="p", max_tokens=8)))[-1]


@both
@pytest.mark.parametrize("engine", sorted(ENGINES), indirect=True)
@pytest.mark.req("ADAPT-3300", socket=True)
def test_nginx_at_a_unix_socket_with_tls_and_over_ipv6_gives_the_workers_text(
    way, engine, simulator, front, certificates
):
    with connect(engine, simulator.url, model="m") as a:
        text = whole(a, way)
    for url in (
        f"{front.http}/open",
        f"{front.http}/my models",
        f"{front.six}/open",
        f"{front.unix}:/open",
        front.https,
    ):
        with connect(engine, url, model="m", tls=TLS(ca_bundle=certificates.ca)) as a:
            assert whole(a, way) == text


@both
def test_a_gateway_that_wants_a_key_and_one_that_is_rotated(way, front, engine, tmp_path):
    key = tmp_path / "key"
    with connect(engine, f"{front.http}/guarded", model="m", retry=ONCE) as a:
        assert last(a, way).reason == "UPSTREAM_AUTH"
    key.write_text("old")
    with connect(
        engine, f"{front.http}/guarded", model="m", headers={"X-Api-Key": FromFile(str(key))}, retry=ONCE
    ) as a:
        assert last(a, way).reason == "UPSTREAM_AUTH"
        key.write_text("sw0rdfish\n")
        whole(a, way)


@both
def test_a_worker_that_is_gone_behind_nginx(way, front, engine):
    with connect(engine, f"{front.http}/gone", model="m", retry=ONCE) as a:
        error = last(a, way)
    assert (error.reason, error.upstream.status) == ("ENGINE_ERROR", 502)


@both
@pytest.mark.parametrize("engine", sorted(ENGINES), indirect=True)
@pytest.mark.parametrize("auth", ["", "BasicAuth user s3cret"])
@pytest.mark.req("ADAPT-3300", socket=True)
def test_tinyproxy_in_both_forms(way, auth, engine, front, certificates, tmp_path):
    with tinyproxy(tmp_path, front.secure, auth) as where:
        proxy = f"http://user:s3cret@{where}" if auth else f"http://{where}"
        texts = set()
        for url in (f"{front.http}/open", f"{front.http}/my models", front.https):
            with connect(engine, url, model="m", proxy=proxy, tls=TLS(ca_bundle=certificates.ca)) as a:
                texts.add(whole(a, way))
    assert len(texts) == 1


@both
def test_tinyproxys_own_refusals(way, engine, front, certificates, tmp_path):
    tls = TLS(ca_bundle=certificates.ca)
    with tinyproxy(tmp_path, front.secure, "BasicAuth user s3cret") as where:
        for url in (f"{front.http}/open", front.https):
            with connect(engine, url, proxy=f"http://user:wr0ng@{where}", tls=tls, retry=ONCE) as a:
                error = last(a, way)
            # It answers a wrong password with 401 where it is asked in absolute form, and with 407 else.
            assert error.reason == "UPSTREAM_AUTH"
            assert f"the proxy {where}" in error.message
            assert "wr0ng" not in repr(error)
    with (
        tinyproxy(tmp_path, front.secure + 1) as where,
        connect(engine, front.https, proxy=f"http://{where}", tls=tls, retry=ONCE) as a,
    ):
        error = last(a, way)
    assert (error.reason, error.upstream.status) == ("UPSTREAM_AUTH", 403)
    with (
        tinyproxy(tmp_path, front.nobody) as where,
        connect(engine, f"https://127.0.0.1:{front.nobody}", proxy=f"http://{where}", retry=ONCE) as a,
    ):
        error = last(a, way)
    assert error.reason == "CONNECT"
    assert f"the proxy {where}" in error.message


@both
@pytest.mark.req("ADAPT-3300", socket=True)
def test_squid_in_both_forms(way, front, engine, certificates, tmp_path):
    texts = set()
    with squid(tmp_path) as where:
        for url in (f"{front.http}/open", front.https):
            with connect(engine, url, model="m", proxy=f"http://{where}", tls=TLS(ca_bundle=certificates.ca)) as a:
                texts.add(whole(a, way))
    assert len(texts) == 1


@both
@pytest.mark.parametrize("by", ["squid", "tinyproxy"])
def test_a_proxys_own_refusal_in_absolute_form_is_no_word_of_the_worker(by, way, front, engine, tmp_path):
    """Nobody is there: Squid's 503 and tinyproxy's 500 are failures to connect. nginx's 502 behind it is an answer."""
    proxy = squid(tmp_path) if by == "squid" else tinyproxy(tmp_path, front.secure)
    with proxy as where:
        for url, reason, live in (
            (f"http://127.0.0.1:{front.nobody}", "CONNECT", False),
            (f"{front.http}/gone", "ENGINE_ERROR", True),
        ):
            with connect(engine, url, model="m", proxy=f"http://{where}", retry=ONCE) as a:
                error = last(a, way)
                assert (error.reason, a.health().live) == (reason, live), error
                assert f"the proxy {where}" in error.message
        if by == "squid":
            with connect(engine, "http://banned.test", model="m", proxy=f"http://{where}", retry=ONCE) as a:
                error = last(a, way)
                assert (error.reason, error.upstream.status) == ("UPSTREAM_AUTH", 403)
                assert "refused to ask" in error.message


@both
def test_a_cancel_through_tinyproxy_reaches_the_worker(way, front, engine, tmp_path):
    with (
        Simulator(engine, model="m", rate=50.0) as slow,
        tinyproxy(tmp_path, front.secure) as where,
        connect(engine, slow.url, model="m", proxy=f"http://{where}") as a,
    ):
        stream = begun(a, way, request := GenerateRequest(prompt="p", max_tokens=4000))
        next(stream)
        a.cancel(request.task_id)
        assert list(stream)[-1].finish_reason == "cancelled"
        slow.wait_for(active=0)


def test_wait_ready_through_a_proxy_while_the_worker_loads(engine, tmp_path):
    with (
        Simulator(engine, model="m", load_time=0.5) as loading,
        tinyproxy(tmp_path, 443) as where,
        connect(engine, loading.url, model="m", proxy=f"http://{where}", timeouts=Timeouts(probe=5.0)) as a,
    ):
        assert a.wait_ready(20).ready


def test_a_reload_with_another_certificate_is_met_by_another_bundle(front, engine, simulator, certificates, tmp_path):
    """As an operator rotates them: the new CA is added to the bundle first, then nginx takes the new certificate."""
    import trustme  # noqa: PLC0415

    bundle = tmp_path / "bundle.pem"
    shutil.copy(certificates.ca, bundle)
    conf, other = tmp_path / "nginx.conf", trustme.CA()
    issued = other.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "new.pem")
    issued.private_key_pem.write_to_path(tmp_path / "new.key")
    with connect(engine, front.https, model="m", tls=TLS(ca_bundle=str(bundle)), retry=ONCE) as a:
        whole(a, "stream")
        conf.write_text(
            conf.read_text()
            .replace(certificates.cert, str(tmp_path / "new.pem"))
            .replace(certificates.key, str(tmp_path / "new.key"))
        )
        subprocess.run(["nginx", "-p", str(tmp_path), "-c", str(conf), "-s", "reload"], check=True, capture_output=True)
        until(lambda: not a.health().live, 10)
        other.cert_pem.write_to_path(bundle, append=True)
        assert a.wait_ready(5).ready
        whole(a, "submit")
