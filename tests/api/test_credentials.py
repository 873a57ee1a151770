"""Credentials: shown as a fingerprint, read anew at every request, and never in a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from worker_adapters import FromEnv, FromFile, connect
from worker_adapters.api.credentials import Literal, fingerprint, provider

SECRET = "s3cret"
URL = "http://127.0.0.1:9"


@pytest.fixture
def engine():
    """A tokenizer over HTTP that tells which Authorization came: yields its URL and the list of them."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers["Authorization"])
            body = json.dumps({"tokens": [1, 2]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_a_literal_shows_stars_and_six_hex_digits_of_its_hash():
    shown = "****" + hashlib.sha256(SECRET.encode()).hexdigest()[:6]
    assert fingerprint(SECRET) == shown
    assert repr(Literal(SECRET)) == str(Literal(SECRET)) == f"{Literal(SECRET)}" == f"Literal({shown})"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "made", [lambda: Literal(SECRET), lambda: connect("llamacpp", URL, credentials=SECRET)], ids=["literal", "adapter"]
)
def test_pickling_a_literal_raises_and_says_what_to_do_instead(made, protocol):
    with pytest.raises(TypeError, match=r"FromEnv\(name\), FromFile\(path\) or an importable function") as caught:
        pickle.dumps(made(), protocol)
    assert SECRET not in str(caught.value)


def test_an_adapter_s_repr_has_no_secret():
    with connect("llamacpp", URL, credentials=SECRET) as adapter:
        assert SECRET not in repr(adapter)


def test_from_env_pickles_and_reads_at_every_call(monkeypatch):
    read = pickle.loads(pickle.dumps(FromEnv("A_TOKEN")))
    assert read == FromEnv("A_TOKEN")
    for value in ("one", "two"):
        monkeypatch.setenv("A_TOKEN", value)
        assert read() == value
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(KeyError, match="A_TOKEN"):
        read()


def test_from_file_pickles_and_reads_at_every_call(tmp_path):
    path = tmp_path / "token"
    read = pickle.loads(pickle.dumps(FromFile(str(path))))
    assert read == FromFile(str(path))
    for value in ("one", "two"):
        path.write_text(f"\n {value} \n", encoding="utf-8")
        assert read() == value
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read()


def test_a_string_is_a_literal_and_a_callable_stays_what_it_is():
    given = FromEnv("A_TOKEN")
    assert isinstance(provider(SECRET), Literal)
    assert provider(SECRET)() == SECRET
    assert provider(given) is given
    assert provider(None) is None


def test_an_adapter_with_from_env_pickles_and_its_copy_reads_the_variable_at_every_request(engine, monkeypatch):
    url, seen = engine
    original = connect("llamacpp", url, pool_id="a", replica_id="r0", credentials=FromEnv("A_TOKEN"))
    monkeypatch.setenv("A_TOKEN", SECRET)
    data = pickle.dumps(original)
    assert SECRET.encode() not in data
    copy = pickle.loads(data)
    assert repr(copy) == repr(original)
    with contextlib.closing(original):
        assert original.tokenize("x") == (1, 2)
    with copy:  # the original is closed: the copy has connections of its own
        for value in ("one", "two"):
            monkeypatch.setenv("A_TOKEN", value)
            assert copy.tokenize("x") == (1, 2)
    assert seen == [f"Bearer {SECRET}", "Bearer one", "Bearer two"]
