"""What clients and operators do to the example orchestrator that nobody should."""

from __future__ import annotations

import random
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from itertools import islice

import pytest

pytest.importorskip("flask", reason="the example needs Flask and waitress: the extra test has them")

from examples.orchestrator import tasks
from examples.orchestrator.__main__ import main
from examples.orchestrator.settings import Settings

from worker_adapters import End, FinishReason, parse_events

from .client import Client, text_of, until

SAYS = ["Zoë", " says", " hi"]
REPLICA = """[[replica]]
id = "r0"
engine = "vllm"
url = "http://10.0.0.7:8000"
"""


@pytest.mark.req("ADAPT-3600", socket=True)
def test_other_methods_and_paths_are_refused_and_nothing_waits(orchestrator, simulated_worker):
    worker = simulated_worker("vllm", faults=["stall@0:forever*"])
    client = orchestrator(worker)
    task_id = client.submit()
    worker.wait_for(faults=1)
    for method, path, status in [
        ("GET", "/v1/tasks", 405),
        ("DELETE", f"/v1/tasks/{task_id}/stream", 405),
        ("POST", f"/v1/tasks/{task_id}/stream", 405),
        ("GET", f"/v1/tasks/{task_id}/cancel", 405),
        ("GET", "/v1/tasks//stream", 404),
        ("GET", "/v1/tasks/%0a%00/stream", 404),
        ("POST", "/v1/tasks/%ff/cancel", 204),
        ("HEAD", f"/v1/tasks/{task_id}/stream", 200),
        ("HEAD", "/v1/tasks/none/stream", 404),
    ]:
        assert client.ask(method, path).status == status, (method, path)
    assert client.tasks.log._tasks[task_id].readers == 0
    assert client.cancel(task_id) == 204


