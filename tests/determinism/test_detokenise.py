"""The text assembler: examples, and Hypothesis against what the whole text at once would give."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker_adapters import Reason
from worker_adapters.determinism import TextAssembler
from worker_adapters.dialect import Fault

from ..products import examples

ALPHABET = "aab é中🙂\n\ufffd"  # few letters, so that stop strings are met, and characters of one to four bytes
texts = st.text(ALPHABET, max_size=24)
stops = st.lists(st.text("aab é🙂", min_size=1, max_size=5), max_size=4).map(tuple)
# Valid text, and bytes that are not: lone leads, lone continuations, overlong forms, encoded surrogates.
raws = st.lists(
    st.one_of(
        texts.map(str.encode),
        st.sampled_from([b"\xf0\x9f", b"\xe4", b"\x80", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]),
    ),
    max_size=6,
).map(b"".join)


def parts_of(whole, cuts):
    at = [0, *sorted(min(c, len(whole)) for c in cuts), len(whole)]
    return [whole[i:j] for i, j in pairwise(at)]


def cut_at_first_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """The slow way: read one character after another; the longest of the stop strings that have just ended."""
    for end in range(1, len(text) + 1):
        ended = [s for s in stop if text[:end].endswith(s)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


def held_back(text: str, stop: tuple[str, ...]) -> int:
    """How much of the end of `text` may still become a stop string."""
    return max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)


def check_what_is_told_when(told: list[str], known: list[str], stop: tuple[str, ...]) -> None:
    """After each delta all of the text that is known, less what may become a stop string: no more, and no less."""
    so_far = ""
    for delta, text in zip(told, known, strict=True):
        so_far += delta
        cut, stopped = cut_at_first_stop(text, stop)
        assert so_far == (cut if stopped else cut[: len(cut) - held_back(cut, stop)])


@pytest.mark.product
@settings(max_examples=examples(1500))
@given(raw=raws, cuts=st.lists(st.integers(0, 60), max_size=12), stop=stops)
@example(raw="a🙂b".encode(), cuts=list(range(8)), stop=("🙂",))
@example(raw=b"\xed\xa0\x80a", cuts=[1, 2, 3], stop=())
@example(raw=b"a\xed\xa0", cuts=[1, 2], stop=())
def test_token_bytes_give_what_all_bytes_at_once_would(raw, cuts, stop):
    assembler = TextAssembler(stop)
    parts = parts_of(raw, cuts)
    told = [assembler.token_bytes(part) for part in parts]
    whole = raw.decode("utf-8", "replace")
    last = assembler.finish()
    assert ("".join(told) + last, assembler.stop_text) == cut_at_first_stop(whole, stop)
    assert assembler.finish() == ""

    known, seen = [], b""
    for part in parts:
        seen += part
        known.append(complete_text(seen))
    check_what_is_told_when(told, known, stop)


def complete_text(raw: bytes) -> str:
    """The text of these bytes without the character at their end that more bytes could complete."""
    for length in range(min(3, len(raw)), 0, -1):
        if any(begins_a_character(raw[-length:], fill) for fill in (b"\x80", b"\xbf")):
            return raw[:-length].decode("utf-8", "replace")
    return raw.decode("utf-8", "replace")


def begins_a_character(tail: bytes, fill: bytes) -> bool:
    """Encoded surrogates count: CPython's decoder waits for their third byte before it replaces all three."""
    for missing in (1, 2, 3):
        with suppress(UnicodeDecodeError):
            if len((tail + fill * missing).decode("utf-8", "surrogatepass")) == 1:
                return True
    return False


@pytest.mark.product
@settings(max_examples=examples(1000))
@given(text=texts, cuts=st.lists(st.integers(0, 30), max_size=12), stop=stops)
@example(text="aab", cuts=[1, 2], stop=("ab",))
@example(text="abab a", cuts=[1, 2, 3, 4, 5], stop=("abab b", "b a"))
def test_text_deltas_give_the_whole_text_cut_at_the_first_stop(text, cuts, stop):
    assembler = TextAssembler(stop)
    parts = parts_of(text, cuts)
    told = [assembler.text(part) for part in parts]
    check_what_is_told_when(told, ["".join(parts[: i + 1]) for i in range(len(parts))], stop)
    assert ("".join(told) + assembler.finish(), assembler.stop_text) == cut_at_first_stop(text, stop)
    if not stop:
        assert told == parts


units = st.lists(st.sampled_from(["a", "é", "🙂", "\ud83d", "\ude00", "\udbff", "\udc00"]), max_size=12).map("".join)


@pytest.mark.product
@settings(max_examples=examples(800))
@given(text=units, cuts=st.lists(st.integers(0, 12), max_size=8), stop=stops, whole=st.booleans())
@example(text="\ud83d\ude00", cuts=[1], stop=(), whole=False)
def test_surrogates_are_joined_or_replaced_and_never_leak(text, cuts, stop, whole):
    assembler = TextAssembler(stop)
    parts = parts_of(text, cuts)
    if whole:
        told = [assembler.cumulative("".join(parts[: i + 1])) for i in range(len(parts))]
    else:
        told = [assembler.text(part) for part in parts]
    told.append(assembler.finish())
    for delta in told:
        delta.encode()  # raises at a surrogate
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if whole:
        expected = one_replacement_at_the_end(expected)
    assert ("".join(told), assembler.stop_text) == cut_at_first_stop(expected, stop)


def one_replacement_at_the_end(text: str) -> str:
    bare = text.rstrip("\ufffd")
    return bare + "\ufffd" * (bare != text)


