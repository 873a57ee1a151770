"""Request bodies as llama-server parses them, with its parser's complaints.

Proven word for word: empty body, unfinished string, ill-formed UTF-8 (err_empty_body, err_bad_json,
err_invalid_utf8_body). Other faults get a message of the same form.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["JsonError", "parse"]


class JsonError(ValueError):
    """Not JSON; the message is the engine's."""

    def __init__(self, before: str, what: str) -> None:
        lines = before.split("\n")
        # The parser stops on the byte after the last good one, and counts bytes.
        column = len(lines[-1].encode("utf-8", "surrogateescape")) + 1
        super().__init__(f"[json.exception.parse_error.101] parse error at line {len(lines)}, column {column}: {what}")


def _constant(name: str) -> float:
    raise JsonError("", f"syntax error while parsing value - invalid literal; last read: '{name}'")


def parse(body: bytes) -> Any:
    """Decode a request body. Raises JsonError."""
    if not body:
        raise JsonError(
            "", "attempting to parse an empty input; check that your input string or stream contains the expected JSON"
        )
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_constant)
        _refuse_surrogates(value)
    except UnicodeDecodeError as error:
        good = body[: error.start].decode()
        read = good[max(good.rfind('"'), 0) :] + "\ufffd"
        what = f"syntax error while parsing value - invalid string: ill-formed UTF-8 byte; last read: '{read}'"
        raise JsonError(good, what) from None
    except json.JSONDecodeError as error:
        raise _complaint(error) from None
    except RecursionError:
        raise JsonError("", "syntax error while parsing value - excessive nesting") from None
    return value


def _refuse_surrogates(value: Any) -> None:
    """Refuse a lone surrogate (an escape that is half a character) anywhere in `value`."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = (
            "syntax error while parsing value - invalid string: "
            "surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF"
        )
        raise JsonError("", what) from error


def _complaint(error: json.JSONDecodeError) -> JsonError:
    before = error.doc[: error.pos]
    if error.msg.startswith("Unterminated string"):
        key = before.rstrip()[-1:] in {"{", ","}
        read = error.doc[error.pos :]
        what = (
            f"syntax error while parsing {'object key' if key else 'value'} - invalid string: missing closing quote; "
            f"last read: '{read}'" + ("; expected string literal" if key else "")
        )
        return JsonError(error.doc, what)
    read = error.doc[error.pos : error.pos + 1]
    if not read:
        return JsonError(before, "syntax error while parsing value - unexpected end of input")
    return JsonError(before, f"syntax error while parsing value - invalid literal; last read: '{read}'")
