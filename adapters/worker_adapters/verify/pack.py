"""The repro pack: a JSON file with the requests, byte for byte, and what came, from which every verdict follows again."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..api import TokenLogprob
from .records import Answer, Condition, Recording, Role, Sent, Trial
from .verdicts import Report

__all__ = ["read_pack", "write_pack"]

FORMAT = 1


def write_pack(path: Path, recording: Recording, report: Report) -> None:
    """Raises OSError."""
    pack = {
        "worker-adapters determinism pack": FORMAT,
        "report": report.plain(),
        "environment": recording.environment,
        "left_out": dict(recording.left_out),
        "conditions": [attrs.asdict(condition) for condition in recording.conditions],
        "trials": [_trial(trial) for trial in recording.trials],
    }
    text = json.dumps(pack, ensure_ascii=True, default=str)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read_pack(path: Path) -> tuple[Recording, Mapping[str, Any]]:
    """What came, and the report that was made of it. Raises OSError; ValueError for what is no pack."""
    pack = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(pack, dict) or pack.get("worker-adapters determinism pack") != FORMAT:
        raise ValueError(f"{path} is no determinism pack of format {FORMAT}")
    try:
        recording = Recording(
            environment=pack["environment"],
            conditions=tuple(Condition(**condition) for condition in pack["conditions"]),
            trials=tuple(map(_trial_of, pack["trials"])),
            left_out=pack["left_out"],
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise ValueError(f"{path} is a damaged pack: {exc!r}") from exc
    return recording, pack["report"]


def _trial(trial: Trial) -> dict[str, Any]:
    answer = attrs.asdict(trial.answer, recurse=False)
    if trial.answer.logprobs is not None:
        answer["logprobs"] = [_logprob(one) for one in trial.answer.logprobs]
    sent = None if trial.sent is None else attrs.asdict(trial.sent)
    if sent is not None:
        sent["body"] = base64.b64encode(sent["body"]).decode()
    return attrs.asdict(trial, recurse=False) | {"sent": sent, "answer": answer}


def _logprob(one: TokenLogprob) -> list[Any]:
    """Numbers in hexadecimal, where no digit is lost; a plain NaN is no JSON."""
    return [one.token, one.token_id, one.logprob.hex(), [_logprob(each) for each in one.top]]


def _logprob_of(told: list[Any]) -> TokenLogprob:
    token, number, value, top = told
    return TokenLogprob(
        token=token, token_id=number, logprob=float.fromhex(value), top=tuple(_logprob_of(each) for each in top)
    )


def _trial_of(told: Mapping[str, Any]) -> Trial:
    answer = dict(told["answer"])
    if answer["logprobs"] is not None:
        answer["logprobs"] = tuple(_logprob_of(one) for one in answer["logprobs"])
    if answer["marks"] is not None:
        answer["marks"] = tuple((size, likely, count) for size, likely, count in answer["marks"])
    for name in ("reads", "reasons", "token_ids"):
        if answer[name] is not None:
            answer[name] = tuple(answer[name])
    if not all(math.isfinite(at) for at in answer["reads"]):
        raise ValueError("a time that is no number")
    sent = told["sent"]
    if sent is not None:
        sent = Sent(**(sent | {"body": base64.b64decode(sent["body"])}))
    return Trial(**{**told, "role": Role(told["role"]), "sent": sent, "answer": Answer(**answer)})
