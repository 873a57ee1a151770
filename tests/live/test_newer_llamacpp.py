"""llama-server of November 2026 (b11434), beside the build that the transcripts are of: suite, router, replay route."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from pathlib import Path

import llamacpp_build
import pytest
import tiny_gguf
from asking import MODES, post, request, run, start, text, through_first_token, until
from llama_server import LlamaServer
from one_server import OnOneServer

from worker_adapters import End, Retry, connect
from worker_adapters.engines.llamacpp import DIALECT
from worker_adapters.testing import Transcripts

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "llamacpp" / "b1-0c1e570"
pytestmark = [pytest.mark.live("llamacpp-newer"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server():
    with LlamaServer(release=llamacpp_build.NEWER, ctx=16384) as running:
        yield running


class TestRealLlamacpp(OnOneServer):
    dialect = DIALECT
    transcripts = Transcripts(TRANSCRIPTS)


def test_it_is_the_release_it_is_called(server):
    with connect("llamacpp", server.url) as adapter:
        assert adapter.engine_version() == "b11434-b11434"


@pytest.mark.parametrize("mode", MODES)
def test_the_same_text_as_the_older_build(server, mode):
    """Same model, same seed: what is between the two changed no token."""
    with (
        LlamaServer(ctx=16384) as older,
        connect("llamacpp", older.url) as one,
        connect("llamacpp", server.url) as other,
    ):
        assert text(run(one, request(), mode)) == text(run(other, request(), mode))


# --- router ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("alpha", 1), ("beta", 2)):
        options = tiny_gguf.Options(seed=seed, ctx=65536)
        shutil.copy(tiny_gguf.model(options), folder / f"{name}.gguf")
    with LlamaServer(models_dir=folder, slots=1, ctx=65536, release=llamacpp_build.NEWER) as running:
        yield running


def status_of(router, name):
    models = json.loads(router.get("/models")[1])["data"]
    return next(model["status"]["value"] for model in models if model["id"] == name)


@pytest.mark.parametrize("mode", MODES)
def test_models_are_loaded_when_asked_for_and_unloaded_in_mid_stream(router, mode):
    """An unload ends the model's server: its stream is cut, which is no end, and the next request loads it again."""
    with connect("llamacpp", router.url, model="alpha", retry=Retry(attempts=1)) as adapter:
        with start(adapter, request(max_tokens=60000, ignore_eos=True), mode) as stream:
            events = through_first_token(stream)
            assert status_of(router, "alpha") == "loaded"
            found = adapter.properties()
            assert (found.model, found.slots_total, found.slots_free) == ("alpha", 1, 0)  # /props and /slots ?model=
            post(router.port, "/models/unload", {"model": "alpha"})
            events += stream
        assert (events[-1].kind, events[-1].code) == ("error", "WORKER_RESET"), events[-1]
        until(lambda: status_of(router, "alpha") == "unloaded", 0.1)
        assert isinstance(run(adapter, request(max_tokens=4), mode)[-1], End)
        assert status_of(router, "alpha") == "loaded"


def test_models_sse_tells_of_it(router):
    """A stream of its own, which our codec reads: it is not used by the dialect, whose health of a router is /health."""
    seen, connected = [], threading.Event()
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)

    def listen():
        connection.request("GET", "/models/sse")
        response = connection.getresponse()
        connected.set()
        while not any(b"beta" in line for line in seen):
            seen.append(response.readline())

    listener = threading.Thread(target=listen)
    listener.start()
    with connect("llamacpp", router.url, model="beta") as adapter:
        adapter.generate(request(max_tokens=2))
    listener.join(20)
    connection.close()
    assert any(b"beta" in line for line in seen)


# --- the replay route -----------------------------------------------------------------------------------------------


def ask_with_conversation(server, name, count):
    """The body so far, or all of it, of a stream that survives its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    asked = {"prompt": "we see", "n_predict": 64, "seed": 7, "stream": True, "ignore_eos": True}
    headers = {"Content-Type": "application/json", "X-Conversation-Id": name}
    connection.request("POST", "/completion", json.dumps(asked), headers)
    response = connection.getresponse()
    body = response.read(count)
    connection.close()
    return body


def test_the_replay_route_goes_on_where_a_connection_was_cut(server):
    """It can: the bytes of the same stream from byte N on. What it costs stands in docs/engines/llamacpp.md."""
    first = ask_with_conversation(server, "resumed", 300)
    status, whole = server.get("/v1/stream?conv_id=resumed&from=0", timeout=30)
    assert status == http.client.OK
    assert whole.startswith(first)
    status, rest = server.get(f"/v1/stream?conv_id=resumed&from={len(first)}", timeout=30)
    assert first + rest == whole
    assert b'"stop":true' in whole
    assert server.get("/v1/stream?conv_id=nobody&from=0")[0] == http.client.NOT_FOUND
