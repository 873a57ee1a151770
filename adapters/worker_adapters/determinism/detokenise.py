"""From what an engine sends of its text to the text of Token events, for every dialect alike. Sans-I/O, no clock.

Three things are held back: the bytes of a character that is not whole yet, half of a surrogate pair, and the end of the text
as long as it may become a stop string. What is held back goes out with the delta that resolves it, or with `finish()`.
Apart from that, one delta in is one text out; an empty text is no Token.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode

from ..api import Reason
from ..dialect import Fault

__all__ = ["TextAssembler"]

REPLACEMENT = "\ufffd"
_surrogate_in = re.compile(r"[\ud800-\udfff]").search


class TextAssembler:
    """The text of one stream. Feed it through `text` and `token_bytes`, or through `cumulative`, then call `finish`.

    The stop string whose occurrence *ends* first wins, because that is where an engine that looks after every character
    would have stopped; of those that end together the longest. So the cut does not depend on how the text was split.
    Once `stop_text` is set, whatever still comes is dropped.
    """

    __slots__ = ("_begins", "_half", "_held", "_rest", "_stop", "_whole", "stop_text")

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        """`stop`: none of them empty."""
        if "" in stop:
            raise ValueError("an empty stop string would stop every text at its start")
        self._stop = stop
        self._begins = re.compile("|".join(re.escape(s[0]) for s in stop)).search if stop else None
        self._held = ""  # may be the beginning of a stop string
        self._half = ""  # a high surrogate that waits for the low one
        self._rest = b""  # the bytes so far of a character
        self._whole = ""  # of cumulative texts: the part that can't change any more
        self.stop_text: str | None = None

    @property
    def holds(self) -> bool:
        """Whether what comes next has to go through here: something waits for it."""
        return bool(self._half or self._rest or self._held)

    def text(self, delta: str, *, special: bool = False) -> str:
        """A delta that the engine has decoded. U+FFFD in it is the engine's last word and stays.

        A character that JSON escapes as two surrogates in two deltas is joined; a lone surrogate becomes U+FFFD.
        """
        if special:
            return ""
        if self._rest:  # the bytes of a character that is not going to be whole any more
            delta, self._rest = utf_8_decode(self._rest, "replace", True)[0] + delta, b""
        if self._half or not (delta.isascii() or _surrogate_in(delta) is None):
            delta = self._half + delta
            self._half = delta[-1:] if "\ud800" <= delta[-1:] <= "\udbff" else ""
            delta = _paired(delta[:-1] if self._half else delta)
        return self._cut(delta) if self._stop else delta

    def token_bytes(self, delta: bytes, *, special: bool = False) -> str:
        """The bytes of a token, which may begin and end inside a character. Invalid ones become U+FFFD."""
        if special:
            return ""
        data = self._rest + delta
        text, used = utf_8_decode(data, "replace", False)
        if self._half:
            text, self._half = REPLACEMENT + text, ""
        self._rest = data[used:]
        return self._cut(text) if self._stop else text

    def cumulative(self, whole: str, *, last: bool = False) -> str:
        """All the text so far; returns what it grew by. Raises Fault (PROTOCOL) if what came before has been rewritten.

        U+FFFD at its end is what engines show of a character that is not whole yet, one or one per byte: it is held back,
        may be rewritten, and what is left of it at the end becomes one U+FFFD. `last`: the engine has cut a stop string out
        of it, of which the beginning had come before and was held back.
        """
        if self.stop_text is not None:
            return ""
        known = self._whole
        if last and 0 < len(known) - len(whole) <= len(self._held) and known.startswith(whole):
            self._held = self._held[: len(whole) - len(known)]
            self._whole, self._half = whole, ""
            return ""
        if not whole.startswith(known):
            whole = _paired(whole)
            if not whole.startswith(known):
                raise Fault(Reason.PROTOCOL, "the engine has rewritten text that it had already sent")
        delta = whole[len(known) :]
        if not (delta.isascii() or _surrogate_in(delta) is None):
            delta = _paired(delta)
        certain = delta.rstrip(REPLACEMENT)
        self._half = REPLACEMENT if len(certain) < len(delta) else ""
        self._whole = known + certain
        return self._cut(certain) if self._stop else certain

    def stopped_at(self, stop: str) -> str:
        """The engine has stopped at this string and cut it out: of what was held back, all but the string's beginning."""
        if self.stop_text is not None:
            return ""
        text, self._held, self.stop_text = self._held, "", stop
        return text[: len(text) - _overlap(text, stop)]

    def finish(self) -> str:
        """The engine sends no more: what was held back, with U+FFFD for the character that never became whole."""
        text = REPLACEMENT if self._half else utf_8_decode(self._rest, "replace", True)[0]
        self._half, self._rest = "", b""
        if self._stop:
            text = self._cut(text) + self._held
            self._held = ""
        return text

    def _cut(self, delta: str) -> str:
        """What of `delta`, and of what was held back before it, is certain not to belong to a stop string."""
        if self.stop_text is not None or not delta:
            return ""
        if (
            not self._held and self._begins is not None and self._begins(delta) is None
        ):  # most deltas, at a tenth of the price
            return delta
        text = self._held + delta
        if found := [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]:
            self._held = ""
            _, at, self.stop_text = min(found)
            return text[:at]
        told = len(text) - max(_overlap(text, stop) for stop in self._stop)
        self._held = text[told:]
        return text[:told]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a beginning of `stop`, at most all but its last."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0


def _paired(text: str) -> str:
    """Surrogate pairs joined, lone surrogates replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
