"""Faults between an adapter and a real llama-server: the same proxy that stands in front of recorded answers elsewhere."""

from __future__ import annotations

import proxied
import pytest
from asking import MODES
from llama_server import LlamaServer

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001")]
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def server():
    with LlamaServer() as running:
        yield running


@modes
@pytest.mark.parametrize("fault", proxied.CUTS)
def test_a_stream_that_is_cut(server, fault, mode):
    """The engine, too, is left: no slot goes on with what nobody reads."""
    proxied.cut("llamacpp", server.url, fault, mode)
    server.idle_slots()


@modes
def test_what_comes_before_a_stream_is_tried_again(server, mode):
    proxied.before_the_stream("llamacpp", server.url, mode)


@modes
def test_a_proxy_without_faults_changes_nothing(server, mode):
    proxied.reused("llamacpp", server.url, mode)
