"""A simulated Triton, with one model behind the generate extension."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..seam import Wire
from .wire import build

__all__ = ["build", "build_llmapi", "build_vllm"]

build_llmapi: Callable[..., Wire] = partial(build, model_kind="llmapi")
build_vllm: Callable[..., Wire] = partial(build, model_kind="vllm")
