"""Prompts of so many tokens, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..api import Adapter, WorkerError
from .planning import WORDS

__all__ = ["prompt_of"]

LOOKS = 8  # requests until a length is hit, or given up


def prompt_of(length: int, tag: str, adapter: Adapter, measure: Callable[[str], int | None]) -> dict[str, Any] | None:
    """Fields of a request whose prompt has that many tokens; None where that can't be had.

    By the engine's own tokenizer where it takes ids; else by trying: `measure` tells how many tokens a text has. Blocks.
    """
    if adapter.features.prompt_tokens and adapter.features.tokenize:
        try:
            ids = adapter.tokenize(_text(tag, length + 1))
        except WorkerError:
            return None
        return {"prompt_tokens": ids[:length]} if len(ids) >= length else None
    count = max(1, length // 2)
    for _ in range(LOOKS):
        text = _text(tag, count)
        told = measure(text)
        if told is None:
            return None
        if told == length:
            return {"prompt": text}
        count = max(1, count + (length - told if abs(length - told) < 8 else (length - told) // 2))
    return None


def _text(tag: str, words: int) -> str:
    return " ".join([tag, *(WORDS[n % len(WORDS)] for n in range(words))])
