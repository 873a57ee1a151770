"""One field of an event is wrong: missing, null, of another type, empty, doubled, or one too many; each event, field, row.

What is said beside the text changes nothing. Elsewhere a stream ends as a reader of its own, below, says: never well without
a reason, never with text that was not sent, and never with what would be a bug of ours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from worker_adapters import GenerateRequest, Token, registry
from worker_adapters.codec import SSEDecoder
from worker_adapters.dialect import Fault, Finished, Tally
from worker_adapters.engines.openai_completions import ROWS
from worker_adapters.testing import Transcripts

from ..products import product
from .gateways import GOOD

FOLDER = Path(__file__).parent / "transcripts"
RECORDED = [
    *(Transcripts(index.parent) for index in sorted((FOLDER / "openai-completions").glob("*/suite.json"))),
    Transcripts(FOLDER / "vllm" / "0.32.0"),  # of which are the ids, too
    Transcripts(FOLDER / "trtllm" / "handmade"),
]
DIALECTS = {name: registry.dialect("-".join(filter(None, ("openai-completions", name)))) for name in ROWS}
EVENT = re.compile(rb"(?<=data: )\{.*\}(?=\s)")
NAMED = re.compile(rb"event:")
GONE, TWICE = "gone", "twice"
OTHERS = (None, "", "x", 0, 7, -1, 1.5, True, False, [], {}, [None], {"a": 1}, 2**70, "\ud800")
ADDED = ({"error": "x"}, {"error": {"message": "x", "code": 503}}, {"error": None}, {"news": {"a": [1]}}, {"usage": 7})
MANY = 6
STRICT = ("choices", "error")  # and what is in them, but for:
BESIDE = (
    "logprobs",
    "stop_reason",
    "prompt_token_ids",
    "prompt_logprobs",
    "disaggregated_params",
    "avg_decoded_tokens_per_iter",
)
NO_REASON = ("", "null", "none")
Place = tuple[Any, ...]


class Doubled:
    """A field that is written twice."""

    def __init__(self, value: Any) -> None:
        self.value = value


def written(value: Any) -> str:
    """JSON, in which a field may stand twice."""
    if isinstance(value, dict):
        fields = [(k, v.value) for k, v in value.items() for _ in range(2) if isinstance(v, Doubled)]
        fields += [(k, v) for k, v in value.items() if not isinstance(v, Doubled)]
        return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in fields) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def places(value: Any, at: Place = ()) -> list[Place]:
    """Every field, and of a list or of many the first, at any depth."""
    found: list[Place] = []
    fields = list(value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ())
    for key, inner in fields[:MANY] if at else fields:
        found += [(*at, key), *places(inner, (*at, key))]
    return found


def changed(value: Any, at: Place, to: Any) -> Any:
    key, *rest = at
    copy = value.copy()
    if rest:
        copy[key] = changed(value[key], tuple(rest), to)
    elif to is GONE:
        del copy[key]
    elif to is TWICE and isinstance(copy, list):
        copy.insert(key, copy[key])
    else:
        copy[key] = Doubled(copy[key]) if to is TWICE else to
    return copy


def wrong(value: Any) -> list[tuple[Place, str]]:
    """What becomes of an event: where it was changed, and its JSON."""
    told = [(at, written(changed(value, at, to))) for at in places(value) for to in (GONE, TWICE, *OTHERS)]
    return told + [((next(iter(more)),), written({**value, **more})) for more in ADDED]


@attrs.frozen
class Case:
    """A stream as a list of frames, what was asked for, and where it is changed: in one event of each kind."""

    name: str
    frames: list[bytes]
    request: dict[str, Any]
    at: list[int]

    def changes(self) -> list[tuple[Place, list[bytes]]]:
        told = []
        for n in self.at:
            frame, before, after = self.frames[n], self.frames[:n], self.frames[n + 1 :]
            for at, said in wrong(json.loads(EVENT.search(frame)[0])):
                told.append((at, [*before, EVENT.sub(lambda _, said=said: said.encode(), frame), *after]))
            told += [(("choices",), [*before, frame, frame, *after]), (("choices",), [*before, *after])]
        return told


def _cases(found: list[tuple[str, list[bytes], dict[str, Any]]]) -> list[Case]:
    """Events that have the same fields, and were asked for in the same way, are as one."""
    cases, kinds = [], set()
    for name, whole, request in found:
        frames = whole if len(whole) < 10 else whole[:3] + whole[-6:]
        at = []
        for n, frame in enumerate(frames):
            if (event := event_in(frame)) is None:
                continue
            choices = event.get("choices")
            reason = str(choices[0].get("finish_reason") if choices else choices)
            kind = (tuple(places(event)), n == 0, reason, tuple(sorted(request)))
            if kind not in kinds:
                kinds.add(kind)
                at.append(n)
        if at:
            cases.append(Case(name, frames, request, at))
    return cases


def event_in(frame: bytes) -> Any:
    """The event of a frame, if that is its JSON and nothing else."""
    found = EVENT.search(frame)
    if found is None or NAMED.search(frame):
        return None
    try:
        return json.loads(found[0])
    except ValueError:  # transformers serve writes some that are none
        return None


def _recorded(transcripts: Transcripts) -> list[Case]:
    found = []
    for name, expected in transcripts.streams.items():
        frames = [one for one in re.split(rb"(?<=\n\n)", transcripts.recorded(name).body) if one]
        found.append((f"{transcripts.folder.name}-{name}", frames, dict(expected.request)))
    return _cases(found)


BY_HAND = _cases([(name, frames, {}) for name, frames in GOOD.items()])
CASES = {case.name: case for cases in [*map(_recorded, RECORDED), BY_HAND] for case in cases}


def read(frames: list[bytes], stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The text and the reason, by a reader that knows nothing but where they stand; a reason of None: there was no end."""
    text = ""
    for frame in frames:
        if (event := event_in(frame)) is None:
            continue
        choices = event.get("choices")
        if event.get("error"):
            return text, None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            continue
        choice = choices[0]
        text += said_by(choice, text)
        if cut := [at for stop in stops if (at := text.find(stop)) >= 0]:
            return text[: min(cut)], "stop"
        reason = choice.get("finish_reason")
        reason = reason.get("type") if isinstance(reason, dict) else reason
        if isinstance(reason, str) and reason.lower() not in NO_REASON:
            return text, None if reason == "abort" else reason
    return text, None


