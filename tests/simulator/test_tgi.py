"""What the simulated TGI does beside answering: admit, queue, go on in legs, refuse, notice who left."""

from __future__ import annotations

import http.client
import json

import pytest

from worker_adapters import (
    DeterminismLevel,
    End,
    Error,
    GenerateRequest,
    InvalidRequestError,
    Retry,
    Token,
    WorkerError,
    connect,
)
from worker_adapters.simulator import DEFAULT_VOCABULARY, ScriptedSource, Simulator, WordSource

JSON = {"Content-Type": "application/json"}
ONCE = Retry(attempts=1)
ENDLESS = ScriptedSource(["x"] * 10_000)


def request(**fields):
    return GenerateRequest(**{"prompt": "we see", "max_tokens": 8, "seed": 7, **fields})


def text(events):
    return "".join(event.text for event in events if isinstance(event, Token))


def ask(simulator, method, path, body=None, headers=JSON):
    """Status, headers and body of a raw request."""
    connection = http.client.HTTPConnection(*simulator.address, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def details(simulator, **body):
    """What /generate tells of a request."""
    status, _, said = ask(simulator, "POST", "/generate", {"inputs": "we see", **body})
    assert status == 200, said
    return json.loads(said)


# --- what it tells of itself --------------------------------------------------------------------------------------


@pytest.mark.req("OC-ADAPT-5040", "OC-ADAPT-5050", socket=True)
@pytest.mark.parametrize(("version", "said"), [("2.0.4", "2.0.4+sha-0a1b2c3"), ("3.3.7", "3.3.6-dev0+sha-0a1b2c3")])
def test_a_worker_is_known_by_what_it_tells(version, said):
    options = {"version": version, "sha": "0a1b2c3d4e", "model_sha": "d1", "max_concurrent_requests": 5}
    with Simulator("tgi", ctx=1024, **options) as simulator, connect("tgi", simulator.url) as adapter:
        found = adapter.properties()
        assert (found.engine_version, found.model, found.model_digest) == (said, "sim-model", "d1")
        assert (found.context_length, found.slots_total, found.slots_free, found.queue_depth) == (1024, 5, 5, 0)
        assert adapter.health().ready
        started, *_, end = adapter.stream(request())
        assert (started.engine_version, started.sampler_profile_version, started.seed) == (said, "v1", 7)
        assert end.tokens_in == (None if version == "2.0.4" else 4)  # told since 2.3


def test_gauges_follow_the_batch():
    with Simulator("tgi", slots=1, ctx=4096, rate=200, source=ENDLESS) as simulator, connect("tgi", simulator.url) as a:
        running = [a.submit(request(max_tokens=507)) for _ in range(2)]
        simulator.wait_for(active=1, queued=1)
        found = a.properties()
        assert (found.queue_depth, found.slots_free, found.kv_usage) == (1, 126, 511 / 4096)
        for stream in running:
            stream.cancel()
        simulator.wait_for(active=0)


def test_what_ended_and_what_failed_is_counted():
    with Simulator("tgi") as simulator, connect("tgi", simulator.url, retry=ONCE) as adapter:
        list(adapter.stream(request()))
        ask(simulator, "POST", "/generate", {"inputs": ""})
        page = ask(simulator, "GET", "/metrics")[2].decode()
    assert "\ntgi_request_success 1\n" in page
    assert "\ntgi_request_count 2\n" in page
    assert 'tgi_request_failure{err="validation"} 1\n' in page


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2", 404), ("GET", "/generate", 405)])
def test_other_routes_and_methods_are_refused_without_a_word(method, path, status):
    with Simulator("tgi") as simulator:
        found, _, body = ask(simulator, method, path)
        assert (found, body) == (status, b"")


def test_the_one_model_is_listed():
    with Simulator("tgi", model="org/m") as simulator:
        assert json.loads(ask(simulator, "GET", "/v1/models")[2])["data"][0]["id"] == "org/m"


def test_what_is_no_version_is_refused():
    with pytest.raises(ValueError, match="a version of TGI"):
        Simulator("tgi", version="latest")


def test_the_key_is_asked_for_where_tgi_asks():
    with Simulator("tgi", api_key="Key") as simulator:
        with connect("tgi", simulator.url, retry=ONCE) as adapter:
            assert not adapter.health().ready  # though /health and /info ask for no key
            assert adapter.properties().model == "sim-model"
            (error,) = list(adapter.stream(request()))
            assert (error.reason, error.upstream.status) == ("UPSTREAM_AUTH", 401)
            with pytest.raises(WorkerError, match="credentials"):
                adapter.tokenize("x", add_special=True)
        with connect("tgi", simulator.url, credentials=lambda: "Key") as adapter:
            assert isinstance(list(adapter.stream(request()))[-1], End)


# --- text ---------------------------------------------------------------------------------------------------------


def test_a_seed_says_the_same_with_all_ids_and_logprobs():
    with Simulator("tgi", source=WordSource(eos_rate=0)) as simulator, connect("tgi", simulator.url) as adapter:
        once, again = (list(adapter.stream(request(return_token_ids=True, logprobs=2))) for _ in range(2))
        assert text(once) == text(again) != text(list(adapter.stream(request(seed=8))))
        end = once[-1]
        assert (end.token_ids_complete, end.tokens_out, end.usage_source) == (True, 8, "engine")
        tokens = [event for event in once if isinstance(event, Token)]
        ids = [number for event in tokens for number in event.token_ids] + list(end.token_ids_tail)
        assert DEFAULT_VOCABULARY.decode(ids).decode("utf-8", "replace") == text(once)
        for event in tokens:
            for logprob in event.logprobs:
                assert logprob.top[0].token_id == logprob.token_id
                assert len(logprob.top) == 2


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_64_seeds_say_the_same_twice_and_on_two_workers(way):
    def said(adapter, seed):
        asked = {"determinism": DeterminismLevel.STRICT, "engine_options": {"batch_invariant": True}}
        events = list(getattr(adapter, way)(request(seed=seed, max_tokens=24, **asked)))
        assert (events[0].determinism, events[0].seed) == (DeterminismLevel.STRICT, seed)
        return text(events), events[-1].tokens_out

    with (
        Simulator("tgi") as one,
        Simulator("tgi") as two,
        connect("tgi", one.url) as first,
        connect("tgi", two.url) as second,
    ):
        once = [said(first, seed) for seed in range(64)]
        assert [said(first, seed) for seed in range(64)] == once
        assert [said(second, seed) for seed in reversed(range(64))] == once[::-1]
        assert len(set(once)) > 60


@pytest.mark.parametrize(
    "knob", [{"top_k": 5}, {"top_p": 0.5}, {"typical_p": 0.5}, {"temperature": 0.5}, {"do_sample": True}]
)
def test_any_warper_makes_it_sample(knob):
    """Only what was sampled has a seed to tell."""
    with Simulator("tgi") as simulator:
        asked = {"details": True, "max_new_tokens": 4, "seed": 3}
        assert details(simulator, parameters=asked | knob)["details"]["seed"] == 3
        assert details(simulator, parameters=asked | {"temperature": 1.0})["details"]["seed"] is None


@pytest.mark.parametrize(("version", "length"), [("1.4.0", 100), ("2.4.0", 100), ("3.0.0", 128 - 4)])
def test_without_parameters_it_samples_and_with_empty_ones_it_is_greedy(version, length):
    with Simulator("tgi", version=version, ctx=128, source=ScriptedSource(tell)) as simulator:
        assert details(simulator)["generated_text"] == "s" * length
        assert details(simulator, parameters={})["generated_text"] == "g" * length


def tell(asked):
    return ["s" if asked.temperature else "g"] * 1000


def test_before_1_4_it_was_greedy_without_parameters():
    with Simulator("tgi", version="1.3.4", source=ScriptedSource(tell)) as simulator:
        assert details(simulator)["generated_text"] == "g" * 100


def test_a_whole_answer_tells_what_was_asked_for():
    with Simulator("tgi", source=ScriptedSource(["a", "b"])) as simulator:
        asked = {"max_new_tokens": 2, "details": True, "top_n_tokens": 1, "return_full_text": True}
        status, headers, body = ask(simulator, "POST", "/generate", {"inputs": "hi", "parameters": asked})
        said = json.loads(body)
        assert (status, said["generated_text"]) == (200, "hiab")
        assert [token["text"] for token in said["details"]["tokens"]] == ["a", "b"]
        assert (said["details"]["finish_reason"], len(said["details"]["top_tokens"])) == ("length", 2)
        assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("3", "2")


def test_the_route_of_the_clients_wraps_a_whole_answer_and_begins_it_with_the_prompt():
    with Simulator("tgi", source=ScriptedSource(["a"])) as simulator:
        asked = {"inputs": "hi ", "parameters": {"max_new_tokens": 1}}
        assert json.loads(ask(simulator, "POST", "/", asked)[2]) == [{"generated_text": "hi a"}]
        streamed = ask(simulator, "POST", "/", asked | {"stream": True})[2]
        assert json.loads(streamed.removeprefix(b"data: "))["generated_text"] == "hi a"


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_stop_string_that_it_runs_past_ends_the_stream_by_closing_it(way):
    """It would go on to the limit: the connection is closed, the worker free again."""
    options = {"source": ScriptedSource([" a", " ENDx", *["y"] * 1000]), "faults": ["stall@2"]}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url, retry=ONCE) as adapter:
        events = list(getattr(adapter, way)(request(max_tokens=1000, stop=["END"])))
        assert text(events) == " a "
        assert (events[-1].stop_text, events[-1].finish_reason_source) == ("END", "inferred")
        simulator.wait_for(active=0, cancelled=1)


