"""Control calls: small requests, answered whole, over requests on the transport's own pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..api import Reason
from ..dialect import Fault, Reply, WireRequest

__all__ = ["Control"]


class _SamePool(HTTPAdapter):
    """Sends through the pool of the streams, whose TLS settings stand already."""

    def __init__(self, pool: Any) -> None:
        self._shared = pool
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> Any:
        """The streams' pool, whatever the URL: there is one origin."""
        return self._shared

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:
        """Leave the pool's certificates as they are; requests would put certifi's in their place."""


class Control:
    """Thread-safe: a session is made per call, and all share the pool."""

    def __init__(self, pool: Any, origin: str, where: str) -> None:
        self._adapter = _SamePool(pool)
        self._origin = origin
        self._where = where

    def call(self, wire: WireRequest, headers: Mapping[str, str], limit: int) -> Reply:
        """Blocks until the reply is whole, or the connection is shut down by whoever keeps the time. Raises Fault."""
        session = requests.Session()
        session.trust_env = False  # no proxy, no .netrc, no CA bundle from the environment
        session.headers.clear()
        session.mount(self._origin, self._adapter)
        try:
            response = session.request(
                wire.method,
                self._origin + wire.target,
                data=wire.body or None,
                headers={"Accept-Encoding": "identity", **headers},
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = self._read(response, limit)
                lower = {name.lower(): value for name, value in response.headers.items()}
                return Reply(status=response.status_code, headers=lower, body=body)
        except requests.RequestException as exc:
            raise Fault(Reason.CONNECT, f"no answer from {self._where}: {_innermost(exc)}") from exc

    def _read(self, response: requests.Response, limit: int) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(65536):
            body += chunk
            if len(body) > limit:
                raise Fault(Reason.PROTOCOL, f"the reply of {self._where} is longer than {limit} bytes")
        return bytes(body)


def _innermost(exc: BaseException) -> str:
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    return str(exc) or type(exc).__name__
