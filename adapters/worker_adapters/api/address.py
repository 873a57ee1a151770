"""Where a worker is: its URL, read and checked once, so that streams and probes ask for one and the same thing. No I/O.

RFC 3986 (URLs, dot segments, percent-encoding), RFC 6874 (zone ids), IDNA 2008 with the mapping of UTS 46 (idna).
"""

from __future__ import annotations

import base64
import os
import re
from typing import Any, Self
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

import attrs

__all__ = ["Origin", "Proxy", "as_host", "percent_encoded"]

SUN_PATH = 107  # bytes that the path of a Unix socket may have on Linux
HIGHEST_PORT = 65535
_control = re.compile(r"[\x00-\x1f\x7f]").search
_surrogate = re.compile("[\ud800-\udfff]").search
_not_in_a_target = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
_host_and_port = re.compile(r"(?:\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,9}))?").fullmatch
_name = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?").fullmatch


def percent_encoded(text: str) -> str:
    """A path, perhaps with a query, as it goes over the wire. What is encoded already stays so."""
    return _not_in_a_target.sub(lambda found: quote(found[0], safe="", errors="replace"), text)


@attrs.frozen(kw_only=True)
class Origin:
    """A base URL. `host` is ASCII, without brackets and with a zone id; `socket` is a Unix socket's path, and then there is
    no network. `prefix`: the path, percent-encoded, without a slash at its end.
    """

    secure: bool
    host: str
    port: int
    prefix: str = ""
    socket: str | None = None

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises ValueError, which says what is wrong without quoting the URL."""
        _refuse_unprintable(url)
        if url[:5].lower() == "unix:":
            return cls._of_socket(url)
        base, port = _split(url)
        host = base.hostname or ""
        if not host or port == 0:
            raise ValueError("it names no host")
        if base.scheme not in ("http", "https"):
            raise ValueError("it must begin with http://, https:// or unix:///")
        if base.username is not None or base.password is not None:
            raise ValueError("it holds a user or password: pass credentials= instead")
        if base.query or base.fragment:
            raise ValueError("it has a query or a fragment: pass the base URL")
        secure = base.scheme == "https"
        return cls(
            secure=secure,
            host=as_host(host),
            port=port or (443 if secure else 80),
            prefix=_prefix(base.path),
        )

    @classmethod
    def _of_socket(cls, url: str) -> Self:
        path, colon, prefix = url[7:].partition(":")
        path = os.fsdecode(unquote_to_bytes(path))  # a file's name is bytes, of whatever kind
        if url[5:8] != "///" or path == "/":
            raise ValueError("a Unix socket is written unix:///run/engine.sock, or unix:///run/engine.sock:/prefix")
        if "?" in url or "#" in url:
            raise ValueError("it has a query or a fragment: pass the base URL")
        if colon and prefix and not prefix.startswith("/"):
            raise ValueError(
                "what follows the socket's colon is a path (a colon in the socket's own name is written %3A)"
            )
        if "\0" in path or len(os.fsencode(path)) > SUN_PATH:
            raise ValueError(f"the path of a Unix socket has at most {SUN_PATH} bytes, none of them NUL")
        return cls(secure=False, host="localhost", port=80, prefix=_prefix(prefix), socket=path)

    @property
    def where(self) -> str:
        """What errors say."""
        return f"unix:{self.socket}" if self.socket is not None else f"{_bracketed(self.host)}:{self.port}"

    @property
    def where_to(self) -> str:
        """What a proxy is asked to connect to."""
        return f"{_bracketed(self.host.partition('%')[0])}:{self.port}"

    @property
    def authority(self) -> str:
        """What the field Host says: without a zone id, which means nothing to anybody else, and the scheme's own port."""
        name = _bracketed(self.host.partition("%")[0])
        return name if self.port == (443 if self.secure else 80) else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """In the form that a proxy is asked with."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.prefix}"

    @property
    def site(self) -> tuple[object, ...]:
        """What it has in common with other URLs of the same server."""
        return self.secure, self.host, self.port, self.socket


class Proxy:
    """An HTTP proxy, of `http://user:password@host:port`; user and password may be missing. Shows and pickles no secret."""

    __slots__ = ("authorization", "host", "port", "secrets")

    def __init__(self, url: str) -> None:
        """Raises ValueError, which says what is wrong without quoting the URL."""
        _refuse_unprintable(url)
        base, port = _split(url if "://" in url else "none:", " (in a password, / ? # are written %2F %3F %23)")
        if base.scheme != "http":
            raise ValueError("it must begin with http:// (a worker with https is reached through it by CONNECT)")
        if not base.hostname or port == 0:
            raise ValueError("it names no host")
        if base.path not in ("", "/") or base.query or base.fragment:
            raise ValueError("it has a path, a query or a fragment")
        self.host: str = as_host(base.hostname)
        self.port: int = port or 80
        self.authorization: str | None = None
        self.secrets: tuple[str, ...] = ()
        if base.username is not None or base.password is not None:
            self._authorize(base)

    def _authorize(self, base: SplitResult) -> None:
        user, password = unquote(base.username or ""), unquote(base.password or "")
        if ":" in user or _control(user + password):
            raise ValueError("its user holds a colon, or its password a control character")
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.authorization = f"Basic {encoded}"
        self.secrets = tuple(filter(None, (encoded, password, base.password)))

    @property
    def where(self) -> str:
        """What errors say."""
        return f"{_bracketed(self.host)}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({self.where}{', with a password' if self.authorization else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.host, self.port, self.authorization

    def __reduce__(self) -> Any:
        if self.authorization:
            raise TypeError("an adapter whose proxy has a password can't be pickled: the pickle would carry the secret")
        return type(self), (f"http://{self.where}",)


def _split(url: str, hint: str = "") -> tuple[SplitResult, int | None]:
    """And its port. In our words: urllib quotes what it can't read, which may be a part of a password."""
    try:
        base = urlsplit(url)
    except ValueError:
        raise ValueError("its host is no name, or no IPv6 address in brackets") from None
    found = _host_and_port(base.netloc.rpartition("@")[2])
    if found is None or int(found[1] or "0") > HIGHEST_PORT:
        raise ValueError(f"its host can't be read, or its port is no number up to {HIGHEST_PORT}{hint}")
    return base, int(found[1]) if found[1] else None


