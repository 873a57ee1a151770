"""The face of control calls: requests, so that what patches or mocks it sees them. What is beneath it is the streams' own.

requests prepares and judges, an adapter of ours carries: it hands the prepared call to the transport and makes
requests' response of the reply.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ..api import Reason
from ..dialect import Fault, Reply, WireRequest

__all__ = ["Control"]

Carry = Callable[[Mapping[str, str]], Reply]


class _Carrier:
    """What requests takes for a pool of urllib3's: `urlopen` is all that it calls."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry

    def urlopen(self, *, headers: Mapping[str, str], **_rest: Any) -> urllib3.HTTPResponse:
        """Carry the call that requests has prepared."""
        # Framing and the origin are the transport's.
        fields = {name: value for name, value in headers.items() if name.lower() not in ("content-length", "host")}
        reply = self._carry(fields)
        return urllib3.HTTPResponse(
            body=io.BytesIO(reply.body),
            headers=dict(reply.headers),
            status=reply.status,
            preload_content=False,
            decode_content=False,
            enforce_content_length=False,
        )


class _Adapter(HTTPAdapter):
    """Sends through the transport instead of a pool of its own."""

    def __init__(self, carry: Carry) -> None:
        super().__init__()
        self._carrier = _Carrier(carry)

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> Any:
        """The transport, whatever the URL: there is one origin."""
        return self._carrier

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:
        """The transport's business."""


class Control:
    """Thread-safe: a session is made per call."""

    def __init__(self, origin: str, where: str, user_agent: str) -> None:
        self._origin = origin
        self._where = where
        self._user_agent = user_agent

    def call(self, wire: WireRequest, headers: Mapping[str, str], carry: Carry) -> Reply:
        """Blocks until the reply is whole, or what `carry` raises. Raises Fault."""
        session = requests.Session()
        session.trust_env = False  # no proxy, no .netrc, no CA bundle from the environment
        session.headers.clear()
        for scheme in ("http://", "https://"):  # whatever requests makes of the URL, nothing else of its carries it
            session.mount(scheme, _Adapter(carry))
        try:
            response = session.request(
                wire.method,
                self._origin + wire.target,
                data=wire.body or None,
                headers={
                    "User-Agent": self._user_agent,
                    "Accept-Encoding": "identity",
                    **wire.headers,
                    **headers,
                },
                allow_redirects=False,
                stream=True,
            )
            body = response.raw.read(decode_content=False) if response.raw is not None else response.content
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Reply(status=response.status_code, headers=lower, body=body)
        except requests.RequestException as exc:
            raise Fault(Reason.CONNECT, f"no answer from {self._where}: {_innermost(exc)}") from exc


def _innermost(exc: BaseException) -> str:
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    return str(exc) or type(exc).__name__
