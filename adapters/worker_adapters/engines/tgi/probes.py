"""Probes: health, properties, version, and the tokenizer routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from ...answers import Answers, Id
from ...api import Properties, Reason
from ...dialect import Fault, HealthFacts, Probe, ProbeTarget, WireRequest, WorkerFacts
from ...exposition import samples
from ...hidden import HIDDEN, unfit_if_hidden
from ...lenient import mapped
from .errors import parse_error
from .request import JSON

__all__ = ["apply_template", "health", "identify", "properties", "tokenize"]

NAME = "tgi"
ANSWERS = Answers(parse_error, "a TGI")
QUEUED, RUNNING = "tgi_queue_size", "tgi_batch_current_size"
USED, BUDGET = "tgi_batch_current_max_tokens", "tgi_batch_max_total_tokens"


class _Token(msgspec.Struct):
    id: Id


class _Templated(msgspec.Struct):
    templated_text: str


def health(_target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`: asks the device while all is well, and prefills one token after an error. 503: unhealthy.

    A server that is loading refuses connections: its port opens after the warm-up. No key is asked for by either this or
    `/info`, which tells whose server it is; so the tokenizer is, which costs next to nothing.
    """
    reply = yield WireRequest(target="/health")
    if reply.status != 200:
        return HealthFacts(ready=False, detail=parse_error(reply).message)
    if reply.body:  # a web server's page, say: TGI's own answer is empty
        return HealthFacts(ready=False, detail="/health did not answer as TGI does: is this its base URL?")
    reply = yield WireRequest(target="/info")
    if reply.status in HIDDEN:
        unfit = yield from unfit_if_hidden("/generate_stream", "/info")
        return HealthFacts(ready=not unfit, detail=unfit or "ok (/info is hidden)")
    try:
        if not isinstance(mapped(ANSWERS.read(reply, "/info")).get("model_id"), str):
            return HealthFacts(ready=False, detail="/info did not answer as TGI does: is this its base URL?")
    except Fault as fault:
        return HealthFacts(ready=False, detail=fault.message)
    reply = yield WireRequest(method="POST", target="/tokenize", headers=JSON, body=b'{"inputs":"a"}')
    if reply.status in (401, 403):
        return HealthFacts(ready=False, detail=parse_error(reply).message)
    return HealthFacts(ready=True, detail="ok")


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/info` and `/metrics`, neither of which has side effects."""
    info = yield from _info()
    against = []
    if target.model is not None and target.model != info["model_id"]:
        against.append(f"the server has the model {info['model_id']}, not {target.model}")
    total = info.get("max_concurrent_requests")
    gauges = yield from _gauges()
    if gauges is None:
        return WorkerFacts(properties=_identity(info), against_strict=tuple(against))
    queued, running = int(gauges.get(QUEUED, 0)), int(gauges.get(RUNNING, 0))
    budget = gauges.get(BUDGET)
    return WorkerFacts(
        properties=attrs.evolve(
            _identity(info),
            slots_free=None if total is None else max(0, total - queued - running),
            queue_depth=queued,
            # What the running batch may grow to, of what there is: TGI counts its cache by tokens promised.
            kv_usage=gauges.get(USED, 0.0) / budget if budget else None,
        ),
        against_strict=tuple(against),
    )


def _gauges() -> Probe[Mapping[str, float] | None]:
    """The gauges that there are: one that was never set is not on the page, and stands for 0."""
    reply = yield WireRequest(target="/metrics")
    if reply.status != 200:  # shut off by a proxy, say
        return None
    return {sample.name: sample.value for sample in samples(reply.body, {QUEUED, RUNNING, USED, BUDGET})}


def identify(_target: ProbeTarget) -> Probe[Properties]:
    """`/info`: version and model."""
    return _identity((yield from _info()))


def _info() -> Probe[Mapping[str, Any]]:
    info: Mapping[str, Any] = yield from ANSWERS.ask(WireRequest(target="/info"))
    return info


def _identity(info: Mapping[str, Any]) -> Properties:
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=_version(info),
        model=info["model_id"],
        model_digest=info.get("model_sha"),
        context_length=info.get("max_total_tokens"),
        slots_total=info.get("max_concurrent_requests"),
    )


def _version(info: Mapping[str, Any]) -> str:
    """Version and build: tags v3.3.6 and v3.3.7 and what came after them all say "3.3.6-dev0"."""
    build = info.get("docker_label") or (f"sha-{info['sha'][:7]}" if info.get("sha") else "")
    version: str = info["version"]
    return f"{version}+{build}" if build else version


def tokenize(text: str, add_special: bool, _target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/tokenize`, which adds special tokens always."""
    if not add_special:
        raise Fault(Reason.UNSUPPORTED, "TGI's /tokenize adds special tokens always: add_special=False can't be had")
    tokens: list[_Token] = yield from ANSWERS.post("/tokenize", {"inputs": text}, list[_Token])
    return tuple(token.id for token in tokens)


def apply_template(messages: Sequence[Mapping[str, Any]], _target: ProbeTarget) -> Probe[str]:
    """`/chat_tokenize`: the prompt that the model's own chat template makes."""
    body = {"model": NAME, "messages": list(messages)}  # any other name would be a LoRA adapter's
    templated: _Templated = yield from ANSWERS.post("/chat_tokenize", body, _Templated)
    return templated.templated_text
