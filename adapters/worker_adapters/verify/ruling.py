"""Prompts of so many tokens, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..api import Adapter, WorkerError
from .planning import WORDS

__all__ = ["prompt_of"]

LOOKS = 16  # requests until a length is hit, or given up
FEW = 8  # tokens that are made of marks
MARKS = ".,;:!?"  # a token each, for most tokenizers


def prompt_of(length: int, tag: str, adapter: Adapter, measure: Callable[[str], int | None]) -> dict[str, Any] | None:
    """Fields of a request whose prompt has that many tokens; None where that can't be had.

    By the engine's own tokenizer where it takes ids; else by trying: `measure` tells how many tokens a text has. Blocks.
    """
    if adapter.features.prompt_tokens and adapter.features.tokenize:
        with suppress(WorkerError):  # its server may have no such route
            ids = adapter.tokenize(_text(tag, length + 1))
            if len(ids) >= length:
                return {"prompt_tokens": ids[:length]}
    words, marks = max(0, length // 4), 0
    tried: set[tuple[int, int]] = set()
    for _ in range(LOOKS):
        if (words, marks) in tried:  # the first mark may be two tokens: come from further below
            words, marks = max(0, words - 1), 0
        tried.add((words, marks))
        text = f"{_text(tag, words)} {(MARKS * (1 + marks // len(MARKS)))[:marks]}".rstrip()
        told = measure(text)
        if told is None:
            return None
        if told == length:
            return {"prompt": text}
        if 0 < length - told <= FEW:  # as few as can be filled up
            marks += length - told
        elif marks and told > length:
            marks = max(0, marks - (told - length))
        else:
            words = max(0, words + (length - told) // 3 - (told > length))
    return None


def _text(tag: str, words: int) -> str:
    return " ".join([tag, *(WORDS[n % len(WORDS)] for n in range(words))])
