"""Credential providers: callables that return the token, asked anew for every request so that a rotated secret is used."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

__all__ = ["Credentials", "FromEnv", "FromFile", "Literal", "fingerprint", "provider", "require_picklable"]

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


def _no_pickle(what: str) -> str:
    return (
        f"an adapter with {what} can't be pickled, because the pickle would carry the secret: "
        "pass credentials=FromEnv(name), FromFile(path) or an importable function instead"
    )


def require_picklable(provider: object) -> None:
    """Raise TypeError unless what is pickled is where the secret is found, and nothing that may be it.

    A partial carries its arguments, a bound method its object; an object of an application's own has to say itself how
    it is pickled.
    """
    if provider is None or isinstance(provider, (FromEnv, FromFile, Literal)) or _importable(provider):
        return
    kind = type(provider)
    if "__self__" in dir(provider) or kind.__module__ == "functools" or not _says_how(kind):
        raise TypeError(_no_pickle(f"a {kind.__name__} as its provider"))


def _importable(provider: object) -> bool:
    """Whether it is found again under its name: a function, or a method of a class."""
    found: object = sys.modules.get(str(getattr(provider, "__module__", None)))
    for part in str(getattr(provider, "__qualname__", "<none>")).split("."):
        found = getattr(found, part, None)
    return found is not None and found == provider


def _says_how(kind: type) -> bool:
    return any(
        name in vars(base)
        for base in kind.__mro__[:-1]
        for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    )


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
        raise TypeError(_no_pickle("a literal credential"))


def provider(credentials: str | Credentials | None) -> Credentials | None:
    """The provider for what `connect()` was given."""
    return Literal(credentials) if isinstance(credentials, str) else credentials
