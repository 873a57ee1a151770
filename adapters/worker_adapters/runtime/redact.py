"""Takes secrets out of text that an engine, or something between, may have put them into.

Whatever wrote the text may have escaped it (JSON, percent, base64, HTML, a Python repr) or cut it: it is compared with
the secret as a reader would understand it, and what begins as the secret does counts as the secret. Only words that stand in
the text as words, and are a third of the secret at most, do not: `Bearer`, or the name of a tenant that its key begins with.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping

from ..api.credentials import fingerprint
from ..dialect import Fault

__all__ = ["Redactor", "one_line", "secrets_of"]

KNOWN = 64  # secrets that are remembered for texts that come late; a request's own is known as long as it runs
LONGEST = 64 * 1024  # characters of a text that are looked at; no error carries more
STEM = 6  # characters of a secret of twice that length that give it away
AT_END = 4  # of any secret, at the end of a text: it was cut there
ROUNDS = 3  # of escaping that are undone

_control = "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
_unshown = re.compile(f"[{_control}]")
# At each place one way to go on, and runs of backslashes entered at their start only: linear, whatever the text.
_escaped = re.compile(
    r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([bfnrt])|([^uxbfnrt]))"
    r"|%([0-9a-fA-F]{2})|&#x([0-9a-fA-F]{1,6});|&#([0-9]{1,7});"
    rf"|\x1b\[[0-9;?]{{0,20}}[A-Za-z]|\r?\n[ \t]*+|[{_control}]+",
    re.DOTALL,
)
_in_query = re.compile(
    r"([?&;](?:[\w.-]{0,40}(?:key|token|secret|password|passwd|signature|sig|auth|credential)s?)=)[^&#\s\"'<>\\]+",
    re.IGNORECASE,
)
_words = re.compile(r"[A-Z]?[a-z]{2,}(?:[ ._:-][A-Z]?[a-z]{2,})?[ ._:-]?")
_user = re.compile(r"(://)[^/?#\s@\"'<>\\]{1,500}@")


class Redactor:
    """Replaces secrets that an engine may echo. Thread-safe (one tuple, swapped)."""

    def __init__(self) -> None:
        self._secrets: tuple[str, ...] = ()

    def learn(self, secret: str) -> None:
        """From now on this is not shown; the last few are remembered, since they rotate."""
        if secret and secret not in self._secrets:
            self._secrets = (secret, *self._secrets[: KNOWN - 1])

    def clean(self, text: str, also: Iterable[str] = ()) -> str:
        """The text with each secret as its fingerprint, and spelt out what would command a terminal, or can't be encoded:
        halves of surrogate pairs, which the system's own words and names of files hold where they are no UTF-8.
        """
        text = text[:LONGEST]
        for secret in dict.fromkeys((*also, *self._secrets)):
            text = _without(secret, text)
        if "=" in text:
            text = _in_query.sub(r"\1****", text)
        if "@" in text:
            text = _user.sub(r"\1****@", text)
        return text if text.isprintable() else _unshown.sub(_spelt, text.replace("\r\n", "\n"))

    def clean_fault(self, fault: Fault, also: Iterable[str] = ()) -> None:
        """The same for a fault where it is met, before anything is cut, remembered or passed on."""
        also = tuple(also)
        fault.message = self.clean(fault.message, also)
        fault.args = (fault.reason, fault.message)
        upstream = fault.upstream
        if upstream is not None:
            fault.upstream = type(upstream)(
                status=upstream.status,
                type=None if upstream.type is None else self.clean(upstream.type, also),
                message=None if upstream.message is None else self.clean(upstream.message, also),
            )


def secrets_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What a request carries that no answer to it may show."""
    values = [*headers.values(), *(value.partition(" ")[2].strip() for value in headers.values())]
    return tuple(value for value in values if len(value) >= AT_END)


def one_line(text: str) -> str:
    """The text without line breaks: nothing that is logged may pass for a line of its own."""
    return " ".join(text.split("\n")) if "\n" in text else text


def _spelt(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _without(secret: str, text: str) -> str:
    plain, spans = _understood(text)
    found: list[tuple[int, int]] = []
    for form in _forms(secret):
        found += _places(form, plain)
    if not found:
        return text
    parts, at = [], 0
    for begin, end in sorted(found):
        if spans is not None:
            begin, end = spans[begin][0], spans[end - 1][1]  # noqa: PLW2901  -- where they are in the text itself
        if end <= at:
            continue
        if begin >= at:
            parts += [text[at:begin], fingerprint(secret)]
        at = end
    return "".join((*parts, text[at:]))


def _places(form: str, plain: str) -> list[tuple[int, int]]:
    """Where it stands, or begins and is cut."""
    stem = form[:STEM] if len(form) >= 2 * STEM else form
    found, at = [], plain.find(stem)
    while at >= 0:
        length = len(stem)
        while length < len(form) and plain.startswith(form[length], at + length):
            length += 1
        if not _are_words(form, length, plain, at):
            found.append((at, at + length))
        at = plain.find(stem, at + length)
    for length in range(len(form) - 1, AT_END - 1, -1):
        if plain.endswith(form[:length]):
            if not _are_words(form, length, plain, len(plain) - length):
                found.append((len(plain) - length, len(plain)))
            break
    return found


def _are_words(form: str, length: int, plain: str, at: int) -> bool:
    """Whether so much of the beginning of a secret, found there, is a word or two of anybody's, and tells little of it."""
    end = at + length
    return (
        3 * length <= len(form)
        and _words.fullmatch(form, 0, length) is not None
        and not (form[length - 1].isalpha() and form[length].isalpha())
        and not plain[max(0, at - 1) : at].isalnum()
        and not (form[length - 1].isalnum() and plain[end : end + 1].isalnum())
    )


def _forms(secret: str) -> list[str]:
    """The secret, and how it looks in base64, also within longer text that was encoded (a Basic header's), and in hex."""
    raw = secret.encode("utf-8", "replace")
    forms = [secret]
    if len(raw) >= 2 * STEM:
        forms.append(raw.hex())
        for before in range(3):
            for encode in (b64encode, urlsafe_b64encode):
                whole = encode(b"\0" * before + raw).decode().rstrip("=")
                forms.append(whole[(0, 2, 3)[before] : len(whole) - bool((before + len(raw)) % 3)])
    return list(dict.fromkeys(forms))


def _understood(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """The text without escapes and controls, and for each of its characters where that is in the text; None: the same."""
    spans: list[tuple[int, int]] | None = None
    for _ in range(ROUNDS):
        if _escaped.search(text) is None:
            break
        spans = spans or [(n, n + 1) for n in range(len(text))]
        plain: list[str] = []
        where: list[tuple[int, int]] = []
        at = 0
        for found in _escaped.finditer(text):
            plain.append(text[at : found.start()])
            where += spans[at : found.start()]
            at = found.end()
            if char := _meant(found):
                plain.append(char)
                where.append((spans[found.start()][0], spans[at - 1][1]))
        plain.append(text[at:])
        where += spans[at:]
        text, spans = "".join(plain), where
    return text, spans


def _meant(found: re.Match[str]) -> str:
    """The character that an escape stands for; none for a control."""
    four, two, control, itself, percent, hexed, decimal = found.groups()
    if itself is not None:
        return str(itself)
    if control is not None:
        return ""
    digits = four or two or percent or hexed
    code = int(digits, 16) if digits else int(decimal) if decimal else 0
    return chr(code) if 0x20 <= code <= 0x10FFFF else ""