def test_a_stop_string_at_the_end_of_a_token_is_its_own_end():
    with Simulator("tgi", source=ScriptedSource([" a", " EN", "D", "y"])) as simulator:
        with connect("tgi", simulator.url) as adapter:
            end = list(adapter.stream(request(stop=["END"])))[-1]
        assert (end.stop_text, end.finish_reason_raw, end.tokens_out) == ("END", "stop_sequence", 3)
        simulator.wait_for(served=1, cancelled=0)


# --- faults and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.0.4", "3.3.7"])
@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("overloaded", "ADMISSION_REJECT", "OVERLOADED"),
        ("error@0", "POOL_UNAVAILABLE", "ENGINE_ERROR"),
        ("error@2", "WORKER_RESET", "ENGINE_ERROR"),
        ("error@2:Out of available cache blocks", "WORKER_RESET", "KV_EXHAUSTED"),
        ("error@2:CUDA out of memory. Tried to allocate 2 GiB", "WORKER_RESET", "KV_EXHAUSTED"),
        ("error@end", "WORKER_RESET", "ENGINE_ERROR"),
        ("reset@2", "WORKER_RESET", "DISCONNECTED"),
        ("close@2", "WORKER_RESET", "TRUNCATED"),
        ("eof", "WORKER_RESET", "TRUNCATED"),
    ],
)
def test_scripted_faults_speak_as_tgi_does(version, fault, code, reason):
    with (
        Simulator("tgi", version=version, faults=[fault]) as simulator,
        connect("tgi", simulator.url, retry=ONCE) as adapter,
    ):
        error = list(adapter.stream(request()))[-1]
        assert isinstance(error, Error), error
        assert (error.code, error.reason) == (code, reason)