@pytest.mark.req("ADAPT-3600", socket=True)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_or_has_no_end_is_refused(orchestrator, simulated_worker, chunked):
    client = orchestrator(simulated_worker("vllm"), largest_body=1 << 16)
    with socket.create_connection(client.address, timeout=30) as sock:
        head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1 << 20}"
        sock.sendall(f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        for _ in range(17 if chunked else 0):  # one more than may be
            sock.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert b" 413 " in sock.recv(100)
    assert client.ask("GET", "/healthz").status == 200


@pytest.mark.req("ADAPT-3600", socket=True)
def test_streams_go_out_to_their_ends_when_it_is_stopped(simulated_worker):
    worker = simulated_worker("vllm", says=SAYS, faults=["stall@3:forever*"])
    with ExitStack() as stack:
        client = Client.of(stack, [worker], slots=2)
        begun, bodies = threading.Barrier(3), {}

        def reader(task_id):
            with client.listen(task_id) as chunks:
                got = next(chunks)
                begun.wait(30)
                bodies[task_id] = got + b"".join(chunks)

        threads = [threading.Thread(target=reader, args=(client.submit(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(30)
    for thread in threads:
        thread.join(30)
    assert len(bodies) == 2  # each to the end of its chunked body, or a read would have failed
    for body in bodies.values():
        *_, end = parse_events([body])
        assert isinstance(end, End)
        assert end.finish_reason is FinishReason.CANCELLED


@pytest.mark.req("ADAPT-3600", socket=True)
def test_nothing_is_taken_on_while_it_is_stopped(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm"))
    client.tasks.close()
    answer = client.ask("POST", "/v1/tasks", {"prompt": "x"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "POOL_UNAVAILABLE")


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_mistake_costs_a_task_and_no_slot(orchestrator, simulated_worker, monkeypatch):
    client = orchestrator(simulated_worker("vllm", says=SAYS), slots=1)

    def broken(_request):
        raise KeyError

    told = []  # where pytest would keep the traceback, and what its frames hold
    monkeypatch.setattr(tasks.logger, "exception", lambda _what, task_id: told.append(task_id))
    with monkeypatch.context() as patch:
        patch.setattr(client.tasks.replicas[0].adapter, "stream", broken)
        task_id = client.submit()
        answer = client.stream(task_id)
        assert (answer.status, answer.json["error"]["reason"]) == (500, "BUG")
    assert text_of(client.stream(client.submit()).events) == "".join(SAYS)
    assert told == [task_id]


@pytest.mark.req("ADAPT-3600", socket=True)
def test_who_has_left_holds_no_place_in_the_queue(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("vllm", faults=["stall@head:forever*"]), slots=1, queue=1, grace=60.0)
    first = client.submit()
    until(lambda: client.tasks.waiting == 0)
    with client.listen(first):
        deserted = client.submit()
        client.hurry(deserted)
        until(lambda: client.tasks._waiting[0].recording.is_deserted)
        waiting = client.submit()
        assert client.stream(deserted).events[-1].finish_reason is FinishReason.CANCELLED
        assert client.cancel(waiting) == client.cancel(first) == 204


@contextmanager
def asked(client, task_id):
    """A connection that has asked for the stream, and reads nothing of it."""
    kept = client.tasks.log._tasks[task_id]
    with socket.create_connection(client.address, timeout=30) as sock:
        sock.sendall(f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(lambda: kept.readers or kept.over)
        yield sock


@pytest.mark.req("ADAPT-3600", "ADAPT-3101", socket=True)
@pytest.mark.parametrize("phase", ["head", "0", "2"])
def test_a_client_that_leaves_frees_its_task_s_slot_in_each_phase(orchestrator, simulated_worker, phase):
    """Before the worker's head, before its first token, in mid-stream; heartbeats are far away."""
    worker = simulated_worker("vllm", says=SAYS, faults=[f"stall@{phase}:forever"])
    client = orchestrator(worker, slots=1, grace=60.0, heartbeat=600.0)
    task_id = client.submit()
    kept = client.tasks.log._tasks[task_id]
    with asked(client, task_id):
        worker.wait_for(faults=1)
        client.hurry(task_id)
    until(lambda: kept.over and not kept.readers and worker.state.active == 0)
    assert client.stream(task_id).events[-1].finish_reason is FinishReason.CANCELLED
    assert text_of(client.stream(client.submit()).events) == "".join(SAYS)


@pytest.mark.req("ADAPT-3600", socket=True)
def test_a_client_that_leaves_the_queue_has_its_task_generated_no_more(orchestrator, simulated_worker):
    worker = simulated_worker("vllm", says=SAYS, faults=["stall@2:forever"])
    client = orchestrator(worker, slots=1, grace=60.0, heartbeat=600.0)
    first = client.submit()
    until(lambda: client.tasks.waiting == 0)
    with client.listen(first) as chunks:
        next(chunks)
        queued = client.submit()
        with asked(client, queued):
            client.hurry(queued)
        until(lambda: client.tasks._waiting[0].recording.is_deserted)
        client.cancel(first)
        until(lambda: client.tasks.log._tasks[queued].over)  # or whoever asks is a client that came back
    assert client.stream(queued).events[-1].finish_reason is FinishReason.CANCELLED
    assert len(worker.generations) == 1


@pytest.mark.req("ADAPT-3600", socket=True)
def test_resuming_at_random_while_it_runs_by_two_clients_gives_each_the_same_bytes(orchestrator, simulated_worker):
    client = orchestrator(simulated_worker("llamacpp", says=SAYS * 30, rate=400.0), grace=30.0)
    task_id, bodies = client.submit(max_tokens=200), [b"", b""]

    def reader(n):
        rng, got, last = random.Random(n), b"", None
        while not got.rpartition(b"event: ")[2].startswith(b"end"):
            with client.listen(task_id, last) as chunks:
                got += b"".join(chunk for chunk in islice(chunks, rng.randrange(1, 9)) if not chunk.startswith(b":"))
            last = got.rpartition(b"\nid: ")[2].partition(b"\n")[0].decode()
        bodies[n] = got

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert bodies == [client.stream(task_id).body] * 2


# --- its file ---------------------------------------------------------------------------------------------------------


def test_the_example_s_own_file_is_right():
    from .test_examples import EXAMPLES  # noqa: PLC0415

    assert [one.engine for one in Settings.of(EXAMPLES / "orchestrator" / "replicas.toml").replicas] == [
        "llamacpp",
        "vllm",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"no \[\[replica\]\]"),
        ("replicas = 3", "'replicas' is not a setting: those are queue"),
        ("colour = 1", "'colour' is not a setting: those are queue, .*, replica$"),
        ("replica = 3", "array.*at `replica`"),
        (REPLICA + "slot = 1", "'slot' is not a setting of a replica: those are id, engine, url"),
        (REPLICA + 'slots = "4"', r"int.*str.*at `replica\[0\]\.slots`"),
        (REPLICA + "slots = true", r"int.*bool.*at `replica\[0\]\.slots`"),
        (REPLICA + "slots = 0", r"'slots' must be > 0.*at `replica\[0\]`"),
        (REPLICA.replace("vllm", "vlm"), "'engine' must be one of llamacpp.*: vlm"),
        (REPLICA.replace('engine = "vllm"', ""), "missing required field `engine`"),
        (REPLICA * 2, "'id' of each replica must be its own: r0, r0"),
        ("grace = -1\n" + REPLICA, "'grace' must be > 0: -1"),
        ("heartbeat = nan\n" + REPLICA, "'heartbeat' must be > 0: nan"),
        ("queue = 1.5\n" + REPLICA, "int.*float.*at `queue`"),
        ("[[replica]", "at line 1"),
        ("\xff", "utf-8"),
    ],
)
def test_a_mistake_in_the_file_is_said(tmp_path, text, said):
    path = tmp_path / "replicas.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=said):
        Settings.of(path)


@pytest.mark.parametrize("text", [REPLICA.replace("http:", "ftp:"), "queue = {}", None])
def test_what_it_can_not_be_started_with_is_said_in_a_line(tmp_path, monkeypatch, capsys, text):
    path = tmp_path / "replicas.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["orchestrator", str(path), "--port", "0"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert f"error: {path}: " in capsys.readouterr().err.splitlines()[-1]
