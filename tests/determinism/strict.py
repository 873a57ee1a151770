"""Writes two tables into docs/determinism.md, from dialects and simulated workers: `python -m tests.determinism.strict`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker_adapters import DeterminismLevel, GenerateRequest, Started, connect, registry
from worker_adapters.dialect import Dialect
from worker_adapters.simulator import ENGINES, Simulator

PATH = Path(__file__).parents[2] / "docs" / "determinism.md"
VOUCHED = "batch_invariant"
MANY = 4  # slots
ASSUMED = "assumed, as most servers do: neither run nor read"
_VLLM = "a run of the real server: `tests/live/test_vllm_verify.py`"
_LLM = "source: `tensorrt_llm/inputs/registry.py` encodes with the parameters' `add_special_tokens`, true if not given"
BOS_SHOWN: Mapping[str, str] = {
    "llamacpp": "a run of the real server: `tests/live/test_llamacpp_verify.py`",
    "mock": "its own code: it counts words",
    "openai-completions": "the standard does not say; " + ASSUMED,
    "openai-completions-dynamo": "a run of the real frontend: `tests/live/test_dynamo_suite.py`; "
    "source: `lib/llm/src/tokenizers/hf.rs` encodes without special tokens",
    "openai-completions-mlx": "source: `mlx_lm/server.py` encodes the prompt as its tokenizer does by itself",
    "openai-completions-transformers": "source: `transformers/cli/serving/completion.py` calls the tokenizer as it is",
    "openai-completions-vllm": _VLLM,
    "sglang": "source: `python/sglang/srt/managers/tokenizer_manager.py` calls the tokenizer as it is",
    "tgi": "source: `router/src/lib.rs` has `add_special_tokens` true, `router/src/validation.rs` encodes with it",
    "triton-llmapi": _LLM,
    "triton-trtllm": "source: `preprocessing/1/model.py` of the backend: parameter `add_special_tokens`, true if not given",
    "triton-vllm": "source: `src/model.py` of the backend gives vLLM the text, which encodes it as its server does",
    "trtllm": _LLM,
    "vllm": _VLLM,
}


def page() -> str:
    """The page with its tables as they should be."""
    text = PATH.read_text(encoding="utf-8")
    for name, lines in (("strict", strict()), ("bos", bos())):
        text = re.sub(
            f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)",
            lambda found, lines=lines: found[1] + "".join(f"{line}\n" for line in lines) + found[2],
            text,
            flags=re.DOTALL,
        )
    return text


def strict() -> Iterator[str]:
    """What strict sends, what it finds on a worker, and what it can't find out."""
    yield "| engine | strict alone sends | told by the worker, and refused | can't be checked | vouched for by |"
    yield "|---|---|---|---|---|"
    for name, dialect in _dialects():
        sent = ", ".join(f"`{field}`: {value}" for field, value in _sent(dialect).items())
        unknown = _against(dialect)
        known = _of_workers(name, unknown) if name in ENGINES else ["(no simulated worker to ask)"]
        vouched = f"`{VOUCHED}`" if VOUCHED in dialect.features.engine_options else ""
        yield f"| {name} | {sent} | {'; '.join(known)} | {'; '.join(unknown)} | {vouched} |"


def bos() -> Iterator[str]:
    """Whose server puts BOS before a text, and how that is known."""
    yield "| engine | the server puts BOS before a prompt in text, if its tokenizer is made to | known from |"
    yield "|---|---|---|"
    for name, dialect in _dialects():
        yield f"| {name} | {'yes' if dialect.features.adds_bos else 'no'} | {BOS_SHOWN.get(name, ASSUMED)} |"


def _dialects() -> Iterator[tuple[str, Dialect]]:
    for name in registry.engine_names():
        dialect = registry.dialect(name)
        if dialect.resolve is None or name != dialect.name:  # else it is one of the others
            yield name, dialect


def _sent(dialect: Dialect) -> Mapping[str, str]:
    """Fields that strict changes, and what they are then."""
    one, other = _body(dialect, DeterminismLevel.STRICT), _body(dialect, DeterminismLevel.STRICT)
    usual = _body(dialect, DeterminismLevel.BEST_EFFORT)
    return {
        field: f"`{json.dumps(value)}`" if other[field] == value else "new for each request"
        for field, value in one.items()
        if field not in usual or usual[field] != value
    }


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt="p", task_id="t", seed=1, max_tokens=2, **fields)


def _body(dialect: Dialect, level: DeterminismLevel) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(dialect.encode(_request(determinism=level), attempt=1).body)
    return found


def _against(dialect: Dialect) -> list[str]:
    """Whatever the request says: nobody tells."""
    return list(dialect.against_strict(_request(determinism="strict")))


def _of_workers(name: str, unknown: list[str]) -> list[str]:
    """What simulated workers tell, with one slot and with several."""
    reasons: dict[str, None] = {}
    for slots in (1, MANY):
        with Simulator(name, slots=slots) as worker, connect(name, worker.url) as adapter:
            started = next(adapter.stream(_request(determinism="strict")))
        assert isinstance(started, Started)
        found = [reason for reason in started.determinism_reasons if reason not in unknown]
        reasons |= dict.fromkeys(f"{reason}{'' if slots == 1 else f' [{MANY} slots]'}" for reason in found)
    doubled = {f"{reason} [{MANY} slots]" for reason in reasons}
    return [reason for reason in reasons if reason not in doubled]


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
