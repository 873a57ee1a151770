"""A simulated Triton, with one model behind the generate extension."""

from __future__ import annotations

from functools import partial

from .wire import build

__all__ = ["build", "build_llmapi", "build_vllm"]

build_llmapi = partial(build, model_kind="llmapi")
build_vllm = partial(build, model_kind="vllm")
