"""Where the tokens of a simulated engine come from: a vocabulary and a seeded, repeatable source.

Everything here is pure and safe to share between threads: a source keeps no state from one request to the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol, TypeAlias

import attrs

from ._words import BROKEN_UP, PUNCTUATION, SUFFIXES, WHOLE, WORDS
from .tasks import Run

__all__ = [
    "DEFAULT_VOCABULARY",
    "Ask",
    "Script",
    "ScriptedSource",
    "Token",
    "TokenSource",
    "Vocabulary",
    "WordSource",
]

FIRST_BYTE_ID = 5
SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


@attrs.frozen(kw_only=True)
class Token:
    """One generated token. `piece` is what it adds to the text: nothing for a control token; `top`: (id, logprob)."""

    id: int
    piece: bytes
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


@attrs.frozen(kw_only=True)
class Ask:
    """What a source may look at: the same Ask always gives the same tokens.

    `knobs` are the sampling parameters beside the temperature, in an order of the engine's choosing. `n_probs` says how
    many alternatives each token should carry in `Token.top`. `run`: the slot's side of it, for sources that are to be at
    fault (see `drift`).
    """

    prompt: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    knobs: tuple[float, ...] = ()
    ignore_eos: bool = False
    n_probs: int = 0
    run: Run | None = attrs.field(default=None, eq=False, repr=False)


class Vocabulary:
    """Pieces by id, with a tokenizer: greedy longest match, single bytes where nothing matches.

    The first five ids are the control tokens of `SPECIALS`, the next 256 are the bytes, then come the pieces; an empty
    piece is an id that is never used. `decode(encode(text))` is `text` unless `space_prefix` is set, which writes a
    space before every run of text, as SentencePiece models do.
    """

    bos = 1
    eos = 2
    end_of_generation: frozenset[int] = frozenset({2, 4})

    def __init__(self, pieces: Sequence[bytes], *, space_prefix: bool = False) -> None:
        self.space_prefix = space_prefix
        self._pieces = (
            *(name.encode() for name in SPECIALS),
            *(bytes([value]) for value in range(256)),
            *pieces,
        )
        self._ids = {piece: number for number, piece in enumerate(self._pieces) if piece and number >= FIRST_BYTE_ID}
        lengths: dict[int, set[int]] = {}
        for piece in self._ids:
            lengths.setdefault(piece[0], set()).add(len(piece))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._special = re.compile("(" + "|".join(re.escape(name) for name in SPECIALS) + ")")

    def __len__(self) -> int:
        return len(self._pieces)

    def id_of(self, piece: bytes) -> int | None:
        """Id of exactly this piece of text."""
        return self._ids.get(piece)

    def raw(self, token: int) -> bytes:
        """The bytes of a token, control tokens by their names. Raises IndexError for an id that does not exist."""
        if token < 0:
            raise IndexError(token)
        return self._pieces[token]

    def text(self, token: int) -> bytes:
        """The bytes a token adds to generated text: nothing for a control token."""
        return b"" if token < FIRST_BYTE_ID else self.raw(token)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """All bytes of `tokens`, control tokens by their names. Raises IndexError for an id that does not exist."""
        return b"".join(map(self.raw, tokens))

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids of `text`. Raises UnicodeEncodeError for lone surrogates."""
        tokens = [self.bos] if add_bos else []
        for part in self._special.split(text) if parse_special else [text]:
            if parse_special and part in SPECIALS:
                tokens.append(SPECIALS.index(part))
            elif part:
                tokens += self._encode_bytes((" " + part if self.space_prefix else part).encode())
        return tokens

    def _encode_bytes(self, data: bytes) -> list[int]:
        tokens = []
        start = 0
        while start < len(data):
            for length in self._lengths[data[start]]:
                found = self._ids.get(data[start : start + length])
                if found is not None:
                    tokens.append(found)
                    start += length
                    break
        return tokens


def _default_pieces() -> list[bytes]:
    # A printable ASCII character is a token of its own; WHOLE characters are one token, those of BROKEN_UP several.
    texts = [chr(code) for code in range(0x20, 0x7F)]
    texts += [" " + word for word in WORDS]
    texts += [*SUFFIXES, *WHOLE]
    return [text.encode() for text in texts]


DEFAULT_VOCABULARY = Vocabulary(_default_pieces())


class TokenSource(Protocol):
    """What an engine's wire needs to know of a model. `generate` may be called from several threads at once."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens this source speaks."""
        ...

    def generate(self, ask: Ask) -> Iterator[Token]:
        """Tokens for one request, one `next()` per token; the engine stops asking at its limits.

        Ends after a token of `vocabulary.end_of_generation`, or never.
        """
        ...


