"""Every rule of TGI's validation: told before sending, in its words or in ours, or mapped from its answer.

The rules are those of `validate` and `validate_input` in router/src/validation.rs, and of generate_stream in server.rs.
"""

from __future__ import annotations

import json

import attrs
import pytest

from worker_adapters import Error, GenerateRequest, InvalidRequestError, Reason, Retry, connect
from worker_adapters.dialect import Fault, Reply
from worker_adapters.engines.tgi import DIALECT
from worker_adapters.runtime.validate import validate
from worker_adapters.simulator import Simulator

PREFIX = "Input validation error: "
VALIDATION, TOO_LONG, UNSUPPORTED = Reason.VALIDATION, Reason.CONTEXT_TOO_LONG, Reason.UNSUPPORTED


@attrs.frozen(kw_only=True)
class Rule:
    """`before`: a request that breaks it, and what is said of it before anything is sent; None where it takes a server.

    `sent`: how it is broken past our checks, as `unchecked` parameters or other fields of a request.
    """

    words: str
    before: tuple[dict, str] | None = None
    sent: dict | None = None
    fields: dict = attrs.field(factory=dict)
    server: dict = attrs.field(factory=dict)
    reason: Reason = VALIDATION


OURS = "must be "
RULES = {
    "temperature": Rule(
        words="`temperature` must be strictly positive",
        before=({"temperature": 1e-50}, "TGI's rule: `temperature` must be strictly positive"),
        sent={"temperature": 0.0},
    ),
    "repetition_penalty": Rule(
        words="`repetition_penalty` must be strictly positive",
        before=({"repetition_penalty": 1e-50}, "TGI's rule: `repetition_penalty` must be strictly positive"),
        sent={"repetition_penalty": 0.0},
    ),
    "frequency_penalty": Rule(
        words="`frequency_penalty` must be >= -2.0 and <= 2.0",
        before=({"frequency_penalty": 2.5}, "frequency_penalty must be a finite number at least -2 and at most 2"),
        sent={"frequency_penalty": -2.5},
    ),
    "top_p of 1": Rule(
        words="`top_p` must be > 0.0 and < 1.0",
        before=({"top_p": 1 - 1e-12}, "TGI's rule: `top_p` must be > 0.0 and < 1.0"),
        sent={"top_p": 1.0},
    ),
    "top_p of 0": Rule(
        words="`top_p` must be > 0.0 and < 1.0",
        before=({"top_p": 1e-50}, "TGI's rule: `top_p` must be > 0.0 and < 1.0"),
        sent={"top_p": 0.0},
    ),
    "typical_p": Rule(
        words="`typical_p` must be > 0.0 and < 1.0",
        before=({"engine_options": {"typical_p": 1.0}}, "TGI's rule: `typical_p` must be > 0.0 and < 1.0"),
        sent={"typical_p": 0.0},
    ),
    "top_k": Rule(
        words="`top_k` must be strictly positive",
        before=({"top_k": -1}, "top_k must be an integer from 0 to"),
        sent={"top_k": 0},
    ),
    "max_new_tokens": Rule(
        words="`max_new_tokens` must be strictly positive",
        before=({"max_tokens": 0}, "max_tokens must be an integer from 1 to"),
        sent={"max_new_tokens": 0},
    ),
    "stop": Rule(
        words="`stop` supports up to 4 stop sequences. Given: 5",
        before=({"stop": list("abcde")}, "at most 4 stop strings are allowed, got 5"),
        sent={"stop": list("abcde")},
    ),
    "top_n_tokens": Rule(
        words="`top_n_tokens` must be >= 0 and <= 5. Given: 6",
        before=({"logprobs": 6}, "TGI's rule: `top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        sent={"top_n_tokens": 6},
    ),
    "inputs": Rule(
        words="`inputs` cannot be empty",
        before=({"prompt": ""}, "TGI's rule: `inputs` cannot be empty"),
    ),
    "truncate of 0": Rule(
        words="`truncate` must be strictly positive and less than 8191. Given: 0",
        before=({"engine_options": {"truncate": 0}}, "TGI's rule: `truncate` must be strictly positive"),
        sent={"truncate": 0},
    ),
    "truncate": Rule(
        words="`truncate` must be strictly positive and less than 8191. Given: 9000",
        fields={"engine_options": {"truncate": 9000}},
    ),
    "best_of": Rule(words="`best_of` != 1 is not supported when streaming tokens", sent={"best_of": 2}),
    "decoder_input_details": Rule(
        words="`decoder_input_details` == true is not supported when streaming tokens",
        sent={"decoder_input_details": True},
    ),
    "max_total_tokens": Rule(
        words="`inputs` tokens + `max_new_tokens` must be <= 20. Given: 11 `inputs` tokens and 10 `max_new_tokens`",
        fields={"prompt": "x" * 10, "max_tokens": 10},
        server={"ctx": 20},
        reason=TOO_LONG,
    ),
    "max_input_tokens": Rule(
        words="`inputs` must have less than 5 tokens. Given: 11",
        fields={"prompt": "x" * 10},
        server={"max_input_tokens": 5},
        reason=TOO_LONG,
    ),
    "grammar that is no JSON": Rule(
        words="grammar is not valid: ",
        before=({"json_schema": "{"}, "TGI's rule: grammar is not valid: "),
        sent={"grammar": {"type": "json", "value": "{"}},
    ),
    "grammar without properties": Rule(
        words="grammar is not valid: Grammar must have a 'properties' field",
        fields={"json_schema": {"type": "string"}},
    ),
    "grammar of no kind": Rule(words="grammar is not supported", sent={"grammar": {"type": "json", "value": 5}}),
}

BEFORE = {name: rule for name, rule in RULES.items() if rule.before}
ANSWERED = {name: rule for name, rule in RULES.items() if rule.sent or rule.fields}


def test_every_rule_is_told_before_sending_or_mapped_from_an_answer():
    assert RULES.keys() == BEFORE.keys() | ANSWERED.keys()


@pytest.mark.parametrize("name", BEFORE)
def test_a_rule_is_told_before_sending(name):
    fields, said = BEFORE[name].before
    request = GenerateRequest(**{"prompt": "p", **fields})
    with pytest.raises(Fault) as refused:
        validate(request, DIALECT)
    assert refused.value.reason is VALIDATION
    assert said in refused.value.message


@pytest.mark.parametrize("name", BEFORE)
def test_and_nothing_is_sent(name):
    request = GenerateRequest(**{"prompt": "p", **BEFORE[name].before[0]})
    with connect("tgi", "http://nobody.test:1") as adapter, pytest.raises(InvalidRequestError) as refused:
        adapter.stream(request)
    assert (refused.value.error.code, refused.value.error.attempts) == ("INVALID_PARAMS", 0)


@pytest.mark.parametrize("version", ["2.0.4", "3.3.7"])
@pytest.mark.parametrize("name", ANSWERED)
def test_a_rule_that_gets_past_us_is_mapped_from_the_answer_and_not_retried(name, version):
    rule = ANSWERED[name]
    fields = {"prompt": "p", "max_tokens": 4, **rule.fields}
    if rule.sent:
        fields["engine_options"] = {"unchecked": rule.sent}
    with (
        Simulator("tgi", version=version, **rule.server) as simulator,
        connect("tgi", simulator.url, retry=Retry(attempts=3, base=0)) as adapter,
    ):
        (error,) = list(adapter.stream(GenerateRequest(**fields)))
    assert isinstance(error, Error)
    assert (error.code, error.reason, error.retriable, error.attempts) == ("INVALID_PARAMS", rule.reason, False, 1)
    assert error.upstream.type == "validation"
    assert error.upstream.message.startswith(PREFIX + rule.words)
    assert rule.words in error.message


# The rest of `enum ValidationError`: what takes another kind of server, an image, or a route that is not asked.
OTHER_WORDS = [
    "`best_of` must be > 0 and <= 2. Given: 3",
    "`best_of` != 1 is not allowed for this endpoint",
    "you must use sampling when `best_of` is > 1",
    "`seed` must not be set when `best_of` > 1",
    "`top_n_tokens` != 0 is not allowed for this endpoint",
    "one of `max_new_tokens` or `truncate` must be set if a fast tokenizer is not in use",
    "`max_new_tokens` must be <= 512. Given: 600",
    "tokenizer error x",
    "cannot compile regex from schema: x",
    "base64 encoding is invalid: x",
    "invalid image: x",
    "invalid integer: x",
    "invalid image content: x",
    "Could not fetch image: x",
    "Image size 2 bytes exceeds maximum allowed size of 1 bytes",
    "Failed to read image data: x",
    "Images modality is not supported",
]


@pytest.mark.parametrize("words", [*OTHER_WORDS, *(rule.words for rule in RULES.values())])
def test_a_rule_in_a_reply_is_mapped_as_in_a_stream(words):
    body = json.dumps({"error": PREFIX + words, "error_type": "validation"}).encode()
    fault = DIALECT.parse_error(Reply(status=422, headers={"content-type": "application/json"}, body=body))
    long = words.startswith(("`inputs` tokens + ", "`inputs` must have less"))
    assert fault.reason is (TOO_LONG if long else VALIDATION)
    assert fault.upstream.message == PREFIX + words


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"prompt": None, "prompt_tokens": [1]}, "token ids"),
    ],
)
def test_what_tgi_has_not_is_unsupported(fields, said):
    with pytest.raises(Fault, match=said) as refused:
        validate(GenerateRequest(**{"prompt": "p", **fields}), DIALECT)
    assert refused.value.reason is UNSUPPORTED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"typical_p": "x"}, "typical_p"),
        ({"typical_p": True}, "typical_p"),
        ({"truncate": 1.5}, "truncate"),
        ({"truncate": "x"}, "truncate"),
        ({"truncate": float("nan")}, "truncate"),
        ({"truncate": float("inf")}, "truncate"),
        ({"watermark": 1}, "watermark"),
        ({"adapter_id": 5}, "adapter_id"),
        ({"best_of": 2}, "best_of"),  # no option: unknown ones are refused
    ],
)
def test_an_option_of_a_wrong_kind_is_refused(options, said):
    with pytest.raises(Fault, match=said) as refused:
        validate(GenerateRequest(prompt="p", engine_options=options), DIALECT)
    assert refused.value.reason is VALIDATION


