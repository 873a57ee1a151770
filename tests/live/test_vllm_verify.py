"""What verify-determinism finds on a real vLLM: float32 one at a time, and bfloat16 in batches."""

from __future__ import annotations

import json

import pytest
from vllm_server import VllmServer

from worker_adapters import GenerateRequest, connect
from worker_adapters.cli import main

pytestmark = [pytest.mark.live("vllm"), pytest.mark.req("ADAPT-3700"), pytest.mark.timeout(1200)]


def verify(capsys, *words):
    """The exit status and the report, condition by condition."""
    status = main(["verify-determinism", "--engine", "vllm", "--json", *words])
    report = json.loads(capsys.readouterr().out)
    return status, {one["condition"]: one for one in report["conditions"]}


def test_64_seeds_are_exact_one_at_a_time_and_across_two_workers(capsys):
    with VllmServer(seqs=1) as one, VllmServer(seqs=1) as two:
        words = ["--url", one.url, "--url", two.url, "--max-tokens", "24", "--conditions", "again,order,workers"]
        status, found = verify(capsys, *words, "--engine-option", "batch_invariant=true")
    assert status == 0
    for condition in found.values():
        assert (condition["exact"], condition["bitwise"], condition["established"]) == (64, 64, 64)


def test_bfloat16_in_batches_of_eight_diverges_and_that_follows_from_the_pack(capsys, tmp_path):
    """Which seeds do is the engine's (docs/engines/vllm.md); alone it repeats itself.

    All prompts of a round fit into one step: a seeded one that does not ends this engine on a CPU ("CPU Generator does
    not use offset").
    """
    pack = tmp_path / "pack.json"
    with VllmServer(seqs=8, threads=4, extra=["--dtype", "bfloat16", "--max-num-batched-tokens", "16384"]) as one:
        words = [
            "--seeds",
            "16",
            "--max-tokens",
            "128",
            "--prompt-words",
            "80",
            "--temperature",
            "0",
            "--nonce",
            "bf16",
        ]
        conditions = ["--conditions", "again,beside", "--widths", "7", "--pack", str(pack)]
        status, found = verify(capsys, "--url", one.url, *words, *conditions)
    assert status == 1
    assert (found["again"]["state"], found["again"]["exact"], found["again"]["bitwise"]) == ("clean", 16, 16)
    assert (found["beside-7"]["state"], found["beside-7"]["established"]) == ("diverged", 16)
    assert found["beside-7"]["largest"] > 1e-3
    assert any(one["parting"] for one in found["beside-7"]["divergences"])  # other tokens, not only other likelihoods
    assert main(["verify-determinism", "check", str(pack)]) == status


def test_the_server_puts_bos_before_a_text_where_its_tokenizer_does_and_before_no_ids():
    with VllmServer() as server, connect("vllm", server.url) as adapter:
        bare, whole = (adapter.tokenize("rain came", add_special=special) for special in (False, True))
        text = adapter.generate(GenerateRequest(prompt="rain came", max_tokens=2))
        ids = adapter.generate(GenerateRequest(prompt_tokens=bare, max_tokens=2))
    assert (text.end.tokens_in, ids.end.tokens_in) == (len(whole), len(bare))
