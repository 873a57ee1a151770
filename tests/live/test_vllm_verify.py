"""What verify-determinism finds on a real vLLM: float32 one at a time, and bfloat16 in batches."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_hf
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


@pytest.fixture
def model_with_bos(tmp_path):
    """The tiny model with a tokenizer that is made to put BOS before a text, as Llama's are."""
    model = shutil.copytree(tiny_hf.model(), tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    (bos,) = (one["id"] for one in tokenizer["added_tokens"] if one["content"] == "<s>")
    special, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return model


def test_the_server_puts_bos_before_a_text_where_its_tokenizer_does_and_before_no_ids(model_with_bos):
    with VllmServer(model=model_with_bos) as server, connect("vllm", server.url) as adapter:
        bare, whole = (adapter.tokenize("rain came", add_special=special) for special in (False, True))
        text = adapter.generate(GenerateRequest(prompt="rain came", max_tokens=2))
        ids = adapter.generate(GenerateRequest(prompt_tokens=bare, max_tokens=2))
        assert adapter.features.adds_bos
    assert len(whole) == len(bare) + 1
    assert (text.end.tokens_in, ids.end.tokens_in) == (len(whole), len(bare))
