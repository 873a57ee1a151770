"""TGI's quirks and rules, beside the suite."""

from __future__ import annotations

import json

import pytest

from worker_adapters import End, GenerateRequest, Reason, Started
from worker_adapters.dialect import Fault
from worker_adapters.engines.tgi import DIALECT
from worker_adapters.runtime.validate import validate

from .replay import stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"


def parameters(**request):
    return json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1, **request), attempt=1).body)["parameters"]


def token(text, **more):
    return b"data:" + json.dumps({"token": {"id": 1, "text": text, "special": False}, **more}).encode() + b"\n\n"


def test_greedy_leaves_out_whatever_would_make_it_sample():
    sent = parameters(temperature=0, top_k=5, top_p=0.5)
    assert sent["do_sample"] is False
    assert sent["seed"] is None
    assert not {"temperature", "top_k", "top_p", "typical_p"} & sent.keys()


def test_what_tgi_refuses_at_its_neutral_value_is_left_out():
    sent = parameters()
    assert (sent["do_sample"], sent["seed"], sent["details"]) == (True, 1, True)
    assert not {"temperature", "top_p", "top_k", "typical_p"} & sent.keys()


@pytest.mark.parametrize(
    ("request_fields", "reason", "rule"),
    [
        ({"prompt": ""}, Reason.VALIDATION, "`inputs` cannot be empty"),
        ({"temperature": 1e-50}, Reason.VALIDATION, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 1e-50}, Reason.VALIDATION, "`repetition_penalty` must be strictly positive"),
        ({"top_p": 1 - 1e-12}, Reason.VALIDATION, "`top_p` must be > 0.0 and < 1.0"),
        ({"logprobs": 6}, Reason.VALIDATION, "`top_n_tokens` must be >= 0 and <= 5"),
        ({"presence_penalty": 1.0}, Reason.UNSUPPORTED, "presence_penalty"),
        ({"engine_options": {"typical_p": 1.0}}, Reason.VALIDATION, "`typical_p` must be > 0.0 and < 1.0"),
        ({"engine_options": {"truncate": 0}}, Reason.VALIDATION, "`truncate` must be strictly positive"),
        ({"json_schema": "{"}, Reason.VALIDATION, "grammar is not valid"),
    ],
)
def test_a_rule_of_tgi_is_told_before_sending(request_fields, reason, rule):
    with pytest.raises(Fault) as refused:
        validate(GenerateRequest(**{"prompt": "p", **request_fields}), DIALECT)
    assert refused.value.reason is reason
    assert rule in refused.value.message


def test_a_stop_string_that_tgi_runs_past_ends_the_stream():
    events = stream(DIALECT, HEAD, [token(" a"), token(" ENDx"), token(" more")], stop=["END"])
    end = events[-1]
    assert isinstance(end, End)
    assert (end.stop_text, end.finish_reason_source, end.tokens_out) == ("END", "inferred", 2)


def test_the_named_event_of_an_error_makes_no_difference():
    said = b'event: error\ndata: {"error":"Model is overloaded","error_type":"overloaded"}\n\n'
    (error,) = stream(DIALECT, HEAD, [said])
    assert error.reason is Reason.OVERLOADED


def test_a_generated_text_that_differs_is_logged_without_the_text(caplog):
    last = token(" b", generated_text="secret", details={"finish_reason": "length", "generated_tokens": 2})
    events = stream(DIALECT, HEAD, [token(" a"), last])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], End)
    assert "generated_text" in caplog.text
    assert "secret" not in caplog.text


def test_above_a_leg_strict_is_not_granted():
    vouched = {"batch_invariant": True}
    short, long = (GenerateRequest(prompt="p", max_tokens=n, engine_options=vouched) for n in (1024, 1025))
    assert DIALECT.against_strict(short) == ()
    assert "legs of 1024" in DIALECT.against_strict(long)[0]
