"""Probes: health, properties, version, and the tokenizer routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from ...answers import Answers, Tokens
from ...api import Properties
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, WireRequest, WorkerFacts
from ...exposition import samples
from ...lenient import count, listed, mapped, shown, told
from ...wordings import error_body
from .errors import parse_error
from .profile import PROFILE

__all__ = ["NAME", "detokenize", "health", "identify", "properties", "tokenize"]

NAME = "sglang"
ANSWERS = Answers(parse_error, "an SGLang")
RUNNING, WAITING, USAGE = "sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"
PINNED = frozenset(knob.wire for knob in PROFILE.knobs if knob.neutral is not None)  # a null is not always heard
_GAUGES = frozenset({RUNNING, WAITING, USAGE})


class _Text(msgspec.Struct):
    text: str


def _info(name: str) -> Probe[Mapping[str, Any]]:
    """`/server_info` or `/model_info`, which were called `/get_…` until 0.5.4."""
    reply = yield WireRequest(target=f"/{name}")
    if reply.status == 404:
        reply = yield WireRequest(target=f"/get_{name}")
    return mapped(ANSWERS.read(reply, f"/{name}"))


def health(target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`, then `/model_info`, which is SGLang's own and asks for the key. Deep: `/health_generate`.

    Either makes a token if nothing runs, and takes a second; /health does not where the server's environment says so
    (SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0).
    """
    reply = yield WireRequest(target="/health_generate" if target.deep else "/health")
    if reply.status != 200:
        empty = reply.status == 503 and not reply.body.strip()
        detail = "it starts, or its engine does not answer" if empty else parse_error(reply).message
        return HealthFacts(ready=False, detail=detail)
    try:
        info = yield from _info("model_info")
    except Fault as fault:
        return HealthFacts(ready=False, detail=fault.message)
    if "model_path" not in info:
        return HealthFacts(ready=False, detail="/model_info does not name a model: is this an SGLang?")
    if info.get("is_generation") is False:
        return HealthFacts(ready=False, detail="its model makes embeddings, no text")
    return HealthFacts(ready=True, detail="ok")


def identify(_target: ProbeTarget) -> Probe[Properties]:
    """`/server_info`: version, model, and the context where it was set."""
    return _identity((yield from _info("server_info")))


def _identity(info: Mapping[str, Any]) -> Properties:
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=told(info.get("version")),
        model=told(info.get("served_model_name")) or told(info.get("model_path")),
        context_length=count(info.get("context_length")) or None,
    )


def properties(_target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/server_info` and `/v1/loads`; `/metrics` where there is no such page. The context is a model card's."""
    info = yield from _info("server_info")
    identity = _identity(info)
    if identity.context_length is None:
        reply = yield WireRequest(target="/v1/models")
        if reply.status == 200:
            cards = map(mapped, listed(mapped(ANSWERS.read(reply, "/v1/models")).get("data")))
            lengths = [found for card in cards if (found := count(card.get("max_model_len")))]
            identity = attrs.evolve(identity, context_length=lengths[0] if lengths else None)
    running, waiting, slots, usage = yield from _load()
    slots = slots or count(info.get("max_running_requests"))
    return WorkerFacts(
        properties=attrs.evolve(
            identity,
            slots_total=slots,
            slots_free=None if slots is None or running is None else max(0, slots - running),
            queue_depth=waiting,
            kv_usage=usage,
        ),
        against_strict=tuple(_against(info)),
    )


def _against(info: Mapping[str, Any]) -> list[str]:
    reasons = []
    if info.get("enable_deterministic_inference") is not True:
        reasons.append(
            "the server runs without --enable-deterministic-inference: what runs beside a request changes it, and its"
            " seed is not read"
        )
    if info.get("speculative_algorithm"):
        reasons.append("speculative decoding is on")
    if leaking := sorted(set(_preferred(info.get("preferred_sampling_params"))) - PINNED):
        reasons.append(f"the server's --preferred-sampling-params set {', '.join(map(shown, leaking))}")
    return reasons


def _preferred(given: object) -> Mapping[str, Any]:
    """An object, or the JSON of one, as it was given on the command line."""
    if isinstance(given, str):
        return error_body(given.encode("utf-8", "replace"))
    return mapped(given)


def _load() -> Probe[tuple[int | None, int | None, int | None, float | None]]:
    """Running, waiting, the most that may run, and the share of the KV cache in use, of all its engines."""
    reply = yield WireRequest(target="/v1/loads?include=core")
    if reply.status == 200:
        loads = [mapped(one) for one in listed(mapped(ANSWERS.read(reply, "/v1/loads")).get("loads"))]
        if loads:
            usages = [one["token_usage"] for one in loads if type(one.get("token_usage")) in (int, float)]
            return (
                _sum(loads, "num_running_reqs"),
                _sum(loads, "num_waiting_reqs"),
                _sum(loads, "max_running_requests") or None,
                sum(usages) / len(usages) if usages else None,
            )
    reply = yield WireRequest(target="/metrics")
    found: dict[str, list[float]] = {}
    for sample in samples(reply.body, _GAUGES) if reply.status == 200 else ():
        found.setdefault(sample.name, []).append(sample.value)
    running, waiting, shares = (found.get(name, []) for name in (RUNNING, WAITING, USAGE))
    return (
        int(sum(running)) if running else None,
        int(sum(waiting)) if waiting else None,
        None,
        sum(shares) / len(shares) if shares else None,
    )


def _sum(loads: Sequence[Mapping[str, Any]], name: str) -> int | None:
    values = [found for one in loads if (found := count(one.get(name))) is not None]
    return sum(values) if values else None


def tokenize(text: str, add_special: bool, _target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/tokenize`."""
    return tuple(
        (yield from ANSWERS.post("/tokenize", {"prompt": text, "add_special_tokens": add_special}, Tokens)).tokens
    )


def detokenize(token_ids: Sequence[int], _target: ProbeTarget) -> Probe[str]:
    """`/detokenize`, special tokens with it, as they stand."""
    body = {"tokens": list(token_ids), "skip_special_tokens": False}
    text: str = (yield from ANSWERS.post("/detokenize", body, _Text)).text
    return text