@pytest.mark.product
@settings(max_examples=examples(1000))
@given(raw=raws, cuts=st.lists(st.integers(0, 60), max_size=12), stop=stops, each=st.integers(1, 3))
@example(raw="🙂".encode(), cuts=[1, 2, 3], stop=(), each=1)
def test_cumulative_texts_give_what_deltas_give(raw, cuts, stop, each):
    """Frames as an engine shows them that has decoded all its bytes: U+FFFD for a character that is not whole yet, or
    (byte fallback) one for each of its bytes so far.
    """
    assembler = TextAssembler(stop)
    told, seen = [], b""
    for part in parts_of(raw, cuts):
        seen += part
        shown = seen.decode("utf-8", "replace")
        certain = complete_text(seen)
        told.append(assembler.cumulative(certain + "\ufffd" * each if certain != shown else shown))
    told.append(assembler.finish())
    expected = one_replacement_at_the_end(raw.decode("utf-8", "replace"))
    assert ("".join(told), assembler.stop_text) == cut_at_first_stop(expected, stop)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (["a", "ab", "abc"], ["a", "b", "c"]),
        (["a", "a", "ab"], ["a", "", "b"]),
        (["a\ufffd", "a\ufffd\ufffd", "a🙂"], ["a", "", "🙂"]),
        (["a\ufffd", "a\ufffdb"], ["a", "\ufffdb"]),
        (["a\ufffd", "a"], ["a", ""]),
        (["", "\ufffd", "\ufffd\ufffd\ufffd"], ["", "", ""]),
    ],
)
def test_a_cumulative_frame_gives_what_it_grew_by(frames, told):
    assembler = TextAssembler()
    assert told == [assembler.cumulative(frame) for frame in frames]
    assert assembler.finish() == ("\ufffd" if frames[-1].endswith("\ufffd") else "")


@pytest.mark.parametrize(("first", "then"), [("ab", "ac"), ("ab", "a"), ("ab", ""), ("ab\ufffd", "ax\ufffd")])
def test_a_rewritten_prefix_is_a_fault(first, then):
    assembler = TextAssembler()
    assembler.cumulative(first)
    with pytest.raises(Fault) as fault:
        assembler.cumulative(then)
    assert fault.value.reason is Reason.PROTOCOL


def test_the_last_text_may_lack_what_was_held_back_of_a_stop_string():
    """The engine cut it out, where it had shown its beginning before."""
    assembler = TextAssembler(("over see",))
    assert [assembler.cumulative("a ov"), assembler.cumulative("a over")] == ["a ", ""]
    assert assembler.cumulative("a ", last=True) == ""
    assert assembler.finish() == ""


@pytest.mark.parametrize("last", ["a", "", "x"])
def test_the_last_text_lacks_nothing_that_was_told(last):
    assembler = TextAssembler(("over see",))
    assembler.cumulative("a over")
    with pytest.raises(Fault):
        assembler.cumulative(last, last=True)


def test_a_prefix_of_a_stop_string_goes_out_with_the_delta_that_resolves_it():
    assembler = TextAssembler(("\nUser:",))
    assert [assembler.text(t) for t in ("hello\n", "Us", "e", "ful")] == ["hello", "", "", "\nUseful"]
    assert assembler.finish() == ""


def test_a_held_back_prefix_goes_out_at_the_end():
    assembler = TextAssembler(("END",))
    assert assembler.text("the EN") == "the "
    assert assembler.finish() == "EN"
    assert assembler.stop_text is None


def test_what_comes_after_a_stop_is_dropped():
    assembler = TextAssembler(("END",))
    assert [assembler.text(t) for t in ("aE", "ND!", "more", "END")] == ["a", "", "", ""]
    assert (assembler.stop_text, assembler.finish()) == ("END", "")


@pytest.mark.parametrize(
    ("stop", "text", "cut", "stop_text"),
    [
        (("abcd", "bc"), "abcd", "a", "bc"),  # the one that ends first, though another begins earlier
        (("c", "bc", "abc"), "xabc", "x", "abc"),  # the longest of those that end together
        (("a", "ab"), "ab", "", "a"),
        (("aa",), "aaa", "", "aa"),
    ],
)
def test_of_several_stop_strings_the_one_that_ends_first_wins(stop, text, cut, stop_text):
    for parts in ([text], list(text)):
        assembler = TextAssembler(stop)
        assert "".join(map(assembler.text, parts)) + assembler.finish() == cut
        assert assembler.stop_text == stop_text


def test_special_tokens_are_no_text():
    """TGI sends `</s>` as an event of its own, flagged; it neither ends nor resolves what is held back."""
    assembler = TextAssembler(("</s>!",))
    assert assembler.text("a<") == "a"
    assert assembler.text("</s>", special=True) == ""
    assert assembler.text("b") == "<b"
    assert assembler.token_bytes(b"<eos>", special=True) == ""


def test_an_incomplete_character_becomes_one_replacement_at_the_end():
    assembler = TextAssembler()
    assert [assembler.token_bytes(bytes([b])) for b in "🙂".encode()[:3]] == ["", "", ""]
    assert (assembler.finish(), assembler.finish()) == ("\ufffd", "")


def test_without_stop_strings_a_delta_is_handed_on_itself():
    assembler = TextAssembler()
    for delta in ("plain", "中文 🙂", "\ufffd"):
        assert assembler.text(delta) is delta


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty stop string"):
        TextAssembler(("a", ""))
