"""Whatever clients send and however they leave, the simulator's threads end, and none of them with a traceback."""

from __future__ import annotations

import errno
import itertools
import json
import socket
import struct
import subprocess
import sys
import threading

import pytest

from worker_adapters import GenerateRequest, Retry
from worker_adapters.simulator import ENGINES, WordSource

ENDLESS = WordSource(eos_rate=0)
ASKED = GenerateRequest(prompt="a", max_tokens=4096, seed=1, temperature=0.5, top_p=0.5)
RESET = struct.pack("ii", 1, 0)
ODD = (None, True, -1, 1e308, "", "400", [], [[]], {}, {"a": 1}, "\ud800", 2**70)
each = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """What threads die of."""
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    yield
    assert told == []


def request_of(simulated_worker, engine):
    """Target and body of a generation, as the adapter asks for it; many ask it, and SGLang takes a name once."""
    worker = simulated_worker(engine, says=["a"])
    worker.connect(retry=Retry(attempts=1)).generate(ASKED)
    asked = worker.generations[0]
    return asked.path, {name: value for name, value in asked.json.items() if name != "rid"}


def raw(target, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def exchanged(worker, data):
    """All that comes, up to the end of the connection or of a second of silence; a byte or two is what is wanted."""
    with socket.create_connection(worker.address, timeout=10) as client:
        client.sendall(data)
        return client.recv(64)


def leave(client, how):
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if how == "half":
        client.shutdown(socket.SHUT_WR)
    else:
        client.close()


STATES = ("connected", "in its head", "in its body", "streaming", "streaming, unread", "queued", "lingering")


def clients(worker, data):
    """One in each of the states, in which it is when this returns."""
    opened = {state: socket.create_connection(worker.address, timeout=10) for state in STATES}
    for state in ("streaming", "streaming, unread"):
        opened[state].sendall(data)
    worker.wait_for(active=2)
    opened["streaming"].recv(1)
    opened["queued"].sendall(data)
    opened["in its head"].sendall(data[:9])
    opened["in its body"].sendall(data[:-1])
    opened["lingering"].sendall(b"GET / nonsense\r\n\r\n")
    opened["lingering"].recv(1)
    worker.wait_for(queued=1, accepted=len(STATES))
    return opened


@each
def test_it_is_stopped_while_clients_are_in_every_state(simulated_worker, leaves_nothing, engine):
    data = raw(*request_of(simulated_worker, engine))
    worker = simulated_worker(engine, slots=2, rate=1000, source=ENDLESS)
    opened = clients(worker, data)
    worker.stop()
    assert worker.state.open == 0
    for client in opened.values():
        client.close()


@each
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_clients_leave_in_every_state(simulated_worker, leaves_nothing, engine, how):
    data = raw(*request_of(simulated_worker, engine))
    worker = simulated_worker(engine, slots=2, rate=1000, source=ENDLESS, keep_alive_s=0.1)
    opened = clients(worker, data)
    for client in opened.values():
        leave(client, how)
    worker.wait_for(open=0, active=0, queued=0)
    for client in opened.values():
        client.close()


@each
def test_clients_that_come_and_reset_while_it_stops(simulated_worker, leaves_nothing, engine):
    data = raw(*request_of(simulated_worker, engine))
    worker = simulated_worker(engine, source=ENDLESS)
    gone, came = threading.Event(), threading.Event()

    def come():
        while not gone.is_set():
            try:
                with socket.create_connection(worker.address, timeout=10) as client:
                    client.sendall(data)
                    came.set()
                    leave(client, "reset")
            except OSError:
                return

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert came.wait(10)
    worker.wait_for(lambda state: state.accepted > 20)
    worker.stop()
    gone.set()
    for thread in threads:
        thread.join()


@each
def test_a_body_of_another_shape_is_answered(simulated_worker, engine):
    """Each field, and what is inside those that hold JSON, as something else: the engine's words, and no dead thread."""
    target, good = request_of(simulated_worker, engine)
    bodies = [b"", b"{", b"\xff", b"[" * 100_000, *ODD[:-2], ODD[-1], *changed(good)]
    worker = simulated_worker(engine, says=["a"] * 5)
    for body in bodies:
        answer = exchanged(worker, raw(target, body))
        assert answer.startswith(b"HTTP/1.1 "), body
    worker.wait_for(active=0, open=0)


def changed(good):
    for name, odd in itertools.product(good, ODD):
        yield {**good, name: odd}
        inner = good[name]
        try:
            inner = json.loads(inner) if isinstance(inner, str) else inner
        except ValueError:
            continue
        if isinstance(inner, dict):
            for key in inner:
                told = {**inner, key: odd}
                yield {**good, name: json.dumps(told) if isinstance(good[name], str) else told}


@each
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET //[ HTTP/1.1", 400),
        ("GET http://[x HTTP/1.1", 400),
        ("GET /%ff%00?a=%ff&&= HTTP/1.1", None),
        ("POST / HTTP/1.1\r\nContent-Length: -1", 400),
        (f"POST / HTTP/1.1\r\nContent-Length: {'9' * 5000}", 413),
        ("BREW /health HTTP/1.1", None),
    ],
)
def test_a_head_of_another_shape_is_answered(simulated_worker, engine, line, status):
    worker = simulated_worker(engine)
    answer = exchanged(worker, line.encode("latin-1") + b"\r\nHost: \xff\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 ")
    assert status is None or int(answer.split()[1]) == status


def test_it_serves_on_when_descriptors_had_run_out(simulated_worker, monkeypatch):
    accept, short = socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    def accepting(listener):
        if short:
            raise OSError(short.pop(), "planted")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accepting)
    worker = simulated_worker("llamacpp")
    assert exchanged(worker, b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert short == []


UNSTOPPED = """
import socket
from worker_adapters.simulator import Simulator, WordSource

sim = Simulator("llamacpp", source=WordSource(eos_rate=0)).start()
client = socket.create_connection(sim.address)
body = b'{"prompt": "a", "n_predict": 9000, "stream": true}'
client.sendall(b"POST /completion HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
client.recv(100)
print(sim.state.active)
"""


def test_a_process_that_never_stops_it_ends_in_silence():
    done = subprocess.run([sys.executable, "-c", UNSTOPPED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
