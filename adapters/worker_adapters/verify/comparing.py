"""Two answers to the same request: where they part, and how far their likelihoods are from each other."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import attrs

from ..api import TokenLogprob
from .records import Answer

__all__ = ["Compared", "Parting", "compare", "gap_at"]

TAIL = 8  # tokens at the end whose logprobs nobody tells: a character that is cut
SHOWN = 16  # characters of the text after the place where it parts


@attrs.frozen(kw_only=True)
class Parting:
    """The first difference. `token`: its index, None where the wire has neither ids nor tokens; `byte`: in UTF-8.

    `expected` and `got`: both tokens there, or the text that follows; an empty one is the end, and where
    nothing but the finish reason differs, that. `gap`: between the two likeliest tokens there, in natural logs; None where
    that is not known.
    """

    token: int | None
    byte: int
    expected: str
    got: str
    expected_id: int | None = None
    got_id: int | None = None
    gap: float | None = None


@attrs.frozen(kw_only=True)
class Compared:
    """`by`: "token ids" or "bytes". `agreed`: tokens before the first difference, None where they can't be counted.

    `bitwise`: whether all logprobs up to there are the same bits, None without any; `largest`: the largest difference.
    """

    by: str
    parting: Parting | None
    agreed: int | None
    bitwise: bool | None = None
    largest: float | None = None
    first_off: int | None = None  # the token from which on logprobs differ

    @property
    def same(self) -> bool:
        """Tokens and logprobs, as far as they are known."""
        return self.parting is None and self.bitwise is not False


def compare(expected: Answer, got: Answer) -> Compared:
    """By token ids where both have all of theirs, else by bytes."""
    by_ids = expected.token_ids is not None and got.token_ids is not None
    at = _first_token(expected, got, by_ids=by_ids)
    byte = _first_difference(expected.text.encode(), got.text.encode())
    same = byte is None and expected.finish == got.finish and (not by_ids or at is None)
    parting = None if same else _parting(expected, got, at, byte)
    bitwise, largest, first_off = _likelihoods(expected, got, at)
    agreed = parting.token if parting is not None else _length(expected)
    return Compared(
        by="token ids" if by_ids else "bytes",
        parting=parting,
        agreed=agreed,
        bitwise=bitwise,
        largest=largest,
        first_off=first_off,
    )


def _length(answer: Answer) -> int | None:
    if answer.token_ids is not None:
        return len(answer.token_ids)
    if answer.marks is not None:
        return answer.marks[-1][2]
    return None if answer.logprobs is None else len(answer.logprobs)


def _number_at(answer: Answer, byte: int) -> int | None:
    """Of the token that the byte is of, or of the first of the piece that came with it, by the engine's own count."""
    if answer.marks is None:
        return None
    before = 0
    for size, _, count in answer.marks:
        if size > byte:
            return before
        before = count
    return before


def _tells_all(answer: Answer) -> bool:
    """Whether the logprobs told are those of the first tokens, one after the other; at the end some may be missing."""
    told, ids = answer.logprobs or (), answer.token_ids
    if answer.marks is None:
        return True
    if ids is None:
        return len(told) == _length(answer)
    same = all(one.token_id in {None, number} for one, number in zip(told, ids, strict=False))
    return len(ids) - TAIL <= len(told) <= len(ids) and same


def _by_place(answer: Answer) -> dict[tuple[int, int], tuple[int, TokenLogprob]]:
    """Logprobs, with the number of their token, by the end of the piece that they came with, and their place before it.

    Where a piece is of several tokens and not all of them are told, those told are its last. Without text it has no place.
    """
    found, before, length, told = {}, 0, 0, answer.logprobs or ()
    for size, likely, count in answer.marks or ():
        for index in range(before, min(likely, len(told)) if size > length else before):
            found[size, index - likely] = count - (likely - index), told[index]
        before, length = likely, size
    return found


def _numbered(answer: Answer) -> dict[int, TokenLogprob]:
    """Logprobs by the number of their token."""
    return dict(enumerate(answer.logprobs or ()) if _tells_all(answer) else _by_place(answer).values())


