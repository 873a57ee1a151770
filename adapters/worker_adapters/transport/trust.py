"""Whom TLS trusts, and as whom it speaks: read from files, and anew once they have changed.

Nothing of it comes from the environment. urllib3's contexts look at SSLKEYLOGFILE, and OpenSSL's way to the system's
certificates at SSL_CERT_FILE and SSL_CERT_DIR: these would let whoever sets a variable read, or answer, what is sent.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import TypeAlias

from ..api import TLS
from ..helpers import HELPERS, NO_DESCRIPTORS
from ..lifetime import Lifetime
from ..waiting import Steps
from .wrong import in_words

__all__ = ["Trust"]

Seen: TypeAlias = tuple[tuple[int, int, int] | None, ...]  # of each file, what changes with it


class Trust:
    """The context of one adapter. Thread-safe: two threads may make one at once, of which either counts."""

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._made: tuple[Seen, ssl.SSLContext] | None = None
        self._system = ssl.get_default_verify_paths() if tls.verify and tls.ca_bundle is None else None
        cafile = tls.ca_bundle if self._system is None else self._system.openssl_cafile
        self._files = [name for name in (cafile, tls.client_cert, tls.client_key) if name is not None]

    def context(self) -> ssl.SSLContext:
        """What goes with the files as they are now. Blocks if they are new. Raises OSError, ssl.SSLError."""
        seen = self._seen()  # before they are read: a change meanwhile is a change
        return self._known(seen) or self._read(seen)

    @property
    def is_in_files(self) -> bool:
        """Whether all of it is: a pipe, for one, may keep who reads it waiting."""
        return all(map(os.path.isfile, self._files))

    def steps(self, lifetime: Lifetime) -> Steps[ssl.SSLContext]:
        """The same for who may not block: reading a bundle takes 10 ms and more, and where a file system hangs a look at it
        takes for ever. Raises Interrupted, and Fault where no thread can be started.
        """
        return (yield from HELPERS.shared(("certificates", self), self.context, lifetime))

    def _known(self, seen: Seen) -> ssl.SSLContext | None:
        made = self._made
        return made[1] if made is not None and made[0] == seen else None

    def _seen(self) -> Seen:
        return tuple(map(_signature, self._files))

    def _read(self, seen: Seen) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False
        context.post_handshake_auth = True
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.ca_bundle is not None:
            with _named(f"the CA bundle {tls.ca_bundle}"):
                context.load_verify_locations(cafile=tls.ca_bundle)
        elif self._system is not None:
            file, folder = self._system.openssl_cafile, self._system.openssl_capath
            context.load_verify_locations(
                cafile=file if os.path.isfile(file) else None,  # noqa: PTH113  -- pathlib is dear to import for one line
                capath=folder,
            )
        if tls.client_cert is not None:
            with _named(f"the client certificate {tls.client_cert}, or its key,"):
                context.load_cert_chain(tls.client_cert, tls.client_key, _no_password)
        self._made = (seen, context)
        return context


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Says which file an error is about: those of Python and OpenSSL don't."""
    try:
        yield
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno in NO_DESCRIPTORS:
            raise
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"{what} can't be used: {in_words(exc)}") from exc


def _no_password() -> str:
    """Where there is none, OpenSSL asks for it at the terminal, and waits."""
    raise ValueError("it has a password, which can't be given")


def _signature(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116  -- as above
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
