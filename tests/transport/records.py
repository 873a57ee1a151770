"""A server's side of TLS whose records are the test's: made one by one, and sent in whatever pieces, order and number."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .servers import Client

__all__ = ["Records", "only_cpython", "openssl"]

only_cpython = pytest.mark.skipif(
    not hasattr(_ssl, "__file__") or sys.implementation.name != "cpython",
    reason="asks for OpenSSL's own functions through the ssl module's library, which is built in here",
)


def openssl(wrapped: Any, name: str, *args: int) -> int:
    """Call a function of OpenSSL that the ssl module has no name for, on the SSL* of an SSLSocket or SSLObject."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_version.argtypes = [ctypes.c_void_p]
    function = getattr(library, name)
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * len(args)]
    # Behind the head of its object and the reference to the socket (CPython: PySSLSocket).
    place = id(wrapped._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    pointer = ctypes.c_void_p.from_address(place).value
    assert library.SSL_version(pointer) in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    return int(function(pointer, *args))


class Records:
    """Of one connection, as its server makes them. After the handshake."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self.client = client
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._in, self._out, server_side=True)
        self._pump(self.object.do_handshake)

    def _pump(self, step: Any, *args: Any) -> Any:
        while True:
            try:
                done = step(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.client.sock.recv(65536)
                if not data:
                    raise ConnectionError("the client has left") from None
                self._in.write(data)
            except ssl.SSLError:
                self.flush()  # the alert
                raise
            else:
                self.flush()
                return done

    def flush(self) -> None:
        """Send what OpenSSL wants to say."""
        if self._out.pending:
            self.client.sock.sendall(self._out.read())

    def request(self) -> bytes:
        """The next request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.read()
        top, _, body = data.partition(b"\r\n\r\n")
        length = next((int(one.split(b":")[1]) for one in top.lower().split(b"\r\n") if b"content-length:" in one), 0)
        while len(body) < length:
            body += self.read()
        return data

    def read(self) -> bytes:
        """What comes next."""
        data: bytes = self._pump(self.object.read, 65536)
        return data

    def sealed(self, *data: bytes) -> bytes:
        """A record for each, and before them what OpenSSL has been made to say."""
        for one in data:
            self.object.write(one)
        return self._out.read()

    def key_update(self) -> bytes:
        """One that asks for one in return (RFC 8446, 4.6.3)."""
        assert openssl(self.object, "SSL_key_update", 1) == 1
        assert openssl(self.object, "SSL_do_handshake") == 1
        return self._out.read()

    def ticket(self) -> bytes:
        """One more (RFC 8446, 4.6.1)."""
        assert openssl(self.object, "SSL_new_session_ticket") == 1
        openssl(self.object, "SSL_do_handshake")
        return self._out.read()

    def hello_request(self) -> bytes:
        """To begin TLS 1.2's renegotiation (RFC 5246, 7.4.1.1)."""
        assert openssl(self.object, "SSL_renegotiate") == 1
        openssl(self.object, "SSL_do_handshake")
        return self._out.read()

    def ask_for_a_certificate(self) -> None:
        """Late (RFC 8446, 4.6.2), and wait for the answer. Raises ssl.SSLError, after the alert has gone out."""
        self.object.verify_client_post_handshake()
        self._pump(self.object.do_handshake)
        try:
            while not self.object.getpeercert():
                self._in.write(self.client.sock.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.object.read(1)
        finally:
            self.flush()

    def renegotiate(self) -> None:
        """TLS 1.2: have other keys, and wait for them. What comes meanwhile is the client's data, and is lost."""
        self.client.send(self.hello_request())
        self._pump(self.object.do_handshake)