def _aligned(expected: Answer, got: Answer) -> list[tuple[int, TokenLogprob, TokenLogprob]]:
    """What both tell of the same token, with its number: a server with a draft model leaves most of them out."""
    if _tells_all(expected) and _tells_all(got):
        both = zip(expected.logprobs or (), got.logprobs or (), strict=False)
        return [(number, one, other) for number, (one, other) in enumerate(both)]
    left, right = _by_place(expected), _by_place(got)
    return [(*left[place], right[place][1]) for place in sorted(left.keys() & right.keys())]


def _first_token(expected: Answer, got: Answer, *, by_ids: bool) -> int | None:
    """The first token that differs, by ids, else by those whose logprobs both tell."""
    if by_ids:
        return _first_difference(expected.token_ids or (), got.token_ids or ())
    return next((number for number, one, other in _aligned(expected, got) if one.token != other.token), None)


def _first_difference(left: Sequence[object], right: Sequence[object]) -> int | None:
    for index, (one, other) in enumerate(zip_longest(left, right)):
        if one != other:
            return index
    return None


def _parting(expected: Answer, got: Answer, at: int | None, byte: int | None) -> Parting:
    where = byte if byte is not None else len(expected.text.encode())
    counted = None if expected.token_ids is not None and got.token_ids is not None else _number_at(expected, where)
    if at is None and byte is None:  # the same tokens: they only end otherwise
        return Parting(
            token=_length(expected), byte=where, expected=f"(end: {expected.finish})", got=f"(end: {got.finish})"
        )
    return Parting(
        token=at if counted is None else counted,
        byte=where,
        expected=_token(expected, at, where),
        got=_token(got, at, where),
        expected_id=_id(expected, at),
        got_id=_id(got, at),
        gap=_gap(expected, got, at),
    )


def _gap(expected: Answer, got: Answer, at: int | None) -> float | None:
    """Of the first that tells; of neither where it is not known which token the difference is in."""
    if not (_is_one_token(expected, at) and _is_one_token(got, at)):
        return None
    gap = gap_at(expected, at)
    return gap if gap is not None else gap_at(got, at)


def _is_one_token(answer: Answer, at: int | None) -> bool:
    """Without ids, a character may have come in several tokens, of which one likelihood is told (llama-server)."""
    told = None if at is None or answer.token_ids is not None else _numbered(answer).get(at)
    return told is None or len(answer.logprobs or ()) >= answer.tokens_out or told.token.isascii()


def _token(answer: Answer, at: int | None, byte: int) -> str:
    told = None if at is None else _numbered(answer).get(at)
    return told.token if told is not None else _text_at(answer, byte)


def _text_at(answer: Answer, byte: int) -> str:
    return answer.text.encode()[byte:].decode("utf-8", "replace")[:SHOWN]


def _id(answer: Answer, at: int | None) -> int | None:
    ids = answer.token_ids
    return ids[at] if at is not None and ids is not None and at < len(ids) else None


def gap_at(answer: Answer, at: int | None) -> float | None:
    """Between the two likeliest tokens at that place. One that is not among those told may be the likeliest."""
    taken = None if at is None else _numbered(answer).get(at)
    if taken is None:
        return None
    best = sorted((one.logprob for one in taken.top if not math.isnan(one.logprob)), reverse=True)
    if best and taken.logprob >= best[0] and taken.token not in {one.token for one in taken.top}:
        best.insert(0, taken.logprob)
    return best[0] - best[1] if len(best) > 1 else None


def _likelihoods(expected: Answer, got: Answer, at: int | None) -> tuple[bool | None, float | None, int | None]:
    """Of the tokens before the first difference: bitwise, the largest difference, and the first token that has one."""
    if expected.logprobs is None or got.logprobs is None:
        return None, None, None
    bitwise, largest, first_off = True, 0.0, None
    for number, one, other in _aligned(expected, got):
        if at is not None and number >= at:
            break
        for left, right in _pairs(one, other):
            if struct.pack("<d", left) == struct.pack("<d", right):
                continue
            bitwise, first_off = False, number if first_off is None else first_off
            largest = max(largest, abs(left - right)) if not math.isnan(left - right) else largest
    return bitwise, largest, first_off


def _pairs(one: TokenLogprob, other: TokenLogprob) -> Iterator[tuple[float, float]]:
    """Likelihoods of the same token."""
    if one.token == other.token:
        yield one.logprob, other.logprob
    known = {(each.token, each.token_id): each.logprob for each in other.top}
    for each in one.top:
        if (each.token, each.token_id) in known:
            yield each.logprob, known[each.token, each.token_id]
