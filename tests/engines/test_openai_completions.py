"""What servers of OpenAI's completions do otherwise, and that none of it makes an End of a cut stream, or the reverse."""

from __future__ import annotations

import json
import pickle

import attrs
import pytest

from worker_adapters import GenerateRequest, InvalidRequestError, Retry, Token, connect, registry
from worker_adapters.dialect import ProbeTarget, Reply
from worker_adapters.engines.openai_completions import ANY, DIALECT, ROWS, Row, Sign, dialect_of

from ..transport.servers import Server, head
from . import rows_page
from .gateways import BAD, DONE, GOOD, HEAD, STOP, A, data, event, used
from .replay import stream


def last(*events, dialect=DIALECT, **request):
    return stream(dialect, HEAD, list(events), **request)[-1]


def texts(*events, **request):
    return [e.text for e in stream(DIALECT, HEAD, list(events), **request) if isinstance(e, Token)]


@pytest.mark.parametrize("name", GOOD)
def test_a_stream_that_ends_well(name):
    assert "".join(texts(*GOOD[name])) == "a"
    assert last(*GOOD[name]).kind == "end"


REASONS = {
    "stop": "stop stop_sequence eos eos_token EOS end_turn tool_calls content_filter SAFETY FinishReason.stop load ja",
    "length": "length max_tokens MAX_TOKENS model_length context_length max_context_length FinishReason.LENGTH limit",
    "ABORTED": "abort aborted cancelled request_cancelled client_disconnect timeout aborted_by_user FinishReason.ABORT",
    "ENGINE_ERROR": "error internal_server_error network_error out_of_memory engine_overloaded generation_failed",
    "TRUNCATED": "null None none FINISH_REASON_UNSPECIFIED",
}


@pytest.mark.parametrize(("word", "meaning"), [(word, m) for m, words in REASONS.items() for word in words.split()])
def test_what_a_word_for_the_end_means(word, meaning):
    found = last(A, event("", word), DONE)
    assert (found.finish_reason if found.kind == "end" else found.reason) == meaning


def test_an_overload_that_is_a_reason_is_one():
    assert last(event("", "overloaded"), DONE).code == "ADMISSION_REJECT"


@pytest.mark.parametrize("name", BAD)
def test_a_stream_that_does_not(name):
    events, reason = BAD[name]
    assert last(*events).reason == reason


def test_a_row_may_say_that_done_is_the_sign():
    older = dialect_of(attrs.evolve(ANY, name="older", sign=Sign.DONE))
    end = last(A, DONE, dialect=older)
    assert (end.kind, end.finish_reason, end.finish_reason_source) == ("end", "stop", "inferred")
    assert last(A, dialect=older).reason == "TRUNCATED"
    assert last(DONE, dialect=older).reason == "EMPTY"
    assert last(A, event("", "abort"), DONE, dialect=older).reason == "ABORTED"


def test_a_row_may_say_that_errors_are_words():
    """mistral.rs: plain text where an event was due."""
    said = data(b"the model has panicked")
    fault = last(A, said, dialect=registry.dialect("openai-completions-mistralrs"))
    assert (fault.code, fault.reason, fault.message) == ("WORKER_RESET", "ENGINE_ERROR", "the model has panicked")


def test_counts_that_are_none():
    """In each event, zero until the last, or never: what came is counted until the server's count is no less."""
    end = last(event("a", usage=used(0, 0)), event("b", usage=used(0, 0)), event("", "stop", usage=used(0, 0)))
    assert (end.tokens_out, end.tokens_in, end.usage_source) == (2, None, "deltas")
    end = last(event("a", usage=used(4, 1)), event("b", "length", usage=used(4, 5)), DONE)
    assert (end.tokens_out, end.tokens_in, end.usage_source) == (5, 4, "engine")


def test_bytes_of_a_character_that_come_apart():
    torn = [b'data: {"choices":[{"text":"\xe4\xb8"}]}\n\n', b'data: {"choices":[{"text":"\xad"}]}\n\n']
    assert texts(*torn, STOP) == ["中"]
    assert texts(torn[0], STOP) == ["\ufffd"]


@pytest.mark.parametrize(("end", "stopped"), [([A], True), ([event("", "stop")], True)])
def test_a_stop_string_that_is_left_in_the_text(end, stopped):
    got = stream(DIALECT, HEAD, [event("one t"), event("wo th"), event("ree"), *end], stop=("two",))
    assert "".join(e.text for e in got if isinstance(e, Token)) == "one "
    assert (got[-1].finish_reason, got[-1].stop_text) == ("stop", "two" if stopped else None)


