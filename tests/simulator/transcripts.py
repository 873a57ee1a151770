"""Recorded llama-server transcripts: their parts, and the vocabulary of the model behind them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from worker_adapters.simulator import Token, Vocabulary

FOLDER = Path(__file__).parent.parent / "engines" / "transcripts" / "llamacpp" / "b1-0c1e570"
VOCABULARY_SIZE = 576
FIRST_PIECE = 261
BYTE = 5  # id of the byte 0
BROKEN_UP = ("🙂", "🚀", "é", "中")  # the characters that the recorded model spells byte by byte


@attrs.frozen
class Message:
    """An HTTP response: its head, and its body as chunks (one piece if it had a length)."""

    head: bytes
    pieces: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def names() -> list[str]:
    return sorted(path.name.removesuffix(".meta.json") for path in FOLDER.glob("*.meta.json"))


def request(name: str) -> bytes:
    return (FOLDER / f"{name}.req.bin").read_bytes()


def response(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


def request_body(name: str) -> dict[str, Any]:
    return json.loads(request(name).partition(b"\r\n\r\n")[2])


def parse(data: bytes) -> tuple[Message, bytes]:
    """The first response in `data`, and what follows it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    if length:
        end = int(length[1])
        assert len(rest) >= end, "cut short"
        return Message(head, (rest[:end],)), rest[end:]
    pieces = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        end = int(size, 16)
        piece, rest = rest[:end], rest[end:]
        assert rest.startswith(b"\r\n"), "cut short"
        rest = rest[2:]
        if not end:
            return Message(head, tuple(pieces)), rest
        pieces.append(piece)


def events(data: bytes) -> list[Any]:
    """The JSON of every whole SSE event in a response, also of one that is cut."""
    return [json.loads(found) for found in re.findall(rb"^data: (.*)\n\n\r\n", data, re.MULTILINE)]


@cache
def vocabulary() -> Vocabulary:
    """Pieces by id, as far as any transcript tells; printable ASCII characters have ids in a row."""
    pieces = {FIRST_PIECE + code - 0x20: bytes([code]) for code in range(0x20, 0x7F)}
    for name in names():
        for content, number in re.findall(rb'"content":("[^"]+"),"tokens":\[(\d+)\]', response(name)):
            _learn(pieces, int(number), json.loads(content).encode())
        for number, data in re.findall(rb'"id":(\d+),"token":"[^"]*","bytes":\[([\d,]*)\]', response(name)):
            _learn(pieces, int(number), bytes(map(int, data.split(b","))))
    return Vocabulary([pieces.get(number, b"") for number in range(FIRST_PIECE, VOCABULARY_SIZE)], space_prefix=True)


def _learn(pieces: dict[int, bytes], number: int, data: bytes) -> None:
    # Where text was held back, one event shows several pieces: the shortest reading is the piece.
    if number >= FIRST_PIECE and (number not in pieces or len(data) < len(pieces[number])):
        pieces[number] = data


def script(data: bytes) -> dict[int, list[Token]]:
    """The tokens of a streamed or whole answer by index, with the ids that the stream does not tell put back in."""
    tokens: dict[int, list[Token]] = {}
    for said in events(data) or _whole(data):
        if said is None or "index" not in said or "prompt_progress" in said:
            continue
        mine = tokens.setdefault(said["index"], [])
        missing = said["tokens_predicted"] - len(mine) - len(said["tokens"])
        if said["stop"] and said["tokens"]:
            mine += _with_probabilities(said)
        elif said["stop"]:
            # Bytes of a character that the limit has cut off were never reported: any will do.
            mine += [_token(BYTE + byte) for byte in "🙂".encode()[:missing]]
        else:
            number = said["tokens"][0]
            if missing:
                mine += [_token(BYTE + byte) for byte in _character(number)[:-1]]
            mine.append(_token(number, *said.get("completion_probabilities", ())))
    return tokens


def _whole(data: bytes) -> list[Any]:
    said = json.loads(data.partition(b"\r\n\r\n")[2])
    return said if isinstance(said, list) else [said]


def _character(last: int) -> bytes:
    return next(text.encode() for text in BROKEN_UP if text.encode()[-1] == last - BYTE)


def _with_probabilities(said: dict[str, Any]) -> list[Token]:
    left = list(said.get("completion_probabilities", ()))
    tokens = []
    for number in said["tokens"]:
        if left and left[0]["id"] == number:
            tokens.append(_token(number, left.pop(0)))
        else:
            tokens.append(_token(number))
    return tokens


def _token(number: int, probability: dict[str, Any] | None = None) -> Token:
    piece = vocabulary().text(number)
    if probability is None:
        return Token(id=number, piece=piece)
    top = tuple((other["id"], other["logprob"]) for other in probability["top_logprobs"])
    return Token(id=number, piece=piece, logprob=probability["logprob"], top=top)
