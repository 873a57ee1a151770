"""The server around any engine: queue, pace, disconnects, cuts, connections, and an end that leaves nothing behind."""

from __future__ import annotations

import socket
import struct
import threading
import time
from itertools import count, repeat

import pytest

from worker_adapters import connect
from worker_adapters.simulator import ScriptedSource, Simulator, random_cuts

from ..timers import SOON
from .client import Client, body_of, completion, dechunk, events_of, exchange, get, post

ENDLESS = ScriptedSource(lambda _: repeat(" on"))
FOREVER = {"n_predict": -1}


def final(response):
    return events_of(response)[-1]


class Gate:
    """A source that says one token per permit, so that a test decides how far an answer has come."""

    def __init__(self):
        self.permits = threading.Semaphore(0)
        self.source = ScriptedSource(self._say)

    def _say(self, ask):
        for number in count():
            assert self.permits.acquire(timeout=10)
            yield str(number)


def test_a_simulator_tells_where_it_listens_and_is_started_once():
    simulator = Simulator("llamacpp")
    with pytest.raises(RuntimeError):
        _ = simulator.url
    with simulator as sim:
        assert sim.url == f"http://127.0.0.1:{sim.address[1]}"
        with pytest.raises(RuntimeError):
            sim.start()
    simulator.stop()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"engine": "nope"}, ValueError), ({"rate": 0}, ValueError), ({"slots": 0}, ValueError), ({"odd": 1}, TypeError)],
)
def test_wrong_options_are_refused(options, error):
    with pytest.raises(error):
        Simulator(**({"engine": "llamacpp"} | options))


def test_requests_are_served_in_the_order_they_came():
    gate = Gate()
    with Simulator("llamacpp", slots=1, source=gate.source) as sim:
        clients = []
        for number in range(4):
            clients.append(Client(sim).send(completion(prompt=f"{number}", n_predict=1)))
            sim.wait_for(active=1, queued=number)
        for number, client in enumerate(clients):
            gate.permits.release()
            assert client.rest().endswith(b"\r\n0\r\n\r\n")
            sim.wait_for(served=number + 1, queued=max(0, 2 - number))
            client.sock.close()
        gate.permits.release(10)


def test_a_queued_request_gets_no_byte_until_it_has_a_slot():
    gate = Gate()
    with Simulator("llamacpp", slots=1, source=gate.source) as sim, Client(sim) as first, Client(sim) as second:
        first.send(completion(n_predict=2))
        sim.wait_for(active=1)
        second.send(completion(n_predict=1, sse_ping_interval=1))
        sim.wait_for(queued=1)
        gate.permits.release()
        first.until(b'"tokens_predicted":1')
        second.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.sock.recv(1)
        second.sock.settimeout(10)
        gate.permits.release(2)
        assert second.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_the_head_comes_with_the_slot_and_not_with_the_first_token():
    gate = Gate()
    with Simulator("llamacpp", source=gate.source) as sim, Client(sim) as client:
        head = client.send(completion()).until(b"\r\n\r\n")
        assert head.endswith(b"Keep-Alive: timeout=5, max=100\r\n\r\n")
        assert sim.state.tokens == 0
        gate.permits.release(8)
        client.rest()


def test_a_certain_slot_is_waited_for_while_others_are_free():
    gate = Gate()
    with Simulator("llamacpp", slots=2, source=gate.source) as sim, Client(sim) as first, Client(sim) as second:
        first.send(completion(id_slot=0, n_predict=1))
        sim.wait_for(active=1)
        second.send(completion(id_slot=2, n_predict=1, stream=False))
        sim.wait_for(queued=1)
        gate.permits.release()
        first.rest()
        gate.permits.release()
        assert body_of(second.response())["id_slot"] == 0


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_client_that_leaves_frees_its_slot(how):
    with Simulator("llamacpp", slots=1, rate=200, source=ENDLESS) as sim, Client(sim) as client:
        client.send(completion(**FOREVER)).until(b'"tokens_predicted":3')
        if how == "half-close":
            client.sock.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.close()
        state = sim.wait_for(active=0, cancelled=1, open=0)
        assert (state.served, state.failed) == (0, 0)
        assert final(exchange(sim, completion(n_predict=1)))["stop"]


def test_a_client_that_left_is_noticed_before_the_next_token():
    """A half-closed socket still takes what is sent, so only looking tells."""
    gate = Gate()
    with Simulator("llamacpp", source=gate.source) as sim, Client(sim) as client:
        gate.permits.release()
        client.send(completion(**FOREVER)).until(b'"tokens_predicted":1,')
        client.sock.shutdown(socket.SHUT_WR)
        gate.permits.release()  # for the token that may be in the making
        assert sim.wait_for(cancelled=1).tokens <= 2