def test_typical_p_does_not_go_with_greedy():
    """It would make TGI sample."""
    with pytest.raises(Fault, match="typical_p makes TGI sample"):
        validate(GenerateRequest(prompt="p", temperature=0, engine_options={"typical_p": 0.5}), DIALECT)


@pytest.mark.parametrize("field", ["temperature", "repetition_penalty"])
def test_a_number_that_32_bits_cannot_hold_is_refused(field):
    with pytest.raises(Fault, match="32 bits"):
        validate(GenerateRequest(prompt="p", **{field: 1e39}), DIALECT)


def test_what_is_at_a_bound_is_let_through_and_taken():
    """Of every rule that is told before sending."""
    fields = {
        "temperature": 0.01,
        "repetition_penalty": 0.01,
        "frequency_penalty": -2.0,
        "top_p": 0.999,
        "top_k": 1,
        "max_tokens": 1,
        "stop": list("abcd"),
        "logprobs": 5,
        "json_schema": {"properties": {}},
        "engine_options": {"typical_p": 0.999, "truncate": 1, "watermark": True, "adapter_id": "a"},
    }
    with Simulator("tgi") as simulator, connect("tgi", simulator.url, retry=Retry(attempts=1)) as adapter:
        assert list(adapter.stream(GenerateRequest(prompt="p", **fields)))[-1].kind == "end"
