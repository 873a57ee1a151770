"""The options of `GenerateRequest` on the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import attrs

from worker_adapters import DeterminismLevel, GenerateRequest, OnDegraded, Priority

from .output import read_input
from .parsing import assignment, seconds

__all__ = ["add", "add_prompt", "request"]

NUMBERS: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "temperature": (float, "0 is greedy"),
    "top_p": (float, None),
    "top_k": (int, "0: all"),
    "min_p": (float, None),
    "repetition_penalty": (float, None),
    "presence_penalty": (float, None),
    "frequency_penalty": (float, None),
    "seed": (int, "without one it follows from the task's id"),
    "logprobs": (int, "how many alternatives of each token"),
}
TEXTS = {
    "sampler_profile_version": "which table of sampling settings is sent (docs/determinism.md); there is v1",
    "json_schema": "what the text must be, as JSON Schema",
    "regex": "or as a regular expression",
    "grammar": "or as a grammar, each where the engine has it",
    "session_id": "a label of logs",
    "correlation_id": "another",
    "task_id": "a name for the stream; must be unique",
}
ENUMS: Mapping[str, type[StrEnum]] = {"determinism": DeterminismLevel, "on_degraded": OnDegraded, "priority": Priority}


DEADLINE_AT = "a point in time instead: Unix seconds, or such as 2026-11-27T13:00:00Z; the sooner one holds"


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """Declare the prompt: as text, or as ids."""
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="the prompt; - reads standard input")
    prompt.add_argument(
        "--prompt-tokens", type=_ids, metavar="ID,…", help="or as token ids, where the engine takes them; - likewise"
    )


def add(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    """Declare all of them but the prompt; what is not given keeps the request's default."""
    asked = parser.add_argument_group("the request")
    asked.add_argument("--max-tokens", type=int, default=max_tokens)
    quiet: Any = {"default": argparse.SUPPRESS}
    for name, (kind, text) in NUMBERS.items():
        asked.add_argument(_flag(name), type=kind, metavar="NUMBER", help=text, **quiet)
    asked.add_argument("--stop", action="append", help="a stop string; up to four times", **quiet)
    asked.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for all attempts together", **quiet)
    asked.add_argument("--deadline-at", type=_point, metavar="TIME", help=DEADLINE_AT, **quiet)
    for name, enum in ENUMS.items():
        asked.add_argument(_flag(name), choices=[str(member) for member in enum], **quiet)
    for name in ("ignore_eos", "return_token_ids"):
        asked.add_argument(_flag(name), action="store_true", **quiet)
    for name, text in TEXTS.items():
        asked.add_argument(_flag(name), metavar="TEXT", help=text, **quiet)
    asked.add_argument(
        "--engine-option",
        dest="engine_options",
        type=assignment,
        action="append",
        metavar="NAME=JSON",
        help="an option that only this engine knows; may be given several times",
        **quiet,
    )


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in (read_input() if text == "-" else text).replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no list of token ids such as 1,15043,3186") from None


def _point(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()  # without a zone: this machine's
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no point in time: Unix seconds, or such as 2026-11-27T13:00:00Z"
        ) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _typed(text: Any) -> Any:
    """What was typed is UTF-8, also where the locale (LC_ALL=C) has made halves of surrogate pairs of its bytes."""
    if isinstance(text, list):
        return [_typed(each) for each in text]
    try:
        return text if text.isascii() else os.fsencode(text).decode("utf-8", "replace")
    except UnicodeEncodeError:  # characters that nobody can type: who judges the request says so
        return text


def request(args: argparse.Namespace, **changes: Any) -> GenerateRequest:
    """What was asked for; the prompt `-` is read from standard input."""
    names = {field.name for field in attrs.fields(GenerateRequest)} - {"model"}  # --model is the adapter's
    given = {name: value for name, value in vars(args).items() if name in names}
    if given.get("prompt_tokens") is None:
        given.pop("prompt_tokens", None)
    if given.get("prompt") == "-":
        given["prompt"] = args.prompt = read_input()
    given |= {name: _typed(given[name]) for name in ("prompt", "stop") if given.get(name)}
    if "engine_options" in given:
        given["engine_options"] = dict(given["engine_options"])
    if "json_schema" in given:
        try:
            given["json_schema"] = json.loads(given["json_schema"])
        except ValueError as error:
            raise ValueError(f"--json-schema: {error}") from None
    return GenerateRequest(**(given | changes))