class WordSource:
    """The default source: readable words, now and then a character of several tokens, now and then an end.

    Every choice hashes the chain of all tokens so far, so a prompt continued by its own greedy answer goes on as that
    answer did. Temperature 0 leaves seed and knobs out of the hash. `eos_rate` is the chance of an end per word.
    """

    def __init__(
        self, *, seed: int = 1, eos_rate: float = 1 / 200, vocabulary: Vocabulary = DEFAULT_VOCABULARY
    ) -> None:
        self.vocabulary = vocabulary
        self._seed = seed
        self._eos_rate = eos_rate
        self._words = self._known([" " + word for word in WORDS])
        self._others = self._known([*PUNCTUATION, *WHOLE])
        self._broken_up = [[FIRST_BYTE_ID + byte for byte in text.encode()] for text in BROKEN_UP]

    def generate(self, ask: Ask) -> Iterator[Token]:
        """Tokens for one request; see TokenSource."""
        greedy = ask.temperature <= 0
        key = repr((self._seed, None if greedy else (ask.seed, ask.temperature, ask.knobs)))
        chain = blake2b(key.encode(), digest_size=16).digest()
        for token in ask.prompt:
            chain = _link(chain, token)
        while True:
            unit = self._choose(chain, may_end=not ask.ignore_eos)
            for number in unit:
                yield self._token(number, chain, ask.n_probs)
                chain = _link(chain, number)
            if unit[0] in self.vocabulary.end_of_generation:
                return

    def _known(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.vocabulary.encode(text, parse_special=False) for text in texts]

    def _choose(self, chain: bytes, *, may_end: bool) -> list[int]:
        # Four bytes decide on the kind of what follows, four on which one of its kind.
        kind = int.from_bytes(chain[:4], "big") / 2**32
        choice = int.from_bytes(chain[4:8], "big")
        if kind < self._eos_rate:
            return [self.vocabulary.eos] if may_end else self._words[choice % len(self._words)]
        for chance, units in ((0.94, self._broken_up), (0.87, self._others)):
            if kind >= chance:
                return units[choice % len(units)]
        return self._words[choice % len(self._words)]

    def _token(self, number: int, chain: bytes, n_probs: int) -> Token:
        piece = self.vocabulary.text(number)
        if not n_probs:
            return Token(id=number, piece=piece)
        best = -(chain[8] + 1) / 128
        others = (
            int.from_bytes(blake2b(chain, digest_size=2, salt=bytes([rank])).digest(), "big") for rank in range(n_probs)
        )
        top = [(number, best)]
        for other in others:
            candidate = FIRST_BYTE_ID + 256 + other % (len(self.vocabulary) - FIRST_BYTE_ID - 256)
            if len(top) < n_probs and all(candidate != taken for taken, _ in top):
                top.append((candidate, top[-1][1] - (other % 97 + 1) / 64))
        return Token(id=number, piece=piece, logprob=best, top=tuple(top))


def _link(chain: bytes, token: int) -> bytes:
    return blake2b(chain + token.to_bytes(8, "big", signed=True), digest_size=16).digest()


Script: TypeAlias = Sequence[Token | int | str | bytes]


class ScriptedSource:
    """Says what it is told, for tests.

    `script` is a sequence of tokens, a mapping from prompt ids to sequences, or a function of the Ask (which may
    return an endless iterator). An int is a token id of the vocabulary, a str or bytes one token with that piece, be it
    known to the vocabulary (then it has its id) or not (id 0). What ends without a token of end of generation gets one.
    """

    def __init__(
        self,
        script: Script | Mapping[tuple[int, ...], Script] | Callable[[Ask], Iterable[Token | int | str | bytes]],
        *,
        vocabulary: Vocabulary = DEFAULT_VOCABULARY,
    ) -> None:
        self.vocabulary = vocabulary
        self._script = script

    def generate(self, ask: Ask) -> Iterator[Token]:
        """Tokens for one request; see TokenSource. Raises KeyError for a prompt that a mapping lacks."""
        if callable(self._script):
            said = self._script(ask)
        elif isinstance(self._script, Mapping):
            said = self._script[ask.prompt]
        else:
            said = self._script
        for item in said:
            token = self._token(item)
            yield token
            if token.id in self.vocabulary.end_of_generation:
                return
        yield self._token(self.vocabulary.eos)

    def _token(self, item: Token | int | str | bytes) -> Token:
        if isinstance(item, Token):
            return item
        if isinstance(item, int):
            return Token(id=item, piece=self.vocabulary.text(item))
        piece = item.encode() if isinstance(item, str) else item
        return Token(id=self.vocabulary.id_of(piece) or 0, piece=piece)
