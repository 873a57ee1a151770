"""The pages of the engines say of each trait what the dialect does: what people read, and what the runtime reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker_adapters import registry
from worker_adapters.engines.triton import LLMAPI, TRTLLM, VLLM

PAGES = Path(__file__).parents[2] / "docs" / "engines"
ENGINES = ("llamacpp", "openai-completions", "sglang", "tgi", "trtllm", "vllm")


def told(page: str) -> dict[str, str]:
    """The table of a page: the value of each trait."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.MULTILINE))


def shown(traits) -> dict[str, str]:
    return {
        "cancel": f"`{traits.cancel}`",
        "backpressure": "yes" if traits.backpressure else "no",
        "ends_with_body": "yes" if traits.ends_with_body else "no",
        "keep_alive": f"{traits.keep_alive:g} s" if traits.keep_alive else "0",
        "probe_interval": f"{traits.probe_interval:g} s",
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_page_says_what_the_traits_are(engine):
    said, traits = told(engine), shown(registry.dialect(engine).traits)
    assert {"cancel", "backpressure", "keep_alive"} <= set(said)
    assert said.items() <= traits.items()


def test_the_page_of_triton_says_it_of_the_three():
    said = told("triton")
    assert said["cancel"] == f"trtllm: `{TRTLLM.traits.cancel}`; vllm, llmapi: `{VLLM.traits.cancel}`"
    assert said["ends_with_body"] == "trtllm: yes; vllm, llmapi: no"
    assert (TRTLLM.traits.ends_with_body, VLLM.traits.ends_with_body, LLMAPI.traits.ends_with_body) == (
        True,
        False,
        False,
    )
    for dialect in (TRTLLM, VLLM, LLMAPI):
        traits = shown(dialect.traits)
        assert (said["backpressure"], said["keep_alive"]) == (traits["backpressure"], traits["keep_alive"])
