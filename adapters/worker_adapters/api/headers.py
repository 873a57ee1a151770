"""Header fields that go with every request, for gateways and tenants. Their values are secrets, as credentials are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .credentials import FromEnv, FromFile, fingerprint, require_picklable

__all__ = ["Headers", "HeadersError", "HeadersLike"]

HeadersLike: TypeAlias = Mapping[str, str | Callable[[], str]] | Callable[[], Mapping[str, str]]
"""Fields by name, a value of which may be a provider, asked for every request; or a provider of them all."""

# What belongs to one hop (RFC 9110, 7.6.1), and what is this library's to say.
HOP_BY_HOP = "connection expect http2-settings keep-alive te trailer transfer-encoding upgrade"
OURS = "accept accept-encoding content-encoding content-length content-type host user-agent x-request-id"
REFUSED = frozenset(f"{HOP_BY_HOP} {OURS}".split())
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


class HeadersError(ValueError):
    """Fields that can't be sent, or had. Quotes no value."""


class Headers:
    """What was given to `connect()`, as a provider. Raises HeadersError."""

    __slots__ = ("_given", "quick", "rotates")

    def __init__(self, given: HeadersLike) -> None:
        """`rotates`: another call may give others. `quick`: asking needs no thread of its own."""
        if not isinstance(given, Mapping) and not callable(given):
            raise HeadersError("headers must be a mapping of names to values, or a function that returns one")
        self._given = dict(given) if isinstance(given, Mapping) else given
        providers: list[Any] = [given]
        if isinstance(given, Mapping):
            providers = [value for value in given.values() if callable(value)]
            _judge({name: "" if callable(value) else value for name, value in given.items()})
        self.rotates: bool = bool(providers)
        self.quick: bool = all(isinstance(one, FromEnv) for one in providers)

    def __call__(self) -> Mapping[str, str]:
        """The fields now. May block, and raise what a provider of the application's raises."""
        given = self._given
        if callable(given):
            fields = dict(given())
        else:
            fields = {name: _asked(name, value) if callable(value) else value for name, value in given.items()}
        _judge(fields)
        return fields

    def __repr__(self) -> str:
        if callable(self._given):
            return "Headers(from a provider)"
        shown = (f"{name}: {'from a provider' if callable(v) else fingerprint(v)}" for name, v in self._given.items())
        return f"Headers({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._given == other._given

    def __hash__(self) -> int:
        # By names: a provider may have no hash.
        return hash("one for all") if callable(self._given) else hash(frozenset(self._given))

    def __reduce__(self) -> Any:
        if not callable(self._given) and any(isinstance(value, str) for value in self._given.values()):
            raise TypeError(
                "an adapter with literal headers can't be pickled, because the pickle would carry what may be secrets: "
                "give FromEnv(name), FromFile(path) or an importable function for each value, or for all of them"
            )
        for value in [self._given] if callable(self._given) else self._given.values():
            require_picklable(value)
        return type(self), (self._given,)

    def clash(self, names: Mapping[str, str]) -> str | None:
        """One of these names that is given here, too."""
        if callable(self._given):
            return None
        return clashing(self._given, names)


def _asked(name: str, provider: Callable[[], str]) -> str:
    try:
        return provider()
    except (KeyError, OSError) as exc:
        if isinstance(provider, (FromEnv, FromFile)):
            raise HeadersError(f"the value of {name} can't be had: {type(exc).__name__}: {exc}") from None
        raise


def clashing(fields: Mapping[str, Any], names: Mapping[str, Any]) -> str | None:
    """The first of the fields that is among the names, whatever its case."""
    lower = {name.lower() for name in names}
    return next((name for name in fields if name.lower() in lower), None)


def _judge(fields: Mapping[Any, Any]) -> None:
    seen: set[str] = set()
    for name, value in fields.items():
        if not isinstance(name, str) or not _token(name):
            raise HeadersError("the name of a header must be a token of letters, digits and hyphens")
        lower = name.lower()
        if lower in REFUSED or lower.startswith("proxy-"):
            raise HeadersError(f"the header {name} is not the caller's: it frames the message, or is sent already")
        if lower in seen:
            raise HeadersError(f"the header {name} is given twice")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise HeadersError(f"the value of the header {name} must be printable ASCII text without blanks around it")
        seen.add(lower)
