"""Idle connections: closed by the loop when they are old, or of no use any more, whatever became of their adapter."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest

from worker_adapters import loop
from worker_adapters.transport import connections

from ..runtime.dialects import GOOD, kinds, request, until
from ..timers import SOON
from .servers import Server, chunk, head, reset
from .test_streams import CHUNKED, adapter

both = pytest.mark.parametrize("way", ["stream", "submit"])
LONG = 60.0
ESTABLISHED, CLOSE_WAIT = "01", "08"


@pytest.fixture
def looked_after(monkeypatch):
    """More often than once a second, which is not the subject."""
    monkeypatch.setattr(connections, "SWEEP", 0.02)
    monkeypatch.setattr(loop, "TICK", 0.02)


class Serving:
    """Keeps connections until the client closes them, or it is told to."""

    def __init__(self, close=None, at_once=1):
        self.left, self.leave = threading.Semaphore(0), threading.Event()
        self._close = close
        self._all_there = threading.Barrier(at_once)

    def __call__(self, client):
        while self._answered(client):
            if self._close is not None:
                self.leave.wait(10)
                self._close(client)
                return
        self.left.release()

    def _answered(self, client):
        asked = client.request()
        if asked:
            self._all_there.wait(5)
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        return asked


def states(port):
    """Of our sockets that are connected to that port (proc(5), /proc/net/tcp: local, remote, state)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [fields[3] for fields in lines if fields[2].endswith(f":{port:04X}")]


def used(a, way):
    assert kinds(getattr(a, way)(request()))[-1] == "end"
    assert a.drain(5)


@both
def test_a_connection_that_was_idle_for_too_long_is_closed(way, wire):
    serving, config = wire
    serve = Serving()
    with serving(serve) as server, adapter(server.url, keep_alive=0.2, **config) as a:
        began = time.monotonic()
        used(a, way)
        assert serve.left.acquire(timeout=2 * SOON)
        assert 0.2 <= time.monotonic() - began < 0.2 + connections.SWEEP + loop.TICK + SOON


def test_one_that_is_young_is_not(looked_after):
    serve = Serving()
    with Server(serve) as server, adapter(server.url, keep_alive=LONG) as a:
        used(a, "stream")
        assert not serve.left.acquire(timeout=0.2)  # the subject: ten looks
        used(a, "stream")
        assert server.connections == 1


def by_fin(client):
    client.sock.close()


def by_rst(client):
    reset(client.sock)


@both
@pytest.mark.parametrize("how", [by_fin, by_rst])
def test_one_that_the_server_has_closed_is_closed_soon(way, how, wire, looked_after):
    serving, config = wire
    serve = Serving(how)
    with serving(serve) as server, adapter(server.url, keep_alive=LONG, **config) as a:
        used(a, way)
        assert ESTABLISHED in states(server.port)
        serve.leave.set()
        until(lambda: ESTABLISHED not in states(server.port))
        until(lambda: CLOSE_WAIT not in states(server.port))
        assert a._transport is not None  # the adapter is there, and does nothing


def test_many_are(looked_after):
    serve = Serving(by_fin, at_once=8)
    with Server(serve) as server, adapter(server.url, keep_alive=LONG) as a:
        streams = [a.submit(request()) for _ in range(8)]
        for stream in streams:
            assert kinds(stream)[-1] == "end"
        assert a.drain(5)
        serve.leave.set()
        until(lambda: not {ESTABLISHED, CLOSE_WAIT} & set(states(server.port)))


@both
@pytest.mark.parametrize("by", ["time", "server"])
def test_so_are_those_of_an_adapter_that_was_dropped(way, by, wire, looked_after):
    serving, config = wire
    serve = Serving(by_fin if by == "server" else None)
    with serving(serve) as server:
        a = adapter(server.url, keep_alive=0.3 if by == "time" else LONG, **config)
        used(a, way)
        del a
        gc.collect()
        serve.leave.set()
        until(lambda: not {ESTABLISHED, CLOSE_WAIT} & set(states(server.port)))


# --- and the next request ---------------------------------------------------------------------------------------------


@both
def test_a_new_connection_in_the_place_of_a_stale_one_is_not_replaced(way):
    """That it was stale shows before anything is sent: what fails then is an attempt."""

    def serve(client):
        client.request()
        if client.number == 0:
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")

    with Server(serve) as server, adapter(server.url, keep_alive=30.0) as a:
        list(getattr(a, way)(request()))
        until(lambda: ESTABLISHED not in states(server.port))
        assert list(getattr(a, way)(request()))[-1].reason == "DISCONNECTED"
        assert server.connections == 2


@both
def test_a_408_on_a_kept_connection_is_not_the_answer_to_a_request(way):
    """HAProxy, for one, says so of an idle connection, and a request may be on its way by then (RFC 9110, 15.5.9)."""

    def serve(client):
        client.request()
        if client.number < 2:
            client.send(CHUNKED, chunk(GOOD), b"0\r\n\r\n")
        if client.number == 0:
            client.request()
        if client.number != 1:
            client.send(head("Content-Length: 0", "Connection: close", status="408 Request Timeout"))

    with Server(serve) as server, adapter(server.url, keep_alive=30.0) as a:
        for _ in range(2):
            events = list(getattr(a, way)(request()))
            assert (events[-1].kind, events[0].attempt) == ("end", 1)
        assert server.connections == 2
        with adapter(server.url) as other:
            assert list(getattr(other, way)(request()))[-1].upstream.status == 408  # of a new connection it is
