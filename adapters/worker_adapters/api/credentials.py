"""Credential providers: callables that return the token, asked anew for every request so that a rotated secret is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

__all__ = ["Credentials", "FromEnv", "FromFile", "Literal", "fingerprint", "provider"]

Credentials: TypeAlias = Callable[[], str]


def fingerprint(secret: str) -> str:
    """How a secret may be shown: enough to tell two apart, nothing to use."""
    return "****" + hashlib.sha256(secret.encode()).hexdigest()[:6]


@attrs.frozen
class FromEnv:
    """Reads an environment variable at every request. Raises KeyError with its name if it is not set."""

    name: str

    def __call__(self) -> str:
        """The variable's value now."""
        return os.environ[self.name]


@attrs.frozen
class FromFile:
    """Reads a file at every request and strips white space around it. Blocks on the file system."""

    path: str

    def __call__(self) -> str:
        """The file's content now."""
        with open(self.path, encoding="utf-8") as file:  # noqa: PTH123  -- pathlib is dear to import for one line
            return file.read().strip()


class Literal:
    """A token in memory. Works, but does not pickle: a pickle is no place for a secret."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __call__(self) -> str:
        """The token."""
        return self._secret

    def __repr__(self) -> str:
        return f"Literal({fingerprint(self._secret)})"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an adapter with a literal credential can't be pickled, because the pickle would carry the secret: "
            "pass credentials=FromEnv(name), FromFile(path) or an importable function instead"
        )


def provider(credentials: str | Credentials | None) -> Credentials | None:
    """The provider for what `connect()` was given."""
    return Literal(credentials) if isinstance(credentials, str) else credentials