def test_one_that_loads_says_so_as_an_unwell_one_does():
    """A real one has its port closed; the adapter waits for either."""
    retry = Retry(attempts=3, base=0)
    with Simulator("tgi", load_time=60) as simulator, connect("tgi", simulator.url, retry=retry) as adapter:
        health = adapter.health()
        assert (health.live, health.ready, health.detail) == (True, False, "unhealthy")
        (error,) = list(adapter.stream(request()))
        assert (error.code, error.reason, error.attempts) == ("POOL_UNAVAILABLE", "ENGINE_ERROR", 3)
        simulator.finish_loading()
        assert isinstance(list(adapter.stream(request()))[-1], End)
        simulator.inject("loading*2")
        assert next(adapter.stream(request())).attempt == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "expected struct GenerateRequest"),
        ({"inputs": 5}, "inputs: invalid type: integer `5`, expected a string"),
        ({"inputs": "x", "parameters": []}, "expected struct GenerateParameters"),
        ({"inputs": "x", "parameters": {"temperature": "hot"}}, 'invalid type: string "hot", expected f32'),
        ({"inputs": "x", "parameters": {"temperature": 10**400}}, "parameters.temperature: number out of range"),
        ({"inputs": "x", "parameters": {"max_new_tokens": -1}}, "invalid value: integer `-1`, expected u32"),
        ({"inputs": "x", "parameters": {"max_new_tokens": 1.5}}, "invalid type: floating point `1.5`, expected u32"),
        ({"inputs": "x", "parameters": {"seed": 2**64}}, "expected u64"),
        ({"inputs": "x", "parameters": {"do_sample": None}}, "invalid type: null, expected a boolean"),
        ({"inputs": "x", "parameters": {"details": 1}}, "expected a boolean"),
        ({"inputs": "x", "parameters": {"top_k": True}}, "invalid type: boolean `true`, expected i32"),
        ({"inputs": "x", "parameters": {"stop": "END"}}, "expected a sequence"),
        ({"inputs": "x", "parameters": {"stop": [1]}}, "parameters.stop[0]: invalid type"),
        ({"inputs": "x", "parameters": {"adapter_id": {}}}, "invalid type: map, expected a string"),
        ({"inputs": "x", "parameters": {"grammar": "x"}}, "missing field `type`"),
        ({"inputs": "x", "parameters": {"grammar": {"type": "xml"}}}, "unknown variant `xml`"),
        ({"inputs": "x", "parameters": {"grammar": {"type": "json"}}}, "missing field `value`"),
        ({"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": 5}}}, "expected a string"),
    ],
)
def test_what_is_of_a_wrong_type_is_refused_in_plain_text(body, said):
    with Simulator("tgi") as simulator:
        status, headers, told = ask(simulator, "POST", "/generate_stream", body)
        assert (status, headers["content-type"]) == (422, "text/plain; charset=utf-8")
        assert told.startswith(b"Failed to deserialize the JSON body into the target type: ")
        assert said in told.decode()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"inputs":"\\ud800"}', b"[" * 100_000, b"1" * 5000, b'{"inputs":NaN}']
)
def test_what_is_no_json_is_refused_in_plain_text(body):
    with Simulator("tgi") as simulator:
        connection = http.client.HTTPConnection(*simulator.address, timeout=10)
        connection.request("POST", "/generate", body, JSON)
        reply = connection.getresponse()
        assert reply.status == 400
        assert reply.read().startswith(b"Failed to parse the request body as JSON: ")
        connection.close()


