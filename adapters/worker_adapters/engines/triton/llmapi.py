"""TensorRT-LLM's LLM API (PyTorch) backend for Triton: `sampling_param_*`, and the whole text again in each event."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import attrs

from ...api import Features, GenerateRequest, Reason
from ...determinism import TextAssembler, sampling_fields
from ...dialect import CancelNotice, Dialect, Fault, Knob, Profile, Reply, Traits, WireRequest
from .errors import not_a_stream, parse_error
from .probes import NAME, health, identify, properties
from .request import UNSAFE, against_unchecked, post, refuse_missing, wire_id
from .routes import model_path
from .stream import Grow, Piece, appended, decode, replaced, shown

__all__ = ["LLMAPI", "fitted", "is_mine"]

MODEL = "tensorrt_llm"
NO_ECHO = "sampling_param_exclude_input_from_output"
CUMULATIVE, DELTA = "cumulative", "delta"

PROFILE = Profile(
    version="v1",
    knobs=(
        Knob(field="max_tokens", wire="sampling_param_max_tokens", note="unset would be 32"),
        Knob(field="seed", wire="sampling_param_seed"),
        Knob(field="temperature", wire="sampling_param_temperature", neutral=1.0, greedy=1.0),
        Knob(field="top_k", wire="sampling_param_top_k", neutral=0, greedy=1),
        Knob(field="top_p", wire="sampling_param_top_p", neutral=1.0, greedy=1.0),
        Knob(field="presence_penalty", wire="sampling_param_presence_penalty", neutral=0.0),
        Knob(field="frequency_penalty", wire="sampling_param_frequency_penalty", neutral=0.0),
        Knob(
            field="stop",
            wire="sampling_param_stop",
            neutral=(),
            absent="a tensor of no element is an input nevertheless",
        ),
        Knob(wire="sampling_param_best_of", neutral=1),
        Knob(wire=NO_ECHO, neutral=True, note="unset, the prompt would stand in front of the text"),
    ),
)
REASON = "return_finish_reason"
OUTPUTS = {"streaming": True, REASON: True, "return_stop_reason": True}


def is_mine(inputs: Collection[str]) -> bool:
    """Whether a model with these inputs speaks this dialect."""
    return {"text_input", "sampling_param_max_tokens"} <= {*inputs}


def mode(request: GenerateRequest, *, echoes: bool = False) -> Grow:
    """How the text grows: by engine_options["text"], or as the second event shows.

    Known releases repeat the whole text; one of April 2026 may not. A second text that does not begin with the first is
    the second of a stream of deltas. `echoes`: the prompt stands in front of the text, and is cut off.
    """
    told = request.engine_options.get("text")
    if told == DELTA:
        return appended(request)
    grow, whole = replaced(request), told == CUMULATIVE
    known: list[str] = []
    echo = 0

    def growing(text: TextAssembler, raw: Piece, last: bool) -> str:
        nonlocal grow, echo
        piece = shown(raw)
        if echoes and not known and request.prompt and piece.startswith(request.prompt):
            echo = len(request.prompt)
        cut = last and known[:1] and known[0].startswith(piece)  # a stop string, of which the beginning had come
        if len(known) == 1 and not (whole or cut or piece.startswith(known[0].rstrip("\ufffd"))):
            grow, echo = appended(request), 0
        if len(known) < 2:
            known.append(piece)
        return grow(text, piece[echo:] if echo else raw, last)

    return growing


def check(request: GenerateRequest) -> None:
    """Refuse what can't be expressed."""
    if request.engine_options.get("text", CUMULATIVE) not in (CUMULATIVE, DELTA):
        raise Fault(Reason.VALIDATION, f"engine_options['text'] must be {CUMULATIVE!r} or {DELTA!r}")
    if request.repetition_penalty != 1.0:
        raise Fault(Reason.UNSUPPORTED, "the LLM API backend has no input for repetition_penalty")


def encode(request: GenerateRequest, /, *, attempt: int, inputs: Collection[str] | None = None) -> WireRequest:
    """Tensors by name, and the id by which `abort` ends it. `stop` is not among them: here it would cancel."""
    body: dict[str, Any] = {"text_input": request.prompt, **OUTPUTS, **sampling_fields(PROFILE, request)}
    if inputs is not None:
        body = {name: value for name, value in body.items() if name in inputs}
    if inputs is None or "stop" in inputs:
        body["id"] = wire_id(request, attempt)
    return post(request, MODEL, body)


def abort(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    """`stop` on the same model, which takes it in at once. Answered 400, "cancelled by client", be it there or not."""
    body = {"text_input": "", "stop": True, "id": wire_id(request, attempt)}
    return WireRequest.for_stream(model_path(request.model or MODEL, "/generate_stream"), body)


def stopped(reply: Reply) -> bool:
    """Whether it says so: with a status that elsewhere stands for a mistake."""
    return reply.status == 400 and b"cancelled by client" in reply.body


def _check(request: GenerateRequest, inputs: Collection[str]) -> None:
    check(request)
    refuse_missing(request, PROFILE, inputs, "stop")


def fitted(inputs: Collection[str]) -> Dialect:
    """The dialect for a model with these inputs."""
    return attrs.evolve(
        LLMAPI,
        encode=partial(encode, inputs=inputs),
        # An answer may begin with the words of its prompt: taken for an echo only where no input could forbid one.
        decode=partial(decode, mode=partial(mode, echoes=NO_ECHO not in inputs), reasoned=REASON in inputs),
        traits=attrs.evolve(LLMAPI.traits, ends_with_body=REASON not in inputs),
        check=partial(_check, inputs=inputs),
        abort=abort if "stop" in inputs else None,
        stopped=stopped,
    )


LLMAPI = Dialect(
    name=NAME,
    encode=encode,
    decode=partial(decode, mode=mode, reasoned=True),
    parse_error=parse_error,
    not_a_stream=not_a_stream,
    health=health,
    properties=properties,
    identify=identify,
    features=Features(adds_bos=True, engine_options=frozenset({"unchecked", "text", UNSAFE})),
    traits=Traits(cancel=CancelNotice.NEXT_WRITE, keep_alive=60.0, probe_interval=1.0),
    profile=PROFILE,
    max_seed=2**63 - 1,
    check=check,
    against_strict=against_unchecked,
    abort=abort,
    stopped=stopped,
)
