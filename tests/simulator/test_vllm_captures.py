"""The simulator answers what a real vLLM was asked as that vLLM did, but for names, clocks, and where events are cut."""

from __future__ import annotations

import json
import re
import socket
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters.simulator import Ask, ScriptedSource, Simulator, Token, Vocabulary
from worker_adapters.testing import Transcripts

from ..engines.test_suite_vllm import TestVllm

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED: Transcripts = TestVllm.transcripts
FOLDER = RECORDED.folder
STREAMS = [
    "err_priority",
    "transport_connection_close",
    "transport_http10",
    "completions_greedy_stream",
    "completions_stream_continuous_usage",
    "completions_stream_eos",
    "completions_stream_full",
    "completions_stream_full_as_ids",
    "completions_stream_max1",
    "completions_stream_plain",
    "completions_stream_split",
    "completions_stream_split_cut",
    "completions_stream_split_stop",
    "completions_stream_stop_string",
    "completions_stream_stop_token_id",
    "completions_stream_usage",
    "request_id_headers",
]
OTHERS = [
    "detokenize",
    "detokenize_out_of_vocab",
    "detokenize_partial_utf8",
    "err_unknown_field_ok",
    "err_garbage_request_line",
    "get_is_sleeping",
    "completions_nonstream",
    "completions_stream_ctx_fill",
    "err_404_path",
    "err_405_get",
    "err_auth_none",
    "err_auth_wrong",
    "err_bad_json",
    "err_bad_model",
    "err_bad_utf8_body",
    "err_content_type_text",
    "err_ctx_max_tokens_too_big",
    "err_ctx_prompt_exact_512",
    "err_empty_body",
    "err_empty_prompt",
    "err_empty_token_prompt",
    "err_logprobs_too_many",
    "err_logprobs_too_many_nonstream",
    "err_max_tokens_negative",
    "err_max_tokens_zero",
    "err_n_zero",
    "err_no_content_type",
    "err_no_prompt",
    "err_prompt_logprobs_stream",
    "err_seed_too_big",
    "err_stop_too_many",
    "err_temperature_negative",
    "err_token_out_of_vocab",
    "err_token_out_of_vocab_nonstream",
    "get_health",
    "get_load",
    "get_ping",
    "get_v1_models",
    "get_version",
    "post_ping",
    "tokenize_bad_model",
    "tokenize_prompt",
]


SPECIAL = 4  # <pad>, <s>, </s>, <unk>
PROMPTS = {"hello world": [351, 82, 366], "hello 東京": [351, 82, 345, 372]}

NOT_COVERED = {
    "abort_by_id_* death_* disconnect_* queue_* sigterm_* stall_* overload_*": "done to a server: test_vllm.py",
    "err_chat_* tokenize_chat": "chat is not simulated",
    "engine_bug_*": "not a behaviour to copy",
    "get_metrics": "of its pages the families that tell of requests, steps and the cache",
    "completions_nonstream_orca_json usage_cached_* completions_stop_probe": "figures it does not have",
    "completions_stream_ignore_eos_120 seed_minus_one completions_stream_token_prompt ctx_500_*": "their ids are unknown",
    "completions_stream_regex completions_stream_json completions_stream_grammar err_structured_*": "nothing is constrained",
    "tokenize_prompt_strs": "tokens are spelled in the byte letters of its tokenizer",
    "transport_expect_continue": "two heads, which the recorder's reader takes for one",
}


class Recording(Vocabulary):
    """The recorded model's tokens, by the ids it has for them."""

    eos = 2
    end_of_generation = frozenset({2})

    def __init__(self) -> None:
        super().__init__([])
        self.pieces = [bytes.fromhex(piece) for piece in json.loads((FOLDER / "vocabulary.json").read_text())]

    def __len__(self) -> int:
        return len(self.pieces)

    def text(self, token: int) -> bytes:
        return b"" if token < SPECIAL else self.pieces[token]

    def raw(self, token: int) -> bytes:
        return self.pieces[token]

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = True) -> list[int]:
        """As it was recorded; of other prompts only the length counts."""
        del add_bos, parse_special
        return PROMPTS.get(text) or [self.pieces.index(bytes([byte])) for byte in text.encode()]


VOCABULARY = Recording()


def request(name: str) -> bytes:
    return (FOLDER / f"{name}.req.bin").read_bytes()


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(data) for data in re.findall(rb"^data: (.*)$", body, re.MULTILINE) if data != b"[DONE]"]


