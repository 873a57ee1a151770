"""Faults between an adapter and a real vLLM: the same proxy that stands in front of recorded answers elsewhere."""

from __future__ import annotations

import proxied
import pytest
from asking import MODES, until
from vllm_server import VllmServer

pytestmark = [pytest.mark.live("vllm"), pytest.mark.req("OC-ADAPT-5020"), pytest.mark.timeout(900)]
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def server():
    with VllmServer(ctx=4096, seqs=2) as running:
        yield running


@modes
@pytest.mark.parametrize("fault", proxied.CUTS)
def test_a_stream_that_is_cut(server, fault, mode):
    """The engine, too, is left: nothing runs on that nobody reads."""
    proxied.cut("vllm", server.url, fault, mode)
    until(lambda: server.running() == 0, 0.05)


@modes
def test_what_comes_before_a_stream_is_tried_again(server, mode):
    proxied.before_the_stream("vllm", server.url, mode)


@modes
def test_a_proxy_without_faults_changes_nothing(server, mode):
    proxied.reused("vllm", server.url, mode)
