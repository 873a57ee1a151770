"""The mock's wire, the client's side: `POST /generate` answered with events of small JSON objects.

`{"t": text, "n": tokens so far, "ids": […]}` … `{"end": "stop" | "length", "n": …, "in": …}`, or `{"error": {"kind": …,
"message": …}}` in a reply or an event; `kind` is a Reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...answers import Id, json_of
from ...api import FinishReason, GenerateRequest, Properties, Reason, Token, Upstream, UsageSource
from ...determinism import sampling_fields
from ...dialect import (
    Fault,
    Finished,
    HealthFacts,
    Knob,
    Opened,
    Payload,
    Probe,
    ProbeTarget,
    Profile,
    Reply,
    Run,
    Tally,
    WireRequest,
    WorkerFacts,
    fault_of_status,
)
from ...lenient import count

__all__ = [
    "PROFILE",
    "apply_template",
    "decode",
    "detokenize",
    "encode",
    "health",
    "identify",
    "parse_error",
    "properties",
    "tokenize",
]

JSON = {"Content-Type": "application/json"}

PROFILE = Profile(
    knobs=(
        Knob(field="max_tokens", wire="max_tokens"),
        Knob(field="seed", wire="seed"),
        Knob(field="temperature", wire="temperature", neutral=1.0),
        Knob(field="top_p", wire="top_p", neutral=1.0),
        Knob(field="top_k", wire="top_k", neutral=0),
        Knob(field="min_p", wire="min_p", neutral=0.0),
        Knob(field="repetition_penalty", wire="repetition_penalty", neutral=1.0),
        Knob(field="presence_penalty", wire="presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="frequency_penalty", neutral=0.0),
        Knob(field="stop", wire="stop", neutral=()),
        Knob(field="ignore_eos", wire="ignore_eos", neutral=False),
    )
)


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`POST /generate`."""
    body: dict[str, Any] = {
        "prompt": request.prompt if request.prompt_tokens is None else list(request.prompt_tokens),
        **sampling_fields(PROFILE, request),
        "rate": request.engine_options.get("rate"),
        "fault": request.engine_options.get("fault"),
        "attempt": attempt,
        **request.engine_options.get("unchecked", {}),
    }
    return WireRequest(method="POST", target="/generate", headers=JSON, body=msgspec.json.encode(body))


class _Error(msgspec.Struct):
    kind: str = Reason.ENGINE_ERROR
    message: str = ""


class _Event(msgspec.Struct, gc=False):
    t: str = ""
    n: Any = None
    ids: Any = None
    tokens_in: Any = msgspec.field(name="in", default=None)
    end: str | None = None
    stop_text: str | None = None
    error: _Error | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
ENDS = frozenset({"stop", "length"})


def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    """Events until `end`."""
    index, opened = 0, False
    for batch in batches:
        run: Run = []
        try:
            for payload in batch:
                data = payload if isinstance(payload, bytes) else payload.data
                if not data:
                    continue
                event = _parse(data)
                if not opened:
                    opened = True
                    run.append(Opened(tokens_in=count(event.tokens_in)))
                _count(event, tally)
                if event.t:
                    run.append(Token(index=index, text=event.t, token_ids=_ids(event, request)))
                    index += 1
                if event.end:
                    run.append(_finished(event, request))
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run


def _count(event: _Event, tally: Tally) -> None:
    if (tokens_out := count(event.n)) is not None:
        tally.tokens_out, tally.usage_source = tokens_out, UsageSource.ENGINE
    elif event.t and tally.usage_source is not UsageSource.ENGINE:
        tally.tokens_out += 1
    tally.tokens_in = count(event.tokens_in) or tally.tokens_in


def _ids(event: _Event, request: GenerateRequest) -> tuple[int, ...] | None:
    if not request.return_token_ids:
        return None
    ids = event.ids if event.ids is not None else []
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise Fault(Reason.PROTOCOL, "the mock sent ids that are no list of numbers")
    return tuple(ids)


def _parse(data: bytes) -> _Event:
    try:
        event = _decode_event(data)
    except ValueError as exc:
        raise Fault(Reason.PROTOCOL, f"the mock sent an event that is not its JSON: {exc}") from exc
    if event.error is not None:
        raise _fault(event.error, None)
    return event


def _finished(event: _Event, request: GenerateRequest) -> Finished:
    if event.end not in ENDS:
        raise Fault(Reason.PROTOCOL, f"the mock sent an end that is none of its own: {event.end}")
    return Finished(
        finish_reason=FinishReason(str(event.end)),
        finish_reason_raw=event.end,
        stop_text=event.stop_text,
        token_ids_tail=() if event.t else _ids(event, request),
        token_ids_complete=request.return_token_ids,
    )


def _fault(error: _Error, status: int | None) -> Fault:
    reason = Reason(error.kind) if error.kind in Reason.__members__ else Reason.ENGINE_ERROR
    return Fault(reason, error.message, upstream=Upstream(status=status, type=error.kind, message=error.message))


class _ErrorBody(msgspec.Struct):
    error: _Error


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream."""
    try:
        error = msgspec.json.decode(reply.body, type=_ErrorBody).error
    except ValueError:
        return fault_of_status("the mock", reply)
    return _fault(error, reply.status)


class _Ids(msgspec.Struct):
    ids: list[Id]


class _Text(msgspec.Struct):
    text: str


def _ask(path: str, body: Mapping[str, Any] | None = None, kind: Any = Any) -> Probe[Any]:
    wire = WireRequest(target=path)
    if body is not None:
        wire = WireRequest(method="POST", target=path, headers=JSON, body=msgspec.json.encode(body))
    reply = yield wire
    if reply.status != 200:
        raise parse_error(reply)
    return json_of(reply.body, kind)


def health(_target: ProbeTarget) -> Probe[HealthFacts]:
    """`/health`."""
    reply = yield WireRequest(target="/health")
    if reply.status == 200:
        return HealthFacts(ready=True, detail="ok")
    return HealthFacts(ready=False, detail=parse_error(reply).message)


def identify(_target: ProbeTarget) -> Probe[Properties]:
    """`/properties` has it all."""
    return Properties(engine="mock", observed_at=0.0, **(yield from _ask("/properties")))


def properties(target: ProbeTarget) -> Probe[WorkerFacts]:
    """`/properties`."""
    return WorkerFacts(properties=(yield from identify(target)))


def tokenize(text: str, _add_special: bool, _target: ProbeTarget) -> Probe[tuple[int, ...]]:
    """`/tokenize`: a token per byte."""
    return tuple((yield from _ask("/tokenize", {"text": text}, _Ids)).ids)


def detokenize(token_ids: Sequence[int], _target: ProbeTarget) -> Probe[str]:
    """`/detokenize`."""
    told: _Text = yield from _ask("/detokenize", {"ids": list(token_ids)}, _Text)
    return told.text


def apply_template(messages: Sequence[Mapping[str, Any]], _target: ProbeTarget) -> Probe[str]:
    """`/template`."""
    told: _Text = yield from _ask("/template", {"messages": list(messages)}, _Text)
    return told.text