def said_by(choice: dict[str, Any], text: str) -> str:
    inner = choice.get("delta")
    inner = choice.get("message") if inner is None and not text else inner
    said = choice.get("text")
    said = inner.get("content") if said is None and isinstance(inner, dict) else said
    return said if isinstance(said, str) else ""


def decoded(dialect: Any, frames: list[bytes], request: GenerateRequest) -> tuple[str, Finished | Fault | None]:
    """The text, and how it ended. Raises what is a bug of ours."""
    decoder, text = SSEDecoder(2**20), ""
    batches = filter(None, (decoder.payloads(frame) for frame in frames))
    try:
        for run in dialect.decode(batches, request=request, tally=Tally()):
            text += "".join(item.text for item in run if isinstance(item, Token))
            if run and isinstance(run[-1], Finished):
                return text, run[-1]
    except Fault as fault:
        return text, fault
    return text, None


def judged(case: Case, at: Place, frames: list[bytes], text: str, last: Finished | Fault | None) -> str | None:
    """What is wrong with it."""
    stops = tuple(case.request.get("stop", ()))
    ended = isinstance(last, Finished)
    if at[0] not in STRICT or any(part in BESIDE for part in at):
        wanted, reason = read(case.frames, stops)
        if (reason is not None) != ended or whole(text) != whole(wanted):
            return f"what is beside the text made of it {text!r}, {last}"
    wanted, reason = read(frames, stops)
    if ended and reason is None:
        return "it has ended well without a reason"
    if ended and whole(text) != whole(wanted):
        return f"it has ended well with {text!r}, and not {wanted!r}"
    return None


def whole(text: str) -> str:
    """Without halves of a character, and what stands for them."""
    return "".join(c for c in text if c != "\ufffd" and not "\ud800" <= c <= "\udfff")


def allowed(dialect: Any, name: str) -> bool:
    features = dialect.features
    return {"return_token_ids": features.token_ids, "logprobs": features.logprobs, "prompt_tokens": False}.get(
        name, True
    )


@product("name, row", [(name, row or "any") for name in CASES for row in ROWS])
def test_one_field_is_wrong(name, row):
    case, dialect = CASES[name], DIALECTS["" if row == "any" else row]
    fields = {field: value for field, value in case.request.items() if allowed(dialect, field)}
    request = GenerateRequest(**{"prompt": "p", "seed": 1, "max_tokens": 64, **fields})
    changes, faults = case.changes(), []
    for at, frames in changes:
        text, last = decoded(dialect, frames, request)
        assert decoded(dialect, [b"".join(frames)], request)[0] == text, "it is another text in one read"
        if wrongly := judged(case, at, frames, text, last):
            faults.append(f"{'.'.join(map(str, at))}: {wrongly}")
    assert len(changes) > 20, "nothing was changed"
    assert not faults, f"{len(faults)} of {len(changes)}:\n" + "\n".join(faults[:20])


@pytest.mark.parametrize("name", GOOD)
def test_by_hand_too_a_stream_ends_with_the_byte_that_says_so(name):
    """Read byte by byte: at the end of the event with the reason, or at the line's end before it, and never before."""
    body, signed = b"".join(GOOD[name]), next(n for n in range(len(GOOD[name])) if read(GOOD[name][: n + 1], ())[1])
    due = len(b"".join(GOOD[name][: signed + 1]))
    decoder, came = SSEDecoder(2**20), 0

    def batches():
        nonlocal came
        for came in range(1, len(body) + 1):
            if payloads := decoder.payloads(body[came - 1 : came]):
                yield payloads

    runs = DIALECTS[""].decode(batches(), request=GenerateRequest(prompt="p", seed=1), tally=Tally())
    assert any(run and isinstance(run[-1], Finished) for run in runs)
    assert body[came:due].strip() == b""
    assert came <= due
