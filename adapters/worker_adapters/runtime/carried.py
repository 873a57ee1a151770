"""What every request carries: the caller's headers, and the credential. Asked for anew each time, since both may rotate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ..api import Reason
from ..api.credentials import Credentials, FromEnv, FromFile, Literal
from ..api.headers import Headers, HeadersError
from ..dialect import Fault
from ..helpers import HELPERS
from ..lifetime import Lifetime
from ..waiting import Steps

__all__ = ["UNAUTHORIZED", "Carried"]

T = TypeVar("T")

UNAUTHORIZED = 401
SHORT = 3  # characters of a header's value that stand in any text, and are no secret


class Carried:
    """Thread-safe. Raises Fault (UPSTREAM_AUTH) where a provider fails."""

    def __init__(
        self,
        credentials: Credentials | None,
        headers: Headers | None,
        *,
        url: str,
        learn: Callable[[str], None],
        bearing: Callable[[str], Mapping[str, str]],
    ) -> None:
        """`learn` is told each secret, `bearing` puts the credential into headers."""
        self._credentials = credentials
        self._headers = headers
        self._url = url
        self._learn = learn
        self._bearing = bearing

    def now(self) -> Mapping[str, str]:
        """Calls providers, which may block."""
        headers = {} if self._headers is None else _provided(self._headers, "headers")
        for value in headers.values():
            if len(value) > SHORT:
                self._learn(value)
        if self._credentials is None:
            return headers
        token: object = _provided(self._credentials, "credentials")
        # Judged here: a transport would quote in its own exception what it can't put into a header.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token.strip():
            raise Fault(Reason.UPSTREAM_AUTH, "the credentials provider must return printable ASCII text, not empty")
        self._learn(token)
        return {**headers, **self._bearing(token)}

    def steps(self, lifetime: Lifetime) -> Steps[Mapping[str, str]]:
        """The same for a stream, which waits for an application's provider no longer than it lives.

        Each request has a call of its own, two of an origin's at a time. The time to connect counts from when that begins:
        not while others' calls are waited for.
        """
        quick = self._credentials is None or isinstance(self._credentials, (Literal, FromEnv))
        if quick and (self._headers is None or self._headers.quick):
            return self.now()

        def ask() -> Mapping[str, str]:
            try:
                return self.now()
            except Fault:
                raise
            except BaseException as exc:  # noqa: BLE001  -- one that ends processes would end nothing but the helper
                raise _failed("credentials", exc, quoted=False) from None

        return (yield from HELPERS.call(("credentials", self._url), ask, lifetime, begins=Lifetime.hurry))

    @property
    def may_differ(self) -> bool:
        """Whether another request may carry something else."""
        rotates = self._credentials is not None and not isinstance(self._credentials, Literal)
        return rotates or (self._headers is not None and self._headers.rotates)


def _provided(provider: Callable[[], T], what: str) -> T:
    try:
        return provider()
    except HeadersError as exc:
        raise _failed(what, exc, quoted=True) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001  -- a provider has no say in when this process ends
        raise _failed(what, exc, quoted=isinstance(provider, (FromEnv, FromFile))) from None


def _failed(what: str, exc: BaseException, *, quoted: bool) -> Fault:
    """What an application's own provider says may hold the secret: only of ours is known what it says."""
    said = f": {exc}" if quoted and isinstance(exc, (KeyError, OSError, HeadersError)) else ""
    return Fault(Reason.UPSTREAM_AUTH, f"the {what} provider failed: {type(exc).__name__}{said}")