def choices(said: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in said:
        yield from one["choices"]


def tokens_of(name: str) -> list[Token]:
    """What the model said, with its logprobs; by the ids of another recording where this one has none."""
    found = [c for c in choices(events(RECORDED.recorded(name).body)) if c.get("token_ids")]
    if not found:  # the same prompt and seed
        return tokens_of("completions_stream_full")
    tokens = []
    for choice in found:
        said = choice["logprobs"] or {}
        for at, number in enumerate(choice["token_ids"]):
            own = said.get("token_logprobs", [0.0] * 99)[at]
            tokens.append(Token(id=number, piece=VOCABULARY.text(number), logprob=own, top=top_of(said, at, number)))
    return tokens


def top_of(said: dict[str, Any], at: int, number: int) -> tuple[tuple[int, float], ...]:
    """Alternatives by id; one without text is part of some character."""
    top = []
    for text, value in said["top_logprobs"][at].items() if said else ():
        by_id = re.fullmatch(r"token_id:(\d+)", text)
        if by_id:
            token = int(by_id[1])
        elif text == said["tokens"][at]:
            token = number
        else:
            token = VOCABULARY.pieces.index(text.encode() or b"\xff")
        top.append((token, value))
    return tuple(top)


def ask(simulator: Simulator, data: bytes) -> bytes:
    """The whole answer to these bytes, on a connection that is then closed."""
    with socket.create_connection(simulator.address, timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while not whole(answer):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
    return answer


def whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    if not blank:
        return False
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def header_names(data: bytes) -> list[str]:
    lines = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return sorted(line.partition(":")[0] for line in lines)


VOLATILE = ("id", "created", "system_fingerprint", "root")


def masked(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {key: "…" if key in VOLATILE and member else masked(member) for key, member in value.items()}
    return [masked(member) for member in value] if isinstance(value, list) else value


def joined(said: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream as one answer: where events are cut differs from run to run. `keys`: of the events, in their order."""
    found: dict[str, Any] = {"text": "", "token_ids": [], "prompt": None, "logprobs": {}, "end": None, "keys": set()}
    found["usage"] = said[-1].get("usage")
    for one in said:
        found["keys"].add((*one, *(key for choice in one["choices"] for key in choice)))
        for choice in one["choices"]:
            found["text"] += choice["text"]
            found["token_ids"] += choice["token_ids"] or []
            found["prompt"] = found["prompt"] or choice["prompt_token_ids"]
            found["end"] = (choice["finish_reason"], choice["stop_reason"])
            for key, values in (choice["logprobs"] or {}).items():
                found["logprobs"].setdefault(key, []).extend(values)
    # The real one spells a token after bytes that are no character with U+FFFD in front of it (the 14th of one recording).
    found["logprobs"] = {key: values[:13] for key, values in found["logprobs"].items()}
    return found


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_what_the_real_one_said(name):
    script = tokens_of(name)
    with Simulator(
        "vllm", model="tiny", ctx=512, source=scripted(script), enable_request_id_headers=with_ids(name)
    ) as simulator:
        answer = ask(simulator, request(name))
    recorded = (FOLDER / f"{name}.bin").read_bytes()
    assert header_names(answer) == header_names(recorded)
    said = RECORDED.recorded(name).parse(answer)
    real = RECORDED.recorded(name)
    assert said.status == real.status
    assert joined(events(said.body)) == joined(events(real.body))
    assert said.body.endswith(b"\n\ndata: [DONE]\n\n")


def scripted(script: list[Token]) -> ScriptedSource:
    def say(asked: Ask) -> list[Token]:
        del asked
        return script

    return ScriptedSource(say, vocabulary=VOCABULARY)


def with_ids(name: str) -> bool:
    return b"x-request-id" in (FOLDER / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_answer_is_the_real_one_s(name):
    key = "sk-secret" if name.startswith("err_auth") else None
    options = {"enable_request_id_headers": with_ids(name), "api_key": key}
    source = scripted(tokens_of("completions_stream_full"))
    with Simulator("vllm", model="tiny", ctx=512, source=source, **options) as simulator:
        answer = ask(simulator, request(name))
    recorded = (FOLDER / f"{name}.bin").read_bytes()
    assert answer.split(b"\r\n", 1)[0] == recorded.split(b"\r\n", 1)[0]
    assert header_names(answer) == header_names(recorded)
    said, real = RECORDED.recorded(name).parse(answer), RECORDED.recorded(name)
    assert said.headers.get("content-type") == real.headers.get("content-type")
    if real.body.startswith(b"{"):
        assert masked(json.loads(said.body)) == masked(json.loads(real.body))
    else:
        assert said.body == real.body


def test_every_recording_is_looked_at_or_left_out_for_a_reason():
    names = {path.name.removesuffix(".meta.json") for path in FOLDER.glob("*.meta.json")}
    patterns = [pattern for listed in NOT_COVERED for pattern in listed.split()]
    left = {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
    assert names - left == {*STREAMS, *OTHERS}
    assert all(any(fnmatch(name, pattern) for name in names) for pattern in patterns)
