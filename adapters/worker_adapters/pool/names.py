"""Workers from a name: the addresses of a headless service, looked up again and again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import ref

import attrs

from ..api import TLS, Adapter
from ..api.errors import invalid
from ..dialect import Dialect
from ..helpers import HELPERS
from ..registry import connect

if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["Follower", "Named"]

FIRST_AGAIN = 1.0  # seconds after a look-up that failed; twice as long each time


def _addresses(host: str, port: int) -> list[str]:
    """The system's resolver. Blocks, for as long as that likes; raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Named:
    """The workers of a name, for `Pool(Named("vllm", "http://vllm-headless:8000"))`.

    `url`: its host is looked up again every so many seconds; each address is a worker, with that as its `replica_id`.
    `options`: of `connect()`, for each of them. `look_up`: another resolver, from host and port to addresses; it may block.
    """

    def __init__(
        self,
        engine: str | Dialect,
        url: str,
        *,
        every: float = 10.0,
        look_up: Callable[[str, int], list[str]] = _addresses,
        **options: Any,
    ) -> None:
        self.engine = engine
        self.url = url
        self.every = every
        self.look_up = look_up
        self.options: Mapping[str, Any] = options
        parts = urlsplit(str(url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise invalid("workers come from a name by a URL such as http://service:8000")
        if not every > 0:
            raise invalid(f"every must be a number of seconds greater than 0, got {every!r:.40}")
        if "replica_id" in options:
            raise invalid("workers from a name have their addresses as replica_id")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    def __repr__(self) -> str:
        return f"Named({self._host}:{self._port})"

    def found(self) -> dict[str, None]:
        """The workers there are now, as address and port. Blocks; raises what the resolver does."""
        hosts = self.look_up(self._host, self._port)
        return dict.fromkeys(f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" for host in hosts)

    def adapter_for(self, address: str) -> Adapter:
        """An adapter for one of them; where TLS is spoken, its certificate is for the name."""
        parts = urlsplit(self.url)
        options = dict(self.options)
        if parts.scheme == "https":
            tls = options.get("tls") or TLS()
            options["tls"] = attrs.evolve(tls, server_hostname=tls.server_hostname or self._host)
        return connect(self.engine, parts._replace(netloc=address).geturl(), replica_id=address, **options)


class Follower:
    """Keeps a pool's workers what the name says. `due` is the loop's, the rest is done by a helper, one at a time."""

    def __init__(self, named: Named, pool: Pool) -> None:
        self._named = named
        self._pool = ref(pool)
        self.reset()

    def reset(self) -> None:
        """As before its first look-up; in a forked child whoever was looking is the parent's."""
        self._at = 0.0
        self._failed = 0
        self._looking = False

    def due(self, now: float) -> float:
        """Look the name up if it is time; when it is next."""
        if now >= self._at and not self._looking:
            self._looking = True
            self._at = now + self._named.every
            try:
                HELPERS.start(("name", self._named.url), partial(self._look, now))
            except RuntimeError:  # out of threads
                self._looking = False
        return self._at

    def _look(self, now: float) -> None:
        try:
            found = self._named.found()
        except Exception:  # noqa: BLE001  -- the resolver's, or an application's: the workers stay what they are
            self._failed += 1
            self._at = min(self._at, now + FIRST_AGAIN * 2.0 ** min(self._failed - 1, 30))
        else:
            self._failed = 0
            pool = self._pool()
            if pool is not None:
                pool.follow(found, self._named.adapter_for)
        finally:
            self._looking = False
