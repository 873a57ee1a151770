"""From an engine's name to what makes its wire. The only module here that knows all engines, by their names only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TypeAlias, cast

from .seam import Wire

__all__ = ["ENGINES", "ENTRY_POINTS", "Build", "build_of", "engine_names", "model_of"]

ENTRY_POINTS = "worker_adapters.simulators"

Build: TypeAlias = Callable[..., Wire]
"""`build(setup, **options)`; see `seam`. Options it does not know raise TypeError."""

_BUILT_IN: Mapping[str, str] = {
    "llamacpp": ".llamacpp",
    "openai-completions": ".openai_completions",
    "sglang": ".sglang",
    "tgi": ".tgi",
    "triton-llmapi": ".triton:build_llmapi",
    "triton-trtllm": ".triton",
    "triton-vllm": ".triton:build_vllm",
    "trtllm": ".trtllm",
    "vllm": ".vllm",
}

ENGINES = tuple(_BUILT_IN)
"""Our own."""

# One wire in the manner of many servers, by the names that `connect` has for them.
_ROWED = "openai-completions"
_ROWS = (
    *("dynamo", "litellm", "llama-cpp-python", "llamafile", "lmdeploy", "max"),
    *("mistralrs", "mlx", "tabbyapi", "transformers", "vllm"),
)

# Where the model is part of the path, its name is the one that the engine's own examples give it, and that a client which
# names none asks for.
_MODELS: Mapping[str, str] = {
    "triton-llmapi": "tensorrt_llm",
    "triton-trtllm": "ensemble",
    "triton-vllm": "vllm_model",
}


def model_of(engine: str | Build) -> str:
    """What a simulated engine calls its model when it is told no name."""
    return _MODELS.get(engine, "sim-model") if isinstance(engine, str) else "sim-model"


def engine_names() -> tuple[str, ...]:
    """The names a Simulator takes: our own engines, rows of a table, what other distributions register. Reads metadata."""
    from importlib.metadata import entry_points  # noqa: PLC0415  -- dear to import, and few have engines of their own

    others = {point.name for point in entry_points(group=ENTRY_POINTS)}
    ours = (*ENGINES, *(f"{_ROWED}-{row}" for row in _ROWS))
    return (*ours, *sorted(others.difference(ours)))


def build_of(engine: str) -> Build:
    """What makes the wire of that engine. Raises ValueError with the names there are."""
    if engine in _BUILT_IN:
        module, _, attribute = _BUILT_IN[engine].partition(":")
        found = getattr(import_module(module, __package__), attribute or "build")
    elif (row := engine.removeprefix(f"{_ROWED}-")) in _ROWS and row != engine:
        found = partial(build_of(_ROWED), row=row)
    else:
        from importlib.metadata import entry_points  # noqa: PLC0415  -- as above

        found = next((point.load() for point in entry_points(group=ENTRY_POINTS, name=engine)), None)
    if found is None:
        known = ", ".join(engine_names())
        raise ValueError(
            f"there is no engine {engine!r}; there are {known}; a build function can be passed in place of a name"
        )
    return cast(Build, found)
