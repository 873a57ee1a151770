"""The servers that tests stand on: a client that leaves at the wrong moment must not keep them."""

from __future__ import annotations

import socket
import threading

import pytest

from worker_adapters.testing import After, Ending, FaultProxy
from worker_adapters.testing.server import ReplayServer, nobody_there

from ..runtime.dialects import until
from .subjects import SUBJECTS

HALF = b"POST /completion HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.fixture
def worker():
    with ReplayServer(SUBJECTS[0].transcripts) as server:
        yield server


def left_within_a_request(url):
    """Connect, send half a request, and leave; returns when the other side has closed too."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(HALF)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_replay_server_lets_go_of_a_client_that_left_within_its_request(worker):
    """It used to read the nothing that came for ever."""
    left_within_a_request(worker.url)


def test_the_proxy_hands_on_that_the_client_has_left(worker):
    with FaultProxy(worker.url) as proxy:
        left_within_a_request(proxy.url)
        assert proxy.posts == 0  # it never was whole


def test_a_proxy_that_hangs_ends_all_the_same(worker):
    before = set(threading.enumerate())
    with FaultProxy(worker.url, [After(0, Ending.HANG)]) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(HALF + b"-" * 96)
        assert client.recv(10)
    client.close()
    until(lambda: set(threading.enumerate()) <= before)  # the worker's own notices only now that it was let go


def test_nobody_takes_the_place_of_nobody():
    """What refuses goes on to: another process that asks for that port is not given it."""
    with nobody_there() as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            with pytest.raises(OSError, match="in use"):
                socket.create_server(address)