def test_bytes_that_are_no_request_are_refused_without_a_word():
    with Simulator("tgi") as simulator:
        connection = http.client.HTTPConnection(*simulator.address, timeout=10)
        connection.connect()
        connection.sock.sendall(b"hello\r\n\r\n")
        answer = connection.sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\n")
        connection.close()


# --- tokenizer ----------------------------------------------------------------------------------------------------


def test_the_tokenizer_routes_serve_the_adapter():
    with Simulator("tgi") as simulator, connect("tgi", simulator.url) as adapter:
        assert adapter.tokenize("the é sun", add_special=True) == tuple(
            DEFAULT_VOCABULARY.encode("the é sun", add_bos=True)
        )
        with pytest.raises(WorkerError, match="adds special tokens always"):
            adapter.tokenize("x")
        prompt = adapter.apply_template([{"role": "user", "content": "hi"}])
        assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
        assert "ab<|im_end|>" in adapter.apply_template(parts)
        with pytest.raises(WorkerError) as refused:
            adapter.apply_template([{"content": "no role"}])
        assert refused.value.error.reason == "VALIDATION"


def test_a_token_s_place_is_told_in_characters():
    with Simulator("tgi") as simulator:
        said = json.loads(ask(simulator, "POST", "/tokenize", {"inputs": "aö!"})[2])
        assert [(token["text"], token["start"], token["stop"]) for token in said] == [
            ("", 0, 0),  # the BOS, which is in no text
            ("a", 0, 1),
            ("ö", 1, 2),
            ("!", 2, 3),
        ]
        cut = json.loads(ask(simulator, "POST", "/tokenize", {"inputs": "aö!", "parameters": {"truncate": 2}})[2])
        assert [token["id"] for token in cut] == [token["id"] for token in said[-2:]]
        body = {"messages": [{"role": "user", "content": "hi"}]}
        chat = json.loads(ask(simulator, "POST", "/chat_tokenize", body)[2])
        ids = [token["id"] for token in chat["tokenize_response"]]
        assert DEFAULT_VOCABULARY.decode(ids).decode() == chat["templated_text"]


def test_an_adapter_id_changes_what_is_said_and_is_refused_where_it_is_no_name():
    with Simulator("tgi") as simulator, connect("tgi", simulator.url) as adapter:
        plain, lora, again = (
            text(list(adapter.stream(request(max_tokens=20, engine_options=options))))
            for options in ({}, {"adapter_id": "org/lora"}, {"adapter_id": "org/lora"})
        )
        assert plain != lora == again
        with pytest.raises(InvalidRequestError, match="adapter_id"):
            adapter.stream(request(engine_options={"adapter_id": 5}))