def test_a_queued_client_that_left_is_noticed_at_its_slot():
    gate = Gate()
    with Simulator("llamacpp", slots=1, source=gate.source) as sim, Client(sim) as first:
        first.send(completion(n_predict=1))
        sim.wait_for(active=1)
        second = Client(sim).send(completion(n_predict=1))
        sim.wait_for(queued=1)
        second.sock.close()
        assert sim.state.queued == 1
        gate.permits.release()
        first.rest()
        sim.wait_for(cancelled=1, served=1, active=0)


def test_the_rate_and_the_first_delay_are_kept():
    with Simulator("llamacpp", rate=50, first_token_delay=0.1) as sim:
        start = time.monotonic()
        exchange(sim, completion(n_predict=6))
        assert time.monotonic() - start >= 0.1 + 5 / 50 - 0.005


def test_whole_answers_are_paced_too():
    with Simulator("llamacpp", rate=50) as sim:
        start = time.monotonic()
        exchange(sim, completion(n_predict=6, stream=False))
        assert time.monotonic() - start >= 5 / 50 - 0.005


@pytest.mark.parametrize("split", [1, 7, random_cuts(3), lambda data: [data]])
def test_cuts_of_the_bytes_change_no_byte(split):
    request = completion(n_predict=40, stop=["never"])
    mask = b'"timings"'
    with Simulator("llamacpp") as plain, Simulator("llamacpp", split=split) as cut:
        one, other = exchange(plain, request), exchange(cut, request)
    assert [c.partition(mask)[0] for c in dechunk(one)] == [c.partition(mask)[0] for c in dechunk(other)]


def test_every_piece_is_a_send_of_its_own():
    """Slow enough that loopback does not join them: the pieces are waited for one by one."""
    sent = []
    arrived = threading.Semaphore(0)

    def one_by_one(data):
        for number in range(len(data)):
            yield data[number : number + 1]
            sent.append(number)
            assert arrived.acquire(timeout=10)

    with Simulator("llamacpp", split=one_by_one) as sim, Client(sim) as client:
        client.send(get("/health")).until(b"\r\n\r\n{")
        for expected in b'"status":"ok"}':
            arrived.release()
            assert client.sock.recv(100) == bytes([expected])
        arrived.release()
        client.send(get("/health"))
        arrived.release(100)
        assert client.response().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("chunk_split", [1, 5, random_cuts(1)])
def test_chunks_can_be_cut_apart_from_the_bytes(chunk_split):
    with Simulator("llamacpp", source=ScriptedSource(["a", "🙂", "c"]), chunk_split=chunk_split) as sim:
        response = exchange(sim, completion(n_predict=3, ignore_eos=False))
    assert [said["content"] for said in events_of(response)] == ["a", "🙂", "c", ""]
    assert len(dechunk(response)) > 30


def test_equal_data_is_cut_alike_and_other_data_otherwise():
    cut = random_cuts(5)
    data = bytes(range(200))
    assert list(cut(data)) == list(cut(data))
    assert b"".join(cut(data)) == data
    assert list(map(len, cut(data))) != list(map(len, cut(data[::-1])))


def test_a_connection_carries_whole_answers_one_after_the_other():
    with Simulator("llamacpp") as sim, Client(sim) as client:
        for _ in range(3):
            assert b"Keep-Alive: timeout=5, max=100" in client.send(get("/health")).response()
        client.send(get("/health") + get("/health"))
        assert client.response() == client.response()
        assert sim.state.accepted == 1


def test_an_idle_connection_is_closed():
    with Simulator("llamacpp", keep_alive_s=0.05) as sim, Client(sim) as client:
        client.send(get("/health")).response()
        assert client.rest() == b""
        sim.wait_for(open=0)


def test_a_streamed_answer_closes_although_it_said_keep_alive():
    with Simulator("llamacpp") as sim, Client(sim) as client:
        response = client.send(completion()).rest()
        assert b"\r\nKeep-Alive: " in response
        assert response.endswith(b"\r\n0\r\n\r\n")


def test_a_client_may_ask_for_the_connection_to_close():
    with Simulator("llamacpp") as sim, Client(sim) as client:
        response = client.send(get("/health", "Connection: close")).rest()
        assert b"\r\nConnection: close\r\n" in response
        assert b"Keep-Alive" not in response


