"""Events: what they are as objects, and their JSON form."""

from __future__ import annotations

import copy
import json
import pickle
from enum import Enum

import attrs
import msgspec
import pytest

from worker_adapters import (
    DeterminismLevel,
    End,
    Error,
    ErrorCode,
    FinishReason,
    FinishReasonSource,
    Metrics,
    Phase,
    Reason,
    Started,
    Token,
    TokenLogprob,
    Upstream,
    UsageSource,
    event_to_dict,
)

STARTED = Started(
    task_id="t1",
    engine="llamacpp",
    seed=7,
    sampler_profile_version="v1",
    determinism=DeterminismLevel.BEST_EFFORT,
    attempt=1,
)
TOKEN = Token(index=0, text="Zoë")
METRICS = Metrics(values={"latency_first_token_ms": 12.5, "tokens_out": 3})
END = End(
    finish_reason=FinishReason.STOP,
    finish_reason_source=FinishReasonSource.ENGINE,
    tokens_out=3,
    usage_source=UsageSource.ENGINE,
    decode_time_ms=41.5,
)
ERROR = Error(
    code=ErrorCode.WORKER_RESET,
    reason=Reason.DISCONNECTED,
    message="the connection broke",
    engine="llamacpp",
    pool_id="a",
    replica_id=None,
    retriable=True,
    phase=Phase.DECODE,
    attempts=2,
)
LOGPROB = TokenLogprob(token="Z", logprob=-0.5, token_id=90, top=(TokenLogprob(token="z", logprob=-1.5),))

EVENTS = [STARTED, TOKEN, METRICS, END, ERROR]
RECORDS = [*EVENTS, LOGPROB, Upstream(status=500)]
BY_EVENT = pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.kind)
BY_RECORD = pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)

FORMS = {
    "started, as little as can be": (
        STARTED,
        {
            "event": "started",
            "task_id": "t1",
            "engine": "llamacpp",
            "seed": 7,
            "sampler_profile_version": "v1",
            "determinism": "best_effort",
            "attempt": 1,
            "determinism_reasons": [],
        },
    ),
    "started, everything": (
        attrs.evolve(
            STARTED,
            engine_version="b9000",
            model="m",
            model_digest="sha256:00",
            trtllm_version="1.0",
            determinism_reasons=("seed", "cache"),
            tokens_in=0,
            queue_position=0,
            predicted_start_ms=0.0,
        ),
        {
            "event": "started",
            "task_id": "t1",
            "engine": "llamacpp",
            "seed": 7,
            "sampler_profile_version": "v1",
            "determinism": "best_effort",
            "attempt": 1,
            "engine_version": "b9000",
            "model": "m",
            "model_digest": "sha256:00",
            "trtllm_version": "1.0",
            "determinism_reasons": ["seed", "cache"],
            "tokens_in": 0,
            "queue_position": 0,
            "predicted_start_ms": 0.0,
        },
    ),
    "token, as little as can be": (TOKEN, {"event": "token", "i": 0, "t": "Zoë"}),
    "token, everything": (
        msgspec.structs.replace(TOKEN, index=4, token_ids=(5, 0), logprobs=(LOGPROB,)),
        {
            "event": "token",
            "i": 4,
            "t": "Zoë",
            "token_ids": [5, 0],
            "logprobs": [
                {
                    "token": "Z",
                    "logprob": -0.5,
                    "token_id": 90,
                    "top": [{"token": "z", "logprob": -1.5, "top": []}],
                }
            ],
        },
    ),
    "metrics lie flat": (METRICS, {"event": "metrics", "latency_first_token_ms": 12.5, "tokens_out": 3}),
    "end, as little as can be": (
        END,
        {
            "event": "end",
            "finish_reason": "stop",
            "finish_reason_source": "engine",
            "tokens_out": 3,
            "usage_source": "engine",
            "token_ids_complete": False,
            "decode_time_ms": 41.5,
            "decode_ms": 41.5,
        },
    ),
    "end, everything": (
        attrs.evolve(
            END,
            finish_reason_raw="word",
            stop_text="\n",
            tokens_in=9,
            token_ids_tail=(2,),
            token_ids_complete=True,
        ),
        {
            "event": "end",
            "finish_reason": "stop",
            "finish_reason_source": "engine",
            "finish_reason_raw": "word",
            "stop_text": "\n",
            "tokens_out": 3,
            "tokens_in": 9,
            "usage_source": "engine",
            "token_ids_tail": [2],
            "token_ids_complete": True,
            "decode_time_ms": 41.5,
            "decode_ms": 41.5,
        },
    ),
    "error, as little as can be": (
        ERROR,
        {
            "event": "error",
            "code": "WORKER_RESET",
            "reason": "DISCONNECTED",
            "message": "the connection broke",
            "engine": "llamacpp",
            "pool_id": "a",
            "retriable": True,
            "phase": "decode",
            "attempts": 2,
        },
    ),
    "error, everything": (
        attrs.evolve(
            ERROR,
            replica_id="r0",
            engine_version="b9000",
            retry_after_ms=0,
            policy_label="gold",
            upstream=Upstream(status=500, message="out of memory"),
        ),
        {
            "event": "error",
            "code": "WORKER_RESET",
            "reason": "DISCONNECTED",
            "message": "the connection broke",
            "engine": "llamacpp",
            "engine_version": "b9000",
            "pool_id": "a",
            "replica_id": "r0",
            "retriable": True,
            "retry_after_ms": 0,
            "policy_label": "gold",
            "phase": "decode",
            "attempts": 2,
            "upstream": {"status": 500, "message": "out of memory"},
        },
    ),
}
BY_FORM = pytest.mark.parametrize(("event", "form"), FORMS.values(), ids=FORMS)


