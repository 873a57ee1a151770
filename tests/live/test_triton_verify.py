"""What verify-determinism finds on a real Triton with stand-ins: its bytes, where its wires have no ids."""

from __future__ import annotations

import json

import pytest
from triton_server import ENSEMBLE, TritonServer

from worker_adapters.cli import main

pytestmark = [pytest.mark.live("triton"), pytest.mark.req("ADAPT-3700"), pytest.mark.timeout(300)]

MODELS = ("ensemble", "tensorrt_llm_bls", "vllm_model", "llmapi")


@pytest.fixture(scope="module")
def urls():
    with TritonServer(*ENSEMBLE, *MODELS[1:]) as one, TritonServer(*ENSEMBLE, *MODELS[1:]) as two:
        yield one.url, two.url


@pytest.mark.parametrize("model", MODELS)
def test_64_seeds_are_exact_on_one_worker_and_across_two(urls, model, capsys):
    words = ["--engine", "triton", "--model", model, "--url", urls[0], "--url", urls[1], "--json"]
    assert main(["verify-determinism", *words, "--max-tokens", "12", "--conditions", "again,order,workers"]) == 0
    for condition in json.loads(capsys.readouterr().out)["conditions"]:
        assert (condition["exact"], condition["established"]) == (64, 64)
