"""What a line asks for, and its key."""

from __future__ import annotations

import json

import pytest

from worker_adapters.batch import key_of
from worker_adapters.batch.rows import identify, row_of

pytestmark = pytest.mark.req("ADAPT-3500")


def row(given, **parameters):
    line = given if isinstance(given, bytes) else json.dumps(given).encode()
    return row_of(7, line, identify(line), parameters=parameters, template=parameters.pop("template", None))


def test_the_caller_s_id_is_the_key_and_its_type_counts():
    one, text = row({"id": 1, "prompt": "a"}), row({"id": "1", "prompt": "a"})
    assert (one.id, text.id) == (1, "1")
    assert one.digest != text.digest
    assert one.digest == row({"prompt": "b", "id": 1}).digest


def test_without_one_the_key_is_a_hash_of_the_canonical_request():
    same = [
        {"prompt": "a", "max_tokens": 8},
        {"max_tokens": 8, "prompt": "a", "temperature": 1, "stop": [], "note": "mine", "session_id": "s"},
        {"prompt": "a", "max_tokens": 8, "temperature": 1.0, "seed": None},
    ]
    assert len({row(one).digest for one in same}) == 1
    assert {row(one).id for one in same} == {key_of(same[0])}
    assert row({"prompt": "a", "max_tokens": 9}).digest != row(same[0]).digest
    assert identify(same[0]).digest == row(same[0]).digest  # read from Parquet, or from a line


def test_a_row_s_fields_go_before_the_job_s_and_its_seed_stays_the_same():
    made = row({"id": "k", "prompt": "a", "temperature": 0.5}, temperature=0.1, max_tokens=5)
    assert (made.request.temperature, made.request.max_tokens, made.request.priority) == (0.5, 5, "batch")
    assert made.request.seed == row({"id": "k", "prompt": "a"}).request.seed
    assert made.request.seed != row({"id": "l", "prompt": "a"}).request.seed


def test_what_is_no_parameter_goes_along():
    assert row({"id": 1, "prompt": "a", "source": "web", "n": 3}).extra == {"source": "web", "n": 3}
    assert row({"id": 1, "prompt": "a"}).extra is None


def test_openai_batch_lines_are_read():
    body = {"model": "m", "prompt": "a", "max_tokens": 4, "stop": "x", "stream": True, "n": 1}
    made = row({"custom_id": "c-1", "method": "POST", "url": "/v1/completions", "body": body})
    assert (made.id, made.request.prompt, made.request.model, made.request.stop) == ("c-1", "a", "m", ("x",))
    assert made.extra is None
    ids = row({"custom_id": "c", "body": {"prompt": [1, 2], "max_completion_tokens": 3}})
    assert (ids.request.prompt_tokens, ids.request.max_tokens) == ((1, 2), 3)
    assert "n of an OpenAI" in row({"custom_id": "c", "body": {"prompt": "a", "n": 2}}).refused


def test_messages_need_a_template():
    chat = {"custom_id": "c", "body": {"messages": [{"role": "user", "content": "hi"}]}}
    assert "no template" in row(chat).refused
    line = json.dumps(chat).encode()
    made = row_of(1, line, identify(line), parameters={}, template=lambda messages: messages[0]["content"] + "!")
    assert made.request.prompt == "hi!"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"not json\n", "malformed"),
        (b'{"id": 1, "prompt": "a"', "truncated"),
        (b"[1]\n", "a row is an object"),
        (b'"text"\n', "a row is an object"),
        (b'{"id": 3}\n', "no prompt"),
        (b'\xff{"id": 3}\n', "malformed"),
        (b"[" * 5000 + b"]" * 5000, ""),
    ],
)
def test_a_line_that_is_no_row_has_a_key_and_a_reason(line, says):
    made = row(line)
    assert made.request is None
    assert says in made.refused
    assert made.digest == identify(line).digest
