"""A gateway that lets requests through and hides the rest: the worker is ready where they would be taken, and only there."""

from __future__ import annotations

import socket

import pytest

from worker_adapters import GenerateRequest, connect
from worker_adapters.simulator import Simulator

from .relays import RelayProxy, line_of
from .servers import Server, head

ROUTES = {
    "llamacpp": ("/completion", "/props"),
    "tgi": ("/generate_stream", "/info"),
    "trtllm": ("/v1/completions", "/v1/models"),
    "vllm": ("/v1/completions", "/v1/models"),
}
engines = pytest.mark.parametrize("engine", ROUTES)


def port_of(worker):
    return int(worker.url.rpartition(":")[2])


class Gateway(Server):
    """Lets only these paths through to the worker; `keyed`: those that want the key."""

    def __init__(self, worker, paths, status, keyed=(), key=""):
        self._worker, self._paths, self._status, self._keyed, self._key = worker, paths, status, keyed, key
        self.asked = []
        super().__init__(self._pass_on)

    def _pass_on(self, client):
        while request := client.request():
            path = line_of(request).split(" ")[1].partition("?")[0]
            self.asked.append(path)
            page = b"<html>no</html>"
            if path not in self._paths:
                client.send(head(f"Content-Length: {len(page)}", content_type="text/html", status=self._status), page)
            elif path in self._keyed and f"Bearer {self._key}".encode() not in request:
                client.send(head(f"Content-Length: {len(page)}", content_type="text/html", status="401 No"), page)
            else:
                with socket.create_connection(("127.0.0.1", self._worker)) as there:
                    there.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                    RelayProxy._both_ways(client.sock, there)
                return


@engines
@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "405 Method Not Allowed"])
def test_a_worker_whose_other_routes_are_hidden_is_ready(engine, status):
    generate, tells = ROUTES[engine]
    with (
        Simulator(engine) as worker,
        Gateway(port_of(worker), {"/health", generate}, status) as gateway,
        connect(engine, gateway.url) as adapter,
    ):
        health = adapter.health()
        assert health.ready, health.detail
        assert {"/health", tells, generate} <= set(gateway.asked)
        assert worker.state.served == 0  # nothing was generated
        assert adapter.wait_ready(5).ready
        assert adapter.generate(GenerateRequest(prompt="p", max_tokens=3)).end is not None


@engines
def test_one_whose_own_route_is_hidden_too_is_not(engine):
    with (
        Simulator(engine) as worker,
        Gateway(port_of(worker), {"/health"}, "404 Not Found") as gateway,
        connect(engine, gateway.url) as adapter,
    ):
        health = adapter.health()
    assert (health.live, health.ready) == (True, False)
    assert "404" in health.detail


@engines
def test_nor_is_one_whose_key_is_refused(engine):
    generate, _ = ROUTES[engine]
    with (
        Simulator(engine) as worker,
        Gateway(
            port_of(worker), {"/health", generate}, "403 Forbidden", keyed={generate}, key="k-0123456789"
        ) as gateway,
    ):
        for key, ready in (("wrong-key", False), ("k-0123456789", True)):
            with connect(engine, gateway.url, credentials=key) as adapter:
                assert adapter.health().ready is ready


PAIRS = [(one, other) for one in ROUTES for other in ROUTES if one != other and {one, other} != {"trtllm", "vllm"}]
"""Not these two, which have the same routes: they are told by what they say of their models."""


@pytest.mark.parametrize(("engine", "there"), PAIRS)
def test_nor_is_another_engines_server(engine, there):
    """Which has not got the route either."""
    with Simulator(there) as worker, connect(engine, worker.url) as adapter:
        health = adapter.health()
    assert not health.ready