def test_the_default_sends_nothing_that_is_not_openais():
    body = json.loads(DIALECT.encode(GenerateRequest(prompt="p", seed=1), attempt=1).body)
    standard = {"prompt", "stream", "stream_options", "max_tokens", "seed", "temperature", "top_p", "n"}
    assert set(body) == standard | {"presence_penalty", "frequency_penalty"}
    with connect("openai-completions", "http://127.0.0.1:9") as adapter, pytest.raises(InvalidRequestError) as caught:
        adapter.stream(GenerateRequest(prompt="p", top_k=3))
    error = caught.value.error
    assert (error.code, error.reason) == ("INVALID_PARAMS", "UNSUPPORTED")


@pytest.mark.parametrize("name", [name for name in ROWS if name])
def test_each_row_is_an_engine_of_the_registry(name):
    dialect = registry.dialect(f"openai-completions-{name}")
    assert dialect.name == "openai-completions"
    assert pickle.loads(pickle.dumps(dialect)).features == dialect.features
    body = json.loads(dialect.encode(GenerateRequest(prompt="p", seed=1), attempt=1).body)
    if packed := ROWS[name].packed:
        body |= {f"{packed}.{knob}": value for knob, value in json.loads(body[packed]).items()}
    assert {knob.wire for knob in ROWS[name].knobs if not knob.absent} <= set(body)
    assert ("stream_options" in body) == ROWS[name].asks_usage


