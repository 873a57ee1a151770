"""What verify-determinism finds on a real llama-server, and that our prompts are its own."""

from __future__ import annotations

import json

import pytest
import tiny_gguf
from llama_server import LlamaServer

from worker_adapters import ChatTemplate, GenerateRequest, connect
from worker_adapters.cli import main

pytestmark = [
    pytest.mark.live,
    pytest.mark.req("ADAPT-3700"),
    pytest.mark.req("OC-ADAPT-5010"),
    pytest.mark.timeout(600),
]


def verify(capsys, *words):
    """The exit status and the report, condition by condition."""
    status = main(["verify-determinism", "--engine", "llamacpp", "--json", *words])
    report = json.loads(capsys.readouterr().out)
    return status, {one["condition"]: one for one in report["conditions"]}


def test_64_seeds_are_exact_on_one_worker_and_across_two_in_strict_mode(capsys):
    with LlamaServer(slots=1, ctx=4096) as one, LlamaServer(slots=1, ctx=4096) as two:
        words = ["--url", one.url, "--url", two.url, "--max-tokens", "48", "--conditions", "again,order,workers"]
        status, found = verify(capsys, *words)
    assert status == 0
    for condition in found.values():
        assert (condition["exact"], condition["bitwise"], condition["established"]) == (64, 64, 64)
        assert condition["bound"] < 0.046


def test_one_slot_is_never_beside_others(capsys):
    """Strict switches the cache off as well: neither is clean, however equal the answers are."""
    with LlamaServer(slots=1, ctx=4096) as one:
        words = ["--seeds", "3", "--max-tokens", "32", "--widths", "2", "--conditions", "beside,prefix"]
        status, found = verify(capsys, "--url", one.url, *words)
    assert status == 2
    assert [(one["state"], one["established"], one["exact"]) for one in found.values()] == [
        ("not established", 0, 3)
    ] * 2


def test_what_four_slots_do_is_seen_and_follows_from_the_pack(capsys, tmp_path):
    """Which seeds diverge is the engine's; that the condition took place, and what is said of it, is the tool's."""
    pack = tmp_path / "pack.json"
    with LlamaServer(slots=4, ctx=16384) as one:
        words = ["--seeds", "8", "--max-tokens", "64", "--widths", "3", "--conditions", "again,beside,cancelled,prefix"]
        warm = ["--determinism", "best_effort", "--engine-option", "cache_prompt=true"]
        status, found = verify(capsys, "--url", one.url, *words, *warm, "--pack", str(pack))
    assert status in {0, 1}
    assert [one["established"] for one in found.values()] == [8, 8, 8, 8]
    # On a loaded machine the answers may be over before the server is asked: then that is said, and no number made up.
    assert found["beside-3"]["told"].get("busy") in {4, "not seen"}
    assert main(["verify-determinism", "check", str(pack)]) == status


def test_what_speculative_decoding_does_is_seen_and_never_called_strict(capsys):
    """The model is its own draft. What it finds is the engine's (docs/engines/llamacpp.md)."""
    draft = ["--spec-type", "draft-simple", "-md", str(tiny_gguf.model()), "--spec-draft-n-max", "8"]
    with LlamaServer(slots=1, ctx=4096) as plain, LlamaServer(slots=1, ctx=4096, extra=draft) as drafting:
        words = ["--url", plain.url, "--url", drafting.url, "--seeds", "4", "--max-tokens", "24", "--json"]
        status = main(["verify-determinism", "--engine", "llamacpp", *words, "--conditions", "again,workers"])
        assert "draft acceptance" in drafting.log_text()
    report = json.loads(capsys.readouterr().out)
    assert status in {0, 1}
    assert [one["established"] for one in report["conditions"]] == [4, 4]
    assert report["environment"]["determinism"] == "best_effort"
    assert any("speculative" in reason for reason in report["environment"]["reasons"])


TEMPLATES = (  # each shows the system message: where one does not, the server leaves that message out by itself
    (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] | upper }}] {{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
    "{% for m in messages %}{{ m.role }}={{ m.content }}{{ ', ' if not loop.last }}{% endfor %} {{ messages | length }}",
    (
        "{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}"
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}"
    ),
    "{%- for m in messages %}\n  {{- loop.index0 ~ ':' + m.content.split(' ')[0] }}\n{%- endfor %}",
    (
        "{% macro turn(m) %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}"
    ),
)
MESSAGES = (
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": " Hello, wörld 🙂"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "More\nlines"},
)


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_renders_as_the_server_s_own_renderer_does(text, tmp_path):
    (tmp_path / "chat_template.jinja").write_text(text, encoding="utf-8")
    flags = ["--jinja", "--chat-template-file", str(tmp_path / "chat_template.jinja")]
    with LlamaServer(slots=1, extra=flags) as server, connect("llamacpp", server.url) as adapter:
        props = server.props()
        special = {name: str(props[name]) for name in ("bos_token", "eos_token")}
        template = ChatTemplate.from_file(tmp_path, special_tokens=special)
        assert template.render(MESSAGES, features=adapter.features) == adapter.apply_template(MESSAGES)


def test_the_server_puts_bos_before_a_text_and_before_no_ids():
    with LlamaServer(slots=1) as server, connect("llamacpp", server.url) as adapter:
        bare, whole = (adapter.tokenize("rain came", add_special=special) for special in (False, True))
        text = adapter.generate(GenerateRequest(prompt="rain came", max_tokens=2))
        ids = adapter.generate(GenerateRequest(prompt_tokens=bare, max_tokens=2))
    assert adapter.features.adds_bos
    assert len(whole) == len(bare) + 1
    assert (text.end.tokens_in, ids.end.tokens_in) == (len(whole), len(bare))
