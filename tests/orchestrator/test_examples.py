"""The examples that docs/serving.md shows: in Flask and Django, and a whole service in one file; each run over sockets."""

from __future__ import annotations

import http.client
import importlib.util
import json
import threading
import wsgiref.simple_server
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn

import pytest

import worker_adapters
from worker_adapters import End, parse_events

from .client import text_of, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SAYS = ["Zoë", " says", " hi"]
SHORT = ["flask_app.py", "django_app.py"]


class Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = False
    block_on_close = True


class Silent(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(app):
    with wsgiref.simple_server.make_server("127.0.0.1", 0, app, Server, Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join(10)


def ask(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def loaded(name, monkeypatch, worker):
    """The example with its worker at another place."""
    monkeypatch.setattr(worker_adapters, "connect", lambda *_args, **_options: worker.connect(), raising=False)
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wsgi(monkeypatch, simulated_worker):
    """The WSGI application of an example, over that worker."""

    def make(name, worker):
        if name == "flask_app.py":
            pytest.importorskip("flask", reason="the extra test has Flask")
            return loaded(name, monkeypatch, worker).app
        django = pytest.importorskip("django", reason="the extra test has Django")
        from django.conf import settings  # noqa: PLC0415
        from django.core.handlers.wsgi import WSGIHandler  # noqa: PLC0415
        from django.urls import clear_url_caches  # noqa: PLC0415

        if not settings.configured:
            settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="", SECRET_KEY="x", LOGGING_CONFIG=None)
            django.setup()
        monkeypatch.setattr(settings, "ROOT_URLCONF", loaded(name, monkeypatch, worker))
        clear_url_caches()
        return WSGIHandler()

    return make


@pytest.mark.parametrize("name", SHORT)
def test_it_takes_twenty_lines(name):
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20


def test_the_service_is_half_of_what_it_was():
    """The same without the library's side of it took 246 lines."""
    assert len((EXAMPLES / "service.py").read_text(encoding="utf-8").splitlines()) <= 123


@pytest.mark.parametrize("name", [*SHORT, "service.py"])
def test_the_documentation_shows_it_as_it_is(name):
    shown = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert (EXAMPLES / name).read_text(encoding="utf-8").strip() in shown


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize("name", SHORT)
def test_a_stream_goes_through_it(wsgi, simulated_worker, name):
    worker = simulated_worker("vllm", says=SAYS)
    with served(wsgi(name, worker)) as address:
        status, headers, body = ask(address, "POST", "/v1/generate", {"prompt": "x"})
        events = list(parse_events([body]))
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
        assert text_of(events) == "".join(SAYS)
        assert isinstance(events[-1], End)


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize("name", SHORT)
def test_what_fails_before_the_stream_has_a_status_of_its_own(wsgi, simulated_worker, name):
    worker = simulated_worker("vllm")
    for _ in range(4):  # the adapter tries that often
        worker.reply(429, {"error": {"message": "full", "code": 429}}, {"Retry-After": "0.01"})
    with served(wsgi(name, worker)) as address:
        status, headers, body = ask(address, "POST", "/v1/generate", {"prompt": "x"}, {"X-Correlation-Id": "c"})
        assert (status, headers["X-Correlation-Id"], headers["Retry-After"]) == (429, "c", "1")
        assert json.loads(body)["error"]["code"] == "ADMISSION_REJECT"
        for bad in ({"prompt": 1}, b"{", b"\xff", {"prompt": "x", "colour": 1}):
            status, _, body = ask(address, "POST", "/v1/generate", bad)
            assert (status, json.loads(body)["error"]["code"]) == (400, "INVALID_PARAMS")


def frames_of(body):
    """Without the comments, which come when somebody had to wait."""
    return [frame for frame in body.split(b"\n\n") if not frame.startswith(b":")]


@pytest.mark.req("ADAPT-3600", socket=True)
def test_the_service(monkeypatch, simulated_worker):
    pytest.importorskip("flask", reason="the extra test has Flask")
    import prometheus_client  # noqa: PLC0415
    from examples import service  # noqa: PLC0415

    workers = [simulated_worker("vllm", says=SAYS) for _ in range(2)]
    registry = prometheus_client.CollectorRegistry()
    pool = service.make_pool("a", "vllm", [worker.url for worker in workers], model=workers[0].model, registry=registry)
    with pool, served(service.make_app({"a": pool}, registry, workers=4)) as address:
        status, headers, body = ask(address, "POST", "/v1/tasks/a", {"prompt": "x"})
        assert (status, text_of(list(parse_events([body])))) == (200, "".join(SAYS))
        again = ask(address, "GET", f"/v1/tasks/{headers['X-Task-Id']}/events")
        assert frames_of(again[2]) == frames_of(body)
        last = {"Last-Event-ID": f"{headers['X-Task-Id']}:1"}
        rest = ask(address, "GET", f"/v1/tasks/{headers['X-Task-Id']}/events", headers=last)[2]
        assert frames_of(rest) == frames_of(body)[2:]
        assert ask(address, "POST", "/v1/tasks/b", {"prompt": "x"})[0] == 404
        assert ask(address, "GET", "/v1/tasks/none/events")[0] == 404
        assert ask(address, "DELETE", "/v1/tasks/none")[2] == b'{"outcome":"unknown"}\n'
        status, headers, body = ask(address, "POST", "/v1/tasks/a?detached", {"prompt": "x"})
        assert status == 202
        assert text_of(list(parse_events([ask(address, "GET", headers["Location"])[2]]))) == "".join(SAYS)
        until(lambda: b"tokens_out_total{" in ask(address, "GET", "/metrics")[2])
        assert len(json.loads(ask(address, "GET", "/v1/pools")[2])["a"]) == 2