def _refuse_unprintable(url: str) -> None:
    if _control(url) or url != url.strip():
        raise ValueError("it holds a control character, or begins or ends with a blank")
    if _surrogate(url):  # nothing that shows it could be encoded
        raise ValueError("it holds a byte that is no UTF-8: percent-encode it (urllib.parse.quote of os.fsencode)")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def as_host(text: str) -> str:
    """A name or an address, in the form that is looked up. Raises ValueError."""
    if ":" in text:
        return _six(text)
    if not text.isascii():
        import idna  # noqa: PLC0415  -- large tables, for few

        try:
            text = idna.encode(text, uts46=True).decode()
        except idna.IDNAError as exc:
            raise ValueError(f"its host is no name ({exc})") from None
    text = text.lower()
    if not _name(text) or len(text) > 254:
        raise ValueError("its host is no name")
    return text


def _six(text: str) -> str:
    """IPv6. The zone id's percent sign is written %25 (RFC 6874), or, as people do, bare."""
    import socket  # noqa: PLC0415  -- for few

    address, percent, zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        raise ValueError("its host is no IPv6 address") from None
    zone = unquote(zone.removeprefix("25"))
    if bool(percent) != bool(zone):
        raise ValueError("its host has an empty zone id")
    return f"{address.lower()}{percent}{zone}"


def _prefix(path: str) -> str:
    kept: list[str] = []
    for part in percent_encoded(path).split("/"):
        if part == ".." and len(kept) > 1:
            kept.pop()
        elif part not in (".", ".."):
            kept.append(part)
    return "/".join(kept).rstrip("/")
