"""The options of `GenerateRequest` on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import attrs

from worker_adapters import DeterminismLevel, GenerateRequest, OnDegraded, Priority

from .output import read_input
from .parsing import assignment, seconds

__all__ = ["add", "request"]

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
    "json_schema": "what the text must be, as JSON Schema",
    "regex": "or as a regular expression",
    "grammar": "or as a grammar, each where the engine has it",
    "session_id": "a label of logs",
    "correlation_id": "another",
    "task_id": "a name for the stream; must be unique",
}
ENUMS: Mapping[str, type[StrEnum]] = {"determinism": DeterminismLevel, "on_degraded": OnDegraded, "priority": Priority}


def add(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    """Declare all of them but --prompt; what is not given keeps the request's default."""
    asked = parser.add_argument_group("the request")
    asked.add_argument("--max-tokens", type=int, default=max_tokens)
    quiet: Any = {"default": argparse.SUPPRESS}
    for name, (kind, text) in NUMBERS.items():
        asked.add_argument(_flag(name), type=kind, metavar="NUMBER", help=text, **quiet)
    asked.add_argument("--stop", action="append", help="a stop string; up to four times", **quiet)
    asked.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for all attempts together", **quiet)
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


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def request(args: argparse.Namespace, **changes: Any) -> GenerateRequest:
    """What was asked for; the prompt `-` is read from standard input."""
    names = {field.name for field in attrs.fields(GenerateRequest)} - {"model"}  # --model is the adapter's
    given = {name: value for name, value in vars(args).items() if name in names}
    if given.get("prompt") == "-":
        given["prompt"] = args.prompt = read_input()
    if "engine_options" in given:
        given["engine_options"] = dict(given["engine_options"])
    if "json_schema" in given:
        given["json_schema"] = json.loads(given["json_schema"])
    return GenerateRequest(**(given | changes))