def test_what_a_row_packs_is_one_string():
    """`transformers serve`: what it leaves out of generation_config comes from the model, drawing at all included."""
    encode = registry.dialect("openai-completions-transformers").encode
    body = json.loads(encode(GenerateRequest(prompt="p", seed=1, top_k=3), attempt=1).body)
    assert set(body) == {"prompt", "stream", "max_tokens", "seed", "temperature", "top_p", "generation_config"}
    assert json.loads(body["generation_config"]) == {
        "do_sample": True,
        "top_k": 3,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    body = json.loads(encode(GenerateRequest(prompt="p", seed=1, temperature=0), attempt=1).body)
    assert json.loads(body["generation_config"])["do_sample"] is False
    with pytest.raises(InvalidRequestError, match="presence_penalty"):
        registry.validate(GenerateRequest(prompt="p", presence_penalty=0.5), "openai-completions-transformers")


def test_a_row_of_ones_own():
    row = Row(name="mine", server="mine", seen="here", words={"basta": None}, any_model="m", asks_usage=False)
    mine = dialect_of(row)
    body = json.loads(mine.encode(GenerateRequest(prompt="p", seed=1), attempt=1).body)
    assert (body["model"], "stream_options" in body) == ("m", False)
    assert last(A, event("", "basta"), dialect=mine).reason == "ABORTED"


ERRORS = [
    (401, b'{"detail":"Invalid API key"}', "UPSTREAM_AUTH"),
    (401, b'{"detail":{"error":{"message":"Please request with valid api key!","type":"x"}}}', "UPSTREAM_AUTH"),
    (
        404,
        b'{"message":"The model `x` does not exist.","type":"invalid_request_error","code":404}',
        "UPSTREAM_NOT_FOUND",
    ),
    (404, b"Not Found", "UPSTREAM_NOT_FOUND"),
    (422, b'{"detail":[{"loc":["body","prompt"],"msg":"field required"}]}', "VALIDATION"),
    (
        400,
        b'{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}',
        "CONTEXT_TOO_LONG",
    ),
    (400, b'{"error":{"message":"Requested tokens (70) exceed context window of 64"}}', "CONTEXT_TOO_LONG"),
    (429, b"", "OVERLOADED"),
    (529, b'{"detail":"Too Many Requests"}', "OVERLOADED"),
    (503, b'{"error":{"message":"Service temporarily overloaded"}}', "OVERLOADED"),
    (503, b'{"error":{"message":"No models are currently loaded."}}', "LOADING"),
    (503, b"<html>503</html>", "ENGINE_ERROR"),
    (500, b"Internal Server Error", "ENGINE_ERROR"),
    (500, b'{"error":{"message":"boom","type":"internal_server_error"}}', "ENGINE_ERROR"),
    (501, b"Content Type Not Implemented", "UNSUPPORTED"),
    (302, b"", "REDIRECT"),
    (400, b'{"detail":"Prompt length 5000 is greater than max_seq_len 4096"}', "CONTEXT_TOO_LONG"),
    (500, b'{"detail":"Prompt too long"}', "CONTEXT_TOO_LONG"),
    (
        400,
        b'{"error":"trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with"}',
        "CONTEXT_TOO_LONG",
    ),
    (503, b'{"detail":{"msg":"Server is busy; please try again later.","type":"service_unavailable"}}', "OVERLOADED"),
    (
        404,
        b'{"error":{"message":"model \\"x\\" not found, try pulling it first","type":"api_error"}}',
        "UPSTREAM_NOT_FOUND",
    ),
    (400, b'{"error":"No models loaded. Please load a model."}', "LOADING"),
    (400, b'{"object":"error","message":"NETWORK ERROR DUE TO HIGH TRAFFIC.","code":50001}', "ENGINE_ERROR"),
    (400, b'{"object":"error","message":"rate","code":42901}', "OVERLOADED"),
    (
        400,
        b'{"error":{"message":"400: Invalid model name passed in model=x. Call `/v1/models`"}}',
        "UPSTREAM_NOT_FOUND",
    ),
]


@pytest.mark.parametrize(("status", "body", "reason"), ERRORS)
def test_an_error_in_whatever_shape(status, body, reason):
    fault = DIALECT.parse_error(Reply(status=status, headers={}, body=body))
    assert fault.reason == reason
    assert fault.upstream.status == status


def health(*replies):
    told, conversation = iter(replies), DIALECT.health(ProbeTarget())
    try:
        next(conversation)
        while True:
            conversation.send(Reply(**{"status": 200, "headers": {}, **next(told)}))
    except StopIteration as done:
        return done.value


MODELS = {"body": b'{"data":[{"id":"m"}]}'}


@pytest.mark.parametrize(
    ("replies", "ready", "said"),
    [
        ([MODELS, {"body": b""}], True, "ok"),
        ([MODELS, {"status": 404, "body": b"Not Found"}], True, "no /health"),
        ([MODELS, {"body": b'{"status":"healthy"}'}], True, "ok"),
        ([MODELS, {"body": b'{"status":"unhealthy"}'}], False, "unhealthy"),
        ([MODELS, {"status": 503, "body": b""}], False, "503"),
        ([{"body": b'{"data":[]}'}], False, "no model"),
        ([{"status": 401, "body": b'{"detail":"no"}'}], False, "credentials="),
        ([{"body": b"<html>"}], False, "JSON"),
    ],
)
def test_health(replies, ready, said):
    found = health(*replies)
    assert found.ready is ready
    assert said in found.detail


def test_health_costs_the_models_behind_a_gateway_nothing():
    """LiteLLM's /health has each of them generate."""
    conversation = registry.dialect("openai-completions-litellm").health(ProbeTarget())
    assert next(conversation).target == "/v1/models"
    assert conversation.send(Reply(status=200, headers={}, **MODELS)).target == "/health/readiness"
    with pytest.raises(StopIteration) as done:
        conversation.send(Reply(status=200, headers={}, body=b'{"status":"healthy","db":"Not connected"}'))
    assert done.value.value.ready


@pytest.mark.req("OC-ADAPT-5090", socket=True)
@pytest.mark.parametrize("ending", ["finish", "cut"])
def test_http_1_0_without_a_length_over_a_socket(ending):
    """The connection's end ends the body, and proves nothing."""

    def serve(client):
        client.request()
        told = [b": keepalive 0/4\n\n", A, *([STOP, DONE] if ending == "finish" else [])]
        client.send(head("Content-type: text/event-stream").replace(b"HTTP/1.1", b"HTTP/1.0"), *told)
        client.sock.close()

    with Server(serve) as server, connect("openai-completions", server.url, retry=Retry(attempts=1)) as adapter:
        got = list(adapter.stream(GenerateRequest(prompt="p")))
    assert [e.text for e in got if isinstance(e, Token)] == ["a"]
    assert getattr(got[-1], "reason", "END") == ("END" if ending == "finish" else "TRUNCATED")


def test_the_page_has_the_rows():
    page = rows_page.PATH.read_text(encoding="utf-8")
    assert rows_page.text(page) == page, "run: python -m tests.engines.rows_page"
