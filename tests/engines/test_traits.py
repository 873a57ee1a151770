"""The pages of the engines say of each trait what the dialect does: what people read, and what the runtime reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker_adapters import GenerateRequest, Pool, Traits, connect, registry
from worker_adapters.engines.triton import LLMAPI, TRTLLM, VLLM
from worker_adapters.simulator import Simulator

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


@pytest.mark.parametrize("engine", [*ENGINES, "mock"])
def test_whoever_schedules_can_read_them(engine):
    with connect(engine, "mock://local" if engine == "mock" else "http://x.test") as adapter:
        assert adapter.traits == registry.dialect(engine).traits
        assert isinstance(adapter.traits, Traits)


def test_those_of_a_pool_are_what_can_be_counted_on():
    with Pool([connect("llamacpp", "http://a.test"), connect("vllm", "http://b.test")], mixed=True) as pool:
        assert pool.traits.cancel == "never_while_queued"
        assert not pool.traits.backpressure
        assert pool.traits.keep_alive == 0.0


QUEUES = ["llamacpp", "vllm"]


@pytest.mark.parametrize("engine", QUEUES)
def test_a_queued_request_that_is_cancelled_leaves_the_queue_as_the_trait_says(engine):
    """As the simulators have it, of the two engines whose queues were watched live."""
    with Simulator(engine, slots=1, rate=20.0, seed=1) as worker, connect(engine, worker.url) as adapter:
        first = adapter.submit(GenerateRequest(prompt="p", max_tokens=2000, ignore_eos=adapter.features.ignore_eos))
        worker.wait_for(active=1)
        second = adapter.submit(GenerateRequest(prompt="p", max_tokens=20))
        worker.wait_for(queued=1)
        second.cancel()
        assert list(second)[-1].finish_reason == "cancelled"
        if adapter.traits.cancel == "at_once":
            worker.wait_for(queued=0, active=1)
        else:
            adapter.health()  # it has had the time
            assert worker.state.queued == 1
            first.cancel()
            worker.wait_for(queued=0, active=0)
