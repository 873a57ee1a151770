"""The launcher of real llama-servers, watched through plain http.client: the library under test has no part in this."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import llama_server
import pytest
import tiny_gguf
from llama_server import LlamaServer, ServerError

pytestmark = pytest.mark.live

LONG = {"prompt": "we see", "n_predict": 4000, "ignore_eos": True, "seed": 1, "stream": True}


@contextlib.contextmanager
def posted(server, body, path="/completion", timeout=20.0):
    """Send a request and yield the connection: its answer is not waited for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **server.headers()})
        yield connection
    finally:
        if connection.sock is not None:
            connection.sock.close()
        connection.close()


def events(response):
    return [json.loads(line[6:]) for line in response.read().splitlines() if line.startswith(b"data: ")]


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def server():
    with LlamaServer() as running:
        yield running


def test_streams_a_completion(server):
    with posted(server, {"prompt": "we see", "n_predict": 16, "ignore_eos": True, "stream": True}) as connection:
        response = connection.getresponse()
        assert response.status == 200
        seen = events(response)
    assert [event["stop"] for event in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1]["tokens_predicted"] == 16


def test_split_characters_arrive_whole_and_skip_token_counts(server):
    with posted(server, {**LONG, "n_predict": 200}) as connection:
        seen = events(connection.getresponse())
    text = "".join(event["content"] for event in seen)
    assert "🙂" in text
    assert "\ufffd" not in text
    counts = [event["tokens_predicted"] for event in seen if event["content"]]
    assert max(later - before for before, later in itertools.pairwise(counts)) >= 3


def test_same_seed_same_text(server):
    texts = []
    for _ in range(2):
        with posted(server, {**LONG, "n_predict": 64}) as connection:
            texts.append("".join(event["content"] for event in events(connection.getresponse())))
    assert texts[0] == texts[1] != ""


def test_chat_template_is_there(server):
    body = {"messages": [{"role": "user", "content": "we see"}], "max_tokens": 8}
    with posted(server, body, "/v1/chat/completions") as connection:
        response = connection.getresponse()
        assert (response.status, "choices" in json.loads(response.read())) == (200, True)


def test_props_and_slots(server):
    assert server.props()["total_slots"] == len(server.slots()) == 2
    assert server.props()["build_info"]


def test_slots_are_idle_after_a_stream_was_left(server):
    mark = len(server.log_text())
    with posted(server, LONG) as connection:
        assert connection.getresponse().read(64)
        assert any(slot["is_processing"] for slot in server.slots())
    server.wait_for_log(r"slot +release", start=mark)
    assert server.idle_slots() < 2


def test_replies_end_on_their_own_with_the_default_model_and_never_with_eos_60(server):
    ends = set()
    for seed in range(6):
        with posted(server, {**LONG, "ignore_eos": False, "n_predict": 500, "seed": seed}) as connection:
            ends.add(events(connection.getresponse())[-1]["stop_type"])
    assert "eos" in ends
    with (
        LlamaServer(model=tiny_gguf.model(tiny_gguf.Options(eos=60.0))) as endless,
        posted(endless, {**LONG, "ignore_eos": False, "n_predict": 500}) as connection,
    ):
        assert events(connection.getresponse())[-1]["stop_type"] == "limit"


def test_invalid_bytes_on_demand():
    model = tiny_gguf.model(tiny_gguf.Options(invalid=True))
    with LlamaServer(model=model) as server, posted(server, {**LONG, "n_predict": 1000}) as connection:
        assert "\ufffd" in "".join(event["content"] for event in events(connection.getresponse()))


def test_a_queued_request_gets_no_status_line():
    with LlamaServer(slots=1) as server, posted(server, LONG) as first:
        assert first.getresponse().read(64)
        with posted(server, LONG, timeout=1.0) as second, pytest.raises(TimeoutError):
            second.getresponse()


def test_503_while_loading():
    # The port opens 30 to 200 ms before the model is ready: looking without a pause meets that window.
    with LlamaServer(wait=False) as server:
        statuses = []
        deadline = time.monotonic() + 20
        while 200 not in statuses and time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                statuses.append(server.get("/health")[0])
        assert set(statuses) == {503, 200}


def test_api_key_is_required_once_set():
    with LlamaServer(api_key="k-1") as server:
        assert server.get("/props")[0] == 200
        server.api_key = "other"
        assert server.get("/props")[0] == 401


def test_callers_llama_variables_do_not_reach_the_engine(monkeypatch):
    monkeypatch.setenv("LLAMA_API_KEY", "from the shell")
    with LlamaServer() as server:
        assert server.get("/props")[0] == 200


def test_paused_server_accepts_and_answers_after_resume():
    with LlamaServer() as server:
        server.pause()
        with pytest.raises(TimeoutError):
            server.get("/health", timeout=0.5)
        server.resume()
        assert server.get("/health")[0] == 200


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_left_in_the_middle_of_a_stream(end):
    with LlamaServer() as server, posted(server, LONG) as connection:
        assert connection.getresponse().read(64)
        pid, began = server.pid, time.monotonic()
        getattr(server, end)()
        assert time.monotonic() - began < llama_server.GRACE + 1
        assert gone(pid)
        with pytest.raises(ConnectionRefusedError):
            server.get("/health")
        assert "model loaded" in server.log_text()


def test_stop_ends_a_paused_server():
    with LlamaServer() as server:
        pid = server.pid
        server.pause()
    assert gone(pid)


def test_a_server_that_cannot_start_says_why(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(ServerError, match=r"exited with status 1[\s\S]*model"), LlamaServer(model=bad):
        pass


def test_missing_log_line_is_an_error_with_the_log(server):
    with pytest.raises(ServerError, match=r"not within 0.1 s[\s\S]*model loaded|slot"):
        server.wait_for_log("no such line", 0.1)


SCRIPT = """
import threading, time
from llama_server import LlamaServer
def run():
    server = LlamaServer().__enter__()
    print(server.pid, flush=True)
threading.Thread(target=run).start()
time.sleep(60)
"""


def test_server_started_by_a_finished_thread_lives_and_dies_with_its_process():
    environment = {**os.environ, "PYTHONPATH": str(Path(llama_server.__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        time.sleep(0.3)
        assert not gone(pid)
        owner.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and b"llama-server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("options", [tiny_gguf.Options(), tiny_gguf.Options(invalid=True, seed=2, ctx=65536)])
def test_the_same_options_give_the_same_model(options, tmp_path, monkeypatch):
    files = []
    for name in ("one", "two"):
        monkeypatch.setenv("WORKER_ADAPTERS_CACHE", str(tmp_path / name))
        files.append(tiny_gguf.model(options).read_bytes())
    assert files[0] == files[1]