def fields(record):
    """The names of a record's fields: what streams make per token are msgspec Structs, the rest attrs classes."""
    kind = type(record)
    return kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else [field.name for field in attrs.fields(kind)]


@BY_RECORD
def test_no_field_of_a_record_can_be_set(record):
    for name in fields(record):
        with pytest.raises(AttributeError):
            setattr(record, name, getattr(record, name))


@BY_RECORD
def test_a_record_takes_no_new_attribute(record):
    with pytest.raises(AttributeError):
        record.brand_new = 1


@BY_RECORD
def test_a_record_is_slotted(record):
    assert not hasattr(record, "__dict__")


@BY_RECORD
def test_a_record_is_made_by_keyword_only(record):
    with pytest.raises(TypeError):
        type(record)(*(getattr(record, name) for name in fields(record)))


@BY_RECORD
def test_a_record_survives_pickling_and_copying(record):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(record, protocol)) == record
    assert copy.copy(record) == record
    assert copy.deepcopy(record) == record


@BY_RECORD
def test_a_record_equals_one_with_the_same_fields_only(record):
    assert type(record)(**{name: getattr(record, name) for name in fields(record)}) == record
    assert [r for r in RECORDS if r == record] == [record]


@BY_EVENT
def test_an_event_s_kind_is_its_class_s(event):
    assert event.kind == type(event).kind == type(event).__name__.lower()


@BY_FORM
def test_an_event_has_this_json_form(event, form):
    assert event_to_dict(event) == form


@BY_FORM
def test_the_json_form_is_plain_json(event, form):
    def enums(value):
        if isinstance(value, dict):
            return [e for v in value.values() for e in enums(v)]
        if isinstance(value, list):
            return [e for v in value for e in enums(v)]
        return [value] if isinstance(value, Enum) else []

    made = event_to_dict(event)
    assert json.loads(json.dumps(made)) == form
    assert enums(made) == []


def test_the_json_form_of_metrics_is_a_copy():
    values = {"tokens_out": 1}
    event_to_dict(Metrics(values=values))["tokens_out"] = 2
    assert values == {"tokens_out": 1}