def test_after_an_error_the_server_waits_for_the_client_and_then_closes():
    with Simulator("llamacpp", keep_alive_s=2 * SOON) as sim:
        with Client(sim) as client:
            assert b"\r\nConnection: close\r\n" in client.send(get("/nothing")).response()
            assert sim.state.open == 1
        sim.wait_for(open=0)
    with Simulator("llamacpp", keep_alive_s=0.05) as sim, Client(sim) as client:
        client.send(get("/nothing")).response()
        assert client.rest() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"what?\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 104857601\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_what_is_no_request_is_answered_and_ends_the_connection(data, status):
    with Simulator("llamacpp", keep_alive_s=2 * SOON) as sim, Client(sim) as client:
        assert client.send(data).until(b"\r\n\r\n").startswith(b"HTTP/1.1 %d " % status)
        assert exchange(sim, get("/health")).endswith(b'{"status":"ok"}')


def test_a_client_that_leaves_in_the_middle_of_its_request_does_no_harm():
    with Simulator("llamacpp") as sim:
        for part in (b"GET /hea", b"POST /completion HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"):
            with Client(sim) as client:
                client.send(part)
        sim.wait_for(accepted=2, open=0, requests=0)
        assert exchange(sim, get("/health"))


def test_a_head_may_come_in_any_pieces():
    with Simulator("llamacpp") as sim, Client(sim) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/tokenize", {"content": "a"}):
            client.send(bytes([byte]))
        assert client.response().endswith(b'{"tokens":[326]}')


def test_a_client_that_asks_before_sending_its_body_is_told_to_go_on():
    head, _, body = post("/tokenize", {"content": "a"}, "Expect: 100-continue").partition(b"\r\n\r\n")
    with Simulator("llamacpp") as sim, Client(sim) as client:
        assert client.send(head + b"\r\n\r\n").until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.send(body).response().startswith(b"HTTP/1.1 200 OK")


@pytest.fixture(scope="module")
def held_port():
    """One that nobody else is given: bound here too, without listening."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_nothing_is_left_after_stop(held_port):
    """Streaming, queued, idle, lingering, half-read and blocked connections all end, and so do their threads."""
    before = set(threading.enumerate())
    simulator = Simulator("llamacpp", port=held_port, slots=2, rate=20, source=ENDLESS).start()
    clients = [Client(simulator) for _ in range(6)]
    for client in clients[:3]:
        client.send(completion(**FOREVER))
    clients[3].send(get("/health")).response()
    clients[4].send(get("/nothing")).response()
    clients[5].send(b"GET /he")
    simulator.wait_for(accepted=6, active=2, queued=1)
    simulator.stop()
    assert set(threading.enumerate()) <= before
    assert simulator.state.open == 0
    for client in clients:
        client.rest()
        client.sock.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(simulator.address)


@pytest.mark.parametrize("slots", [2, 4])
def test_what_is_known_of_a_worker_is_not_believed_of_the_next_one_at_its_port(held_port, slots):
    """Not in these tests (conftest.py): by chance alone, they meet a port again and again."""
    with Simulator("llamacpp", port=held_port, slots=slots) as sim, connect("llamacpp", sim.url) as adapter:
        assert adapter.properties().slots_total == slots


def test_stop_wakes_a_connection_whose_client_does_not_read():
    simulator = Simulator("llamacpp", source=ScriptedSource(lambda _: repeat("x" * 60_000))).start()
    with Client(simulator) as client:
        client.send(completion(**FOREVER)).until(b"\r\n\r\n")
        # Without a reader the tokens stop once the buffers of both sockets are full.
        tokens, more = 0, 1
        while more != tokens:
            tokens = more
            try:
                more = simulator.wait_for(lambda state: state.tokens > tokens + 20, timeout=0.3).tokens  # noqa: B023
            except TimeoutError:
                break
        simulator.stop()
    assert simulator.state.open == 0


def test_a_source_that_raises_fails_its_own_answer_in_the_engines_words(monkeypatch, caplog):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    caplog.set_level("DEBUG", "worker_adapters.simulator")
    with Simulator("llamacpp", source=ScriptedSource({(1,): ["a"]})) as sim:
        reply = exchange(sim, completion(prompt="unknown"))
        assert b"KeyError" in reply
        sim.wait_for(failed=1, active=0, open=0)
        assert final(exchange(sim, completion(prompt="", n_predict=1)))["stop"]
    assert told == []
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


def test_waiting_for_what_does_not_come_fails_with_the_state():
    with Simulator("llamacpp") as sim, pytest.raises(TimeoutError, match="queued=0"):
        sim.wait_for(queued=1, timeout=0.01)


def test_loading_can_be_ended_by_hand():
    with Simulator("llamacpp", load_time=3600) as sim:
        assert exchange(sim, get("/health")).startswith(b"HTTP/1.1 503 ")
        sim.finish_loading()
        assert exchange(sim, get("/health")).startswith(b"HTTP/1.1 200 ")
