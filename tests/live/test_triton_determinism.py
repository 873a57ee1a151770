"""What a real Triton with stand-ins repeats: fixed seeds on one worker and on two, both ways to run."""

from __future__ import annotations

import pytest
from asking import MODES, request, run, text
from triton_server import ENSEMBLE, TritonServer

from worker_adapters import connect

pytestmark = [pytest.mark.live("triton"), pytest.mark.req("OC-ADAPT-5070"), pytest.mark.timeout(120)]

MODELS = ("ensemble", "tensorrt_llm_bls", "vllm_model", "llmapi")
SEEDS = range(64)


@pytest.fixture(scope="module")
def servers():
    with TritonServer(*ENSEMBLE, *MODELS[1:]) as one, TritonServer(*ENSEMBLE, *MODELS[1:]) as two:
        yield one, two


@pytest.mark.parametrize("model", MODELS)
def test_fixed_seeds_say_the_same_twice_and_on_two_workers(servers, model):
    with connect("triton", servers[0].url, model=model) as one, connect("triton", servers[1].url, model=model) as two:

        def said(adapter, mode):
            return [text(run(adapter, request(seed=seed, max_tokens=12), mode)) for seed in SEEDS]

        once = said(one, "stream")
        assert len(set(once)) == len(SEEDS)
        for adapter in (one, two):
            for mode in MODES:
                assert said(adapter, mode) == once


@pytest.mark.parametrize("model", MODELS)
def test_greedy_does_not_care_about_the_seed(servers, model):
    with connect("triton", servers[0].url, model=model) as adapter:
        texts = {text(run(adapter, request(seed=seed, temperature=0, max_tokens=12), "stream")) for seed in range(8)}
    assert len(texts) == 1
