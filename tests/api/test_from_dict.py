"""A request made of a caller's JSON, judged without an adapter; errors an orchestrator makes itself; its answers."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

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
    assert [*fields] == (["prompt", "prompt_tokens"] if name == "prompt_tokens" else [name])
    assert name in fields[name]


def test_all_wrong_fields_are_told_at_once():
    error = refused({**WRONG, "colour": "red"}, task_id="t")
    assert error.fields.keys() == WRONG.keys() | {"colour"}
    assert "not the caller's" in error.fields["task_id"]
    assert error.code is ErrorCode.INVALID_PARAMS
    assert error.reason is Reason.VALIDATION
    assert len(error.message) <= 500
    assert pickle.loads(pickle.dumps(error)).fields == error.fields


def nested(kind, depth=3000):
    value = kind()
    for _ in range(depth):
        value = {"a": value} if kind is dict else [value]
    return value


class Foreign:
    """An object that bears no look at it."""

    __hash__ = None

    def __repr__(self):
        raise RuntimeError

    def __eq__(self, _other):
        raise RuntimeError


SCALARS = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    -(10**400),
    10**5000,
    0.5,
    1e39,
    "",
    "x",
    "\ud800",
    "a\r\nb",
    "\0",
    b"x",
]
NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), {"a": float("nan")}, "{", '{"a":NaN}', "9" * 5000, "[" * 10**5]
NESTED = [
    [],
    [[]],
    [None],
    [True],
    [1.5],
    [2**70],
    ["\ud800"],
    ["a"] * 5,
    [""],
    {},
    {1: 2},
    {"\ud800": 1},
    nested(dict),
    nested(list),
]
OTHERS = [Foreign(), object(), set(), range(3), 1j, {"unchecked": 1}, {"unchecked": {"a": object()}}, int]


@pytest.mark.parametrize("name", [*WRONG, "colour", "", "\ud800", "a" * 1000, 1, None, (1,)], ids=ascii)
def test_whatever_stands_in_a_field_only_that_field_is_refused(name):
    """Nothing else is raised, whatever a caller sends; and the answer can be sent."""
    for value in [*SCALARS, *NO_NUMBERS, *NESTED, *OTHERS]:
        fields, answer = fields_of({"prompt": "x", name: value})
        if name == "prompt_tokens" and value is not None:
            assert fields == {"prompt", "prompt_tokens"}
        else:
            assert fields == {str(name)[:40]} or (name in WRONG and not fields)
        json.dumps(answer).encode()


def fields_of(given):
    """Which fields are refused, and the answer that says so."""
    try:
        GenerateRequest.from_dict(given)
    except InvalidRequestError as exc:
        return exc.fields.keys(), http_refusal(exc)
    return set(), None


BODIES = [
    b"",
    b"{",
    b"null",
    b"3",
    b'"x"',
    b"[]",
    b"\xff",
    b"\xef\xbb\xbf{}",
    b'{"prompt":"\\ud800"}',
    '{"prompt":"\ud800"}',
]
BODIES += [
    "{}".encode("utf-16"),
    b"[" * 10**5,
    b'{"a":' * 10**5,
    b'{"prompt":"x","priority":' + b"[" * 400 + b"]" * 400 + b"}",
]
BODIES += [b'{"prompt":"x","seed":%b}' % number for number in (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"1.0")]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_request_is_refused(body):
    with pytest.raises(InvalidRequestError) as caught:
        GenerateRequest.from_json(body)
    assert caught.value.fields
    json.dumps(http_refusal(caught.value)).encode()


@pytest.mark.parametrize("when", ["2026-11-27T12:00:00Z", "1700000000", -1, 0, True, 10**400, datetime.now(tz=UTC)])
def test_a_deadline_is_a_number_of_seconds(when):
    for name in ("deadline", "deadline_at"):
        said = refused({"prompt": "x", name: when}).fields[name]
        assert said.startswith(f"{name} must be a finite number greater than 0, got ")


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
