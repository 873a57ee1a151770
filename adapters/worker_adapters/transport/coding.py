"""What a body is still coded with once its chunks are joined, and how that is undone. Without I/O.

Nobody is asked for a coding (Accept-Encoding: identity). A stream that has one is refused, by its name; of a reply that is
read whole, gzip and deflate are undone, because proxies compress their error pages whatever was asked for.

Sources: RFC 9110, 8.4 (content codings, which come before the transfer's), RFC 9112, 7 (transfer codings).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import attrs

__all__ = ["UNCODED", "Codings", "codings_of", "undone"]

# A Content-Encoding of another name, as "none" or "utf-8", says nothing about the bytes: there are servers that send it.
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"})
_WINDOWS = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}  # 47: zlib or gzip; -15: what some take deflate for
MOST = 2  # codings on top of each other that are undone: a body may be made to unpack into itself for ever
SHOWN = 40  # characters of a field's value in an error


@attrs.frozen
class Codings:
    """`names`: what is to be undone, in the order applied; `said`: the fields that tell, for an error. Both may be empty."""

    names: tuple[str, ...] = ()
    said: str = ""

    @property
    def known(self) -> bool:
        """Whether they can be undone."""
        return len(self.names) <= MOST and all(name in _WINDOWS for name in self.names)


UNCODED = Codings()


def codings_of(headers: Mapping[str, str], transfer: tuple[str, ...] = ()) -> Codings:
    """Of a response. `transfer`: the codings of the transfer but for a final chunked."""
    if not transfer and "content-encoding" not in headers:
        return UNCODED
    words = (word.strip(" \t") for word in headers.get("content-encoding", "").lower().split(","))
    content = tuple(word for word in words if word in COMPRESSIONS)
    transfer = tuple(word for word in transfer if word != "identity")
    fields = [("Content-Encoding", content), ("Transfer-Encoding", transfer)]
    shown = [f"{name}: {ascii(headers[name.lower()][:SHOWN])[1:-1]}" for name, codings in fields if codings]
    return Codings(content + transfer, ", ".join(shown))


def undone(body: bytes, codings: Codings, limit: int) -> tuple[bytes, bool]:
    """The body without its codings, at most `limit` bytes of it, and whether that is all of it.

    Of one that is cut short, as much as came; nothing, where it is broken or a coding is unknown.
    """
    whole = True
    if not codings.known:
        return b"", not body
    for name in reversed(codings.names if body else ()):
        for window in _WINDOWS[name]:
            unpacked, ended = _unpacked(body, window, limit)
            if unpacked or ended:
                break
        body, whole = unpacked, whole and ended
    return body, whole


def _unpacked(data: bytes, window: int, limit: int) -> tuple[bytes, bool]:
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error:
        return b"", False
    return unpacked[:limit], unpacker.eof and not unpacker.unused_data and len(unpacked) <= limit
