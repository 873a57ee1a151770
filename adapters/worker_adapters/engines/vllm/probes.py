"""Probes: health, properties, version, and the tokenizer routes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec

from ...answers import Answers, Tokens
from ...api import Properties
from ...dialect import Fault, HealthFacts, Pause, Probe, ProbeTarget, WireRequest, WorkerFacts
from ...hidden import HIDDEN, unfit_if_hidden
from ...lenient import listed, mapped, told
from .errors import parse_error
from .gauges import NO_GAUGES, Gauges, read_gauges

__all__ = ["detokenize", "health", "identify", "properties", "tokenize"]

NAME = "vllm"
ANSWERS = Answers(parse_error, "a vLLM")
OTHERS = frozenset({"llamacpp", "sglang", "tensorrt_llm"})  # as `owned_by`; TGI gives the model's own name
MOST_SHOWN = 300  # characters
# Seconds between two looks at the heartbeat. A step of a large model takes some 50 ms, of a long prompt about a second.
LOOKS = (0.1, 0.4, 1.0, 2.0)


class _Prompt(msgspec.Struct):
    prompt: str


def _metrics() -> Probe[Gauges]:
    """`/metrics`, which has nothing to say with --disable-log-stats, and may be shut off by a proxy."""
    reply = yield WireRequest(target="/metrics")
    return read_gauges(reply.body) if reply.status == 200 else NO_GAUGES


def health(target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`: 200 also of an engine that sleeps or hangs, and without a key. Deep: its sleep state and heartbeat too.

    So `/v1/models` is asked too: it needs the key, and tells whose server it is and which models a request may name. A
    server that is loading refuses connections.
    """
    reply = yield WireRequest(target="/health")
    if reply.status != 200:
        return HealthFacts(
            ready=False, detail="the engine is dead" if reply.status == 503 else parse_error(reply).message
        )
    if reply.body.strip():  # of another engine, or a web server's page: vLLM's own is empty
        return HealthFacts(ready=False, detail="/health did not answer as vLLM does: is this its base URL?")
    if unfit := (yield from _unfit(target)):
        return HealthFacts(ready=False, detail=unfit)
    if not target.deep:
        return HealthFacts(ready=True, detail="ok")
    return (yield from _vital_signs())


def _unfit(target: ProbeTarget) -> Probe[str]:
    """What rules out that a request would be taken: the key is refused, the engine is another, the model is not there."""
    reply = yield WireRequest(target="/v1/models")
    if reply.status in HIDDEN:
        return (yield from unfit_if_hidden("/v1/completions", "/v1/models"))
    try:
        models = listed(mapped(ANSWERS.read(reply, "/v1/models")).get("data"))
    except Fault as fault:
        return fault.message
    cards = [mapped(model) for model in models]
    if any(card.get("owned_by") in OTHERS or card.get("owned_by") == card.get("id") for card in cards):
        return f"the server is no vLLM: its models are owned by {told(cards[0].get('owned_by')) or 'another'}"
    names = [str(card.get("id")) for card in cards]
    if target.model is not None and target.model not in names:
        return f"the model {target.model} is not among those that are served: {', '.join(names)[:MOST_SHOWN] or 'none'}"
    return ""


def _vital_signs() -> Probe[HealthFacts]:
    """An engine at work has to have stepped since the last look; one that is idle may stand still."""
    first = yield from _metrics()
    if first.asleep:
        return HealthFacts(ready=False, detail=f"asleep ({', '.join(sorted(set(first.asleep)))})")
    still = {engine: steps for engine, steps in first.steps.items() if first.running.get(engine)}
    for seconds in LOOKS:
        if not still:
            return HealthFacts(ready=True, detail="ok")
        yield Pause(seconds)
        now = yield from _metrics()
        still = {e: steps for e, steps in still.items() if now.running.get(e) and now.steps.get(e) == steps}
    if not still:
        return HealthFacts(ready=True, detail="ok")
    running = sum(first.running[engine] for engine in still)
    return HealthFacts(
        ready=False, detail=f"hung: {running:g} requests are running, and not a step was made in {sum(LOOKS):g} s"
    )


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/version`, `/v1/models` and `/metrics`, none of which has side effects."""
    identity = yield from identify(target)
    gauges = yield from _metrics()
    against = []
    if gauges.speculative:
        against.append("speculative decoding is on")
    elif not gauges.steps:
        against.append("/metrics does not say whether speculative decoding is on")
    total = gauges.capacity
    running = gauges.total_running
    return WorkerFacts(
        properties=attrs.evolve(
            identity,
            slots_total=total,
            slots_free=None if total is None or running is None else max(0, total - running),
            queue_depth=gauges.total_waiting,
            kv_usage=gauges.kv_usage,
        ),
        against_strict=tuple(against),
    )


def identify(target: ProbeTarget) -> Probe[Properties]:
    """`/version` and `/v1/models`: the model asked for, else the one that adapters (LoRA) are of."""
    version = (yield from ANSWERS.ask(WireRequest(target="/version")))["version"]
    models = (yield from ANSWERS.ask(WireRequest(target="/v1/models")))["data"]
    base = next((model for model in models if model.get("parent") is None), models[0])
    mine = next((model for model in models if model["id"] == target.model), base)
    return Properties(
        engine=NAME,
        observed_at=0.0,
        engine_version=version,
        model=mine["id"],
        context_length=mine.get("max_model_len") or base.get("max_model_len"),
    )


def tokenize(text: str, add_special: bool, target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/tokenize`."""
    body = {"prompt": text, "add_special_tokens": add_special}
    return tuple((yield from ANSWERS.post("/tokenize", body, Tokens, model=target.model)).tokens)


def detokenize(token_ids: Sequence[int], target: ProbeTarget) -> Probe[str]:
    """`/detokenize`; ids that are not in the vocabulary are nothing (detokenize_out_of_vocab)."""
    prompt: str = (
        yield from ANSWERS.post("/detokenize", {"tokens": list(token_ids)}, _Prompt, model=target.model)
    ).prompt
    return prompt
