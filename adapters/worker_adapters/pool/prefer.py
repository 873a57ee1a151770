"""Which worker a request would best go to: the one that has seen how its prompt begins."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import TypeAlias

from ..api import GenerateRequest

__all__ = ["BOUND", "Prefer", "key_of", "prefix", "weight"]

Prefer: TypeAlias = Callable[[GenerateRequest], str | bytes | None]

BOUND = 1.25  # times the mean: what affinity may heap on one worker (Mirrokni, Thorup, Zadimoghaddam: bounded loads)
LEADING_TEXT, LEADING_IDS = (
    1024,
    256,
)  # characters, ids: a system prompt, and more than a block of any engine's prefix cache


def prefix(request: GenerateRequest) -> bytes:
    """The leading block of the prompt."""
    if request.prompt_tokens is not None:
        return b"".join(i.to_bytes(4, "little") for i in request.prompt_tokens[:LEADING_IDS])
    return (request.prompt or "")[:LEADING_TEXT].encode("utf-8", "replace")


def key_of(prefer: Prefer, request: GenerateRequest) -> bytes | None:
    """What is hashed; None where the request has no preference. Raises what an application's function does."""
    key = prefer(request)
    return key.encode("utf-8", "replace") if isinstance(key, str) else key


def weight(key: bytes, worker: str) -> bytes:
    """Rendezvous hashing: the workers of a key in an order of its own, in which one that comes or goes moves no other."""
    return blake2b(key, key=blake2b(worker.encode(), digest_size=32).digest(), digest_size=8).digest()
