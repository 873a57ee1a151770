"""A dialect of a third party: what ARCHITECTURE.md, "Add an engine", promises. Everything it takes is in this file."""

from __future__ import annotations

import json
from pathlib import Path

from worker_adapters import Features, FinishReason, Properties, Reason, Token, Upstream, UsageSource, connect
from worker_adapters.determinism import sampling_fields
from worker_adapters.dialect import (
    Dialect,
    Fault,
    Finished,
    HealthFacts,
    Knob,
    Opened,
    Profile,
    Traits,
    WireRequest,
    WorkerFacts,
    fault_of_status,
)
from worker_adapters.testing import EngineSuite, Transcripts

PROFILE = Profile(
    knobs=(
        Knob(field="max_tokens", wire="max_new"),
        Knob(field="seed", wire="seed"),
        Knob(field="temperature", wire="temp", neutral=1.0),
        Knob(field="top_p", wire="p", neutral=1.0),
        Knob(field="top_k", wire="k", neutral=0),
        Knob(field="repetition_penalty", wire="rep", neutral=1.0),
        Knob(field="presence_penalty", wire="pres", neutral=0.0),
        Knob(field="frequency_penalty", wire="freq", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
    )
)
REASONS = {"busy": Reason.OVERLOADED, "bad": Reason.VALIDATION}


def fault(error, status=None):
    upstream = Upstream(status=status, type=error["kind"], message=error["text"])
    return Fault(REASONS.get(error["kind"], Reason.ENGINE_ERROR), error["text"], upstream=upstream)


def encode(request, /, *, attempt):
    body = {"input": request.prompt, **sampling_fields(PROFILE, request)}
    return WireRequest(method="POST", target="/stream", body=json.dumps(body).encode())


def decode(batches, /, *, request, tally):
    index, opened = 0, False
    for batch in batches:
        run = []
        try:
            for payload in batch:
                try:
                    event = json.loads(payload)
                except (TypeError, ValueError) as exc:
                    raise Fault(Reason.PROTOCOL, f"not JSON: {exc}") from exc
                if "error" in event:
                    raise fault(event["error"])
                if not opened:
                    opened = True
                    run.append(Opened())
                if event.get("piece"):
                    run.append(Token(index=index, text=event["piece"]))
                    index += 1
                tally.tokens_out, tally.usage_source = event["count"], UsageSource.ENGINE
                if "why" in event:
                    run.append(Finished(finish_reason=FinishReason(event["why"]), finish_reason_raw=event["why"]))
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run


def parse_error(reply):
    try:
        return fault(json.loads(reply.body)["error"], reply.status)
    except (ValueError, TypeError, LookupError):
        return fault_of_status("mine", reply)


def identify(_target):
    reply = yield WireRequest(target="/about")
    return Properties(engine="mine", observed_at=0.0, engine_version=json.loads(reply.body)["version"])


def properties(target):
    return WorkerFacts(properties=(yield from identify(target)))


def health(_target):
    reply = yield WireRequest(target="/about")
    return HealthFacts(ready=reply.status == 200, detail="ok" if reply.status == 200 else parse_error(reply).message)


DIALECT = Dialect(
    name="mine", encode=encode, decode=decode, parse_error=parse_error, health=health, properties=properties,
    identify=identify, features=Features(), traits=Traits(keep_alive=0.0), profile=PROFILE,
)  # fmt: skip


class TestMine(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(Path(__file__).parent / "transcripts" / "mine" / "1")


def test_the_worked_example_is_as_short_as_promised():
    source = Path(__file__).read_text(encoding="utf-8")
    dialect = source[source.index("PROFILE =") : source.index("class TestMine")]
    assert len(dialect.splitlines()) < 100
    assert connect(DIALECT, "http://127.0.0.1:9").features == DIALECT.features
