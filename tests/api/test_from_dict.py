"""A request made of a caller's JSON, judged without an adapter; errors an orchestrator makes itself; its answers."""

from __future__ import annotations

import json
import pickle

import pytest

from worker_adapters import (
    Error,
    ErrorCode,
    GenerateRequest,
    InvalidRequestError,
    Phase,
    Reason,
    WorkerError,
    connect,
    http_refusal,
    validate,
)

GOOD = {"prompt": "x", "max_tokens": 5, "stop": ["a"], "determinism": "strict", "json_schema": {"type": "object"}}


def refused(given, **own) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        GenerateRequest.from_dict(given, **own)
    return caught.value


def test_a_request_is_made_of_json():
    made = GenerateRequest.from_dict(json.loads(json.dumps(GOOD)), task_id="t1", correlation_id="c")
    assert made == GenerateRequest(**GOOD, task_id="t1", correlation_id="c")


WRONG = {
    "prompt": 3,
    "max_tokens": 0,
    "temperature": "hot",
    "top_p": 0,
    "top_k": 1.5,
    "min_p": 2,
    "repetition_penalty": 0,
    "presence_penalty": 3,
    "frequency_penalty": None,
    "stop": ["a", ""],
    "seed": -1,
    "determinism": "maybe",
    "on_degraded": 1,
    "sampler_profile_version": "v0",
    "ignore_eos": "yes",
    "logprobs": 101,
    "return_token_ids": 1,
    "deadline": 0,
    "deadline_at": -1,
    "model": "",
    "json_schema": 5,
    "regex": "",
    "grammar": 1,
    "priority": "high",
    "session_id": "a\nb",
    "correlation_id": 5,
    "engine_options": [],
    "task_id": "",
    "prompt_tokens": 5,
}


def test_every_field_can_be_wrong():
    assert WRONG.keys() == {field.name for field in GenerateRequest.__attrs_attrs__}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_field_is_named_by_itself(name):
    given = {"prompt": "x", name: WRONG[name]}
    fields = refused(given).fields
    assert [*fields] == (["prompt"] if name == "prompt_tokens" else [name]) or name == "prompt_tokens"
    assert name in fields[name]


def test_all_wrong_fields_are_told_at_once():
    error = refused({**WRONG, "colour": "red"}, task_id="t")
    assert error.fields.keys() == WRONG.keys() | {"colour"}
    assert "not the caller's" in error.fields["task_id"]
    assert error.code is ErrorCode.INVALID_PARAMS
    assert error.reason is Reason.VALIDATION
    assert len(error.message) <= 500
    assert pickle.loads(pickle.dumps(error)).fields == error.fields


@pytest.mark.parametrize("given", [[], "x", None, 3])
def test_a_request_is_an_object(given):
    assert "JSON object" in refused(given).message


def test_what_is_judged_without_an_adapter_is_what_submit_judges():
    with connect("mock", "mock://local") as adapter:
        for name, value in WRONG.items():
            request = GenerateRequest(**{"prompt": "x", name: value})
            with pytest.raises(InvalidRequestError):
                request.validate()
            with pytest.raises(InvalidRequestError):
                adapter.submit(request)


def test_what_an_engine_can_not_express_is_told_without_an_adapter():
    validate(GenerateRequest(prompt="x", grammar="root ::= [a]"), "llamacpp")
    with pytest.raises(InvalidRequestError, match="grammar") as caught:
        validate(GenerateRequest(prompt="x", grammar="root ::= [a]"), "tgi")
    assert (caught.value.reason, caught.value.code) == (Reason.UNSUPPORTED, ErrorCode.INVALID_PARAMS)
    with pytest.raises(InvalidRequestError) as caught:
        validate(GenerateRequest(prompt="x", max_tokens=0), "tgi")
    assert caught.value.fields.keys() == {"max_tokens"}


def test_an_orchestrator_s_error_needs_what_it_knows():
    error = Error(code=ErrorCode.QUEUE_FULL_DROP_LRU, reason=Reason.QUEUE_FULL, message="64 wait")
    assert (error.retriable, error.phase, error.attempts, error.engine) == (True, Phase.PREPARE, 0, "")
    gone = Error(code=ErrorCode.MODEL_DEPRECATED, reason=Reason.DEPRECATED, message="use m2")
    assert not gone.retriable
    assert Error(code=ErrorCode.INTERNAL, reason=Reason.BUG, message="", retriable=True).retriable


@pytest.mark.parametrize("wrap", [lambda error: error, WorkerError], ids=["event", "exception"])
def test_a_failure_before_the_stream_is_answered_with_the_envelope(wrap):
    error = Error(code=ErrorCode.QUEUE_FULL_DROP_LRU, reason=Reason.QUEUE_FULL, message="64 wait", retry_after_ms=1500)
    status, headers, body = http_refusal(wrap(error), "c1")
    assert status == 429
    assert headers == {"X-Correlation-Id": "c1", "Retry-After": "2", "X-Backoff-Ms": "1500"}
    assert body["error"].items() >= {"code": "QUEUE_FULL_DROP_LRU", "reason": "QUEUE_FULL", "retriable": True}.items()
    json.dumps(body)


def test_a_refused_request_is_answered_field_by_field():
    status, _, body = http_refusal(refused({"prompt": "x", "max_tokens": 0, "colour": 1}))
    assert status == 400
    assert body["error"]["fields"].keys() == {"max_tokens", "colour"}
