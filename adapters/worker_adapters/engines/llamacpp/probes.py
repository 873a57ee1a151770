"""Probes: health, properties, version, and the tokenizer routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import attrs
import msgspec

from ...answers import Answers, Tokens, json_of
from ...api import Properties
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, WireRequest, WorkerFacts
from ...exposition import samples
from ...hidden import HIDDEN, unfit_if_hidden
from ...lenient import mapped
from .errors import parse_error

__all__ = ["apply_template", "detokenize", "health", "identify", "properties", "tokenize"]

NAME = "llamacpp"
ANSWERS = Answers(parse_error, "a llama-server")
DEFERRED = "llamacpp:requests_deferred"
MOST_SHOWN = 200  # characters


def _get(path: str, target: ProbeTarget) -> WireRequest:
    # A router picks the model of a GET by its query; a server with one model ignores it.
    query = "" if target.model is None else f"?model={quote(target.model, safe='')}"
    return WireRequest(target=path + query)


class _Content(msgspec.Struct):
    content: str


class _Prompt(msgspec.Struct):
    prompt: str


def health(target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`: 503 while loading. It never touches the engine's loop, so 200 does not mean that tokens will flow.

    It asks for no key; `/props` does, and is llama-server's own. It does not wake a server that sleeps.
    """
    reply = yield WireRequest(target="/health")
    if reply.status != 200:
        return HealthFacts(ready=False, detail=parse_error(reply).message)
    try:
        status = json_of(reply.body)["status"]
    except (ValueError, LookupError, TypeError):  # a web server's page, say
        return HealthFacts(ready=False, detail="/health did not answer as llama-server does: is this its base URL?")
    if status != "ok":
        return HealthFacts(ready=False, detail=str(status)[:MOST_SHOWN])
    reply = yield _get("/props", target)
    if reply.status in HIDDEN:
        unfit = yield from unfit_if_hidden("/completion", "/props")
        return HealthFacts(ready=not unfit, detail=unfit or "ok (/props is hidden)")
    try:
        props = mapped(ANSWERS.read(reply, "/props"))
    except Fault as fault:
        return HealthFacts(ready=False, detail=fault.message)
    if {"role", "build_info", "total_slots", "default_generation_settings"}.isdisjoint(props):
        return HealthFacts(ready=False, detail="/props did not answer as llama-server does: is this its base URL?")
    return HealthFacts(ready=True, detail="ok")


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/props`, then `/slots` unless the server sleeps (it would wake), and `/metrics` only if a scrape was asked for."""
    props = yield from ANSWERS.ask(_get("/props", target))
    if props.get("role") == "router":
        return WorkerFacts(
            properties=_identity(props),
            against_strict=("the server is a router: name one of its models with connect(model=…)",),
        )
    against = []
    slots: list[dict[str, Any]] = []
    if not props.get("is_sleeping") and props.get("endpoint_slots", True):
        slots = yield from ANSWERS.ask(_get("/slots", target))
    gauges: dict[str, int] = {}
    if target.scrape and props.get("endpoint_metrics"):
        gauges = yield from _gauges(target)
    total = props.get("total_slots")
    if total != 1:
        against.append(
            f"the server has {total} slots: what runs beside a request changes its batches (start it with -np 1)"
        )
    if any(slot.get("speculative") for slot in slots):
        against.append("speculative decoding is on")
    return WorkerFacts(
        properties=attrs.evolve(
            _identity(props),
            slots_free=sum(not slot["is_processing"] for slot in slots) if slots else None,
            queue_depth=gauges.get(DEFERRED),
        ),
        against_strict=tuple(against),
    )


def _gauges(target: ProbeTarget) -> Probe[dict[str, int]]:
    """Those that scraping does not reset (tokens-per-second ones are reset by every scrape)."""
    reply = yield _get("/metrics", target)
    if reply.status != 200:
        raise parse_error(reply)
    return {sample.name: int(sample.value) for sample in samples(reply.body, {DEFERRED})}


def identify(target: ProbeTarget) -> Probe[Properties]:
    """`/props`: build_info and the model, which a router has not."""
    return _identity((yield from ANSWERS.ask(_get("/props", target))))


def _identity(props: Mapping[str, Any]) -> Properties:
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=props.get("build_info"),
        model=None if props.get("role") == "router" else props.get("model_alias") or props.get("model_path"),
        context_length=props.get("default_generation_settings", {}).get("n_ctx") or None,
        slots_total=props.get("total_slots"),
    )


def tokenize(text: str, add_special: bool, target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/tokenize`; special tokens in the text are parsed, as they are in prompts."""
    body = {"content": text, "add_special": add_special}
    return tuple((yield from ANSWERS.post("/tokenize", body, Tokens, model=target.model)).tokens)


def detokenize(token_ids: Sequence[int], target: ProbeTarget) -> Probe[str]:
    """`/detokenize`."""
    text: str = (
        yield from ANSWERS.post("/detokenize", {"tokens": list(token_ids)}, _Content, model=target.model)
    ).content
    return text


def apply_template(messages: Sequence[Mapping[str, Any]], target: ProbeTarget) -> Probe[str]:
    """`/apply-template`: the prompt that the model's own chat template makes."""
    prompt: str = (
        yield from ANSWERS.post("/apply-template", {"messages": list(messages)}, _Prompt, model=target.model)
    ).prompt
    return prompt
