"""What the transcripts do not show of llama-server's native routes, or show only once."""

from __future__ import annotations

import struct
from itertools import cycle, repeat

import pytest

from worker_adapters.simulator import ScriptedSource, Simulator

from .client import Client, body_of, completion, events_of, exchange, get, post

ENDLESS = ScriptedSource(lambda _: repeat(" on"))


@pytest.fixture(scope="module")
def sim():
    with Simulator("llamacpp", slots=2, ctx=1024) as simulator:
        yield simulator


def whole(simulator, **fields):
    return body_of(exchange(simulator, completion(stream=False, **fields)))


def stream(simulator, **fields):
    return events_of(exchange(simulator, completion(**fields)))


def said(events):
    return "".join(event["content"] for event in events)


def scripted(*script, **options):
    return Simulator("llamacpp", source=ScriptedSource(list(script)), **options)


def error(response):
    return int(response.split(b" ")[1]), body_of(response)["error"]


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_both_paths_complete(sim, path):
    assert body_of(exchange(sim, post(path, {"prompt": "a", "n_predict": 1, "seed": 1})))["stop"]


def test_a_stream_and_a_whole_answer_say_the_same(sim):
    assert said(stream(sim, n_predict=100)) == whole(sim, n_predict=100)["content"]


def test_the_same_request_gets_the_same_answer_whatever_ran_before(sim):
    answers = [whole(sim, n_predict=50, temperature=0.7, cache_prompt=flag)["content"] for flag in (True, False)]
    assert answers[0] == answers[1]
    assert answers[0] != whole(sim, n_predict=50, temperature=0.7, seed=2)["content"]


def test_greedy_answers_do_not_depend_on_the_seed(sim):
    assert whole(sim, temperature=0, seed=1)["content"] == whole(sim, temperature=-1, seed=9)["content"]


def test_a_seed_of_minus_one_is_another_one_each_time_and_is_not_told(sim):
    one, other = (whole(sim, n_predict=30, seed=-1) for _ in range(2))
    assert one["content"] != other["content"]
    assert one["generation_settings"]["seed"] == 2**32 - 1


def test_a_server_with_the_same_seed_draws_the_same_seeds():
    answers = []
    for _ in range(2):
        with Simulator("llamacpp", seed=5) as simulator:
            answers.append([whole(simulator, n_predict=20, seed=-1)["content"] for _ in range(3)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("sent", "echoed"), [(-2, 4294967294), (2**40 + 5, 5), (1.7, 1), (2**70, 0), (None, 2**32 - 1)]
)
def test_a_seed_is_wrapped_to_32_bits(sim, sent, echoed):
    assert whole(sim, seed=sent)["generation_settings"]["seed"] == echoed


@pytest.mark.parametrize(
    ("name", "sent", "echoed"),
    [("temperature", -1, 0.0), ("top_p", 5, 1.0), ("top_k", -3, 0), ("min_p", 2, 1.0), ("mirostat", 9, 2)],
)
def test_values_out_of_range_are_clamped(sim, name, sent, echoed):
    value = whole(sim, **{name: sent})["generation_settings"][name]
    assert (value, type(value)) == (echoed, type(echoed))


def test_floats_are_echoed_as_32_bits_hold_them(sim):
    settings = whole(sim, temperature=0.3, repeat_penalty=1.1)["generation_settings"]
    assert settings["temperature"] == struct.unpack("f", struct.pack("f", 0.3))[0]
    assert settings["repeat_penalty"] == struct.unpack("f", struct.pack("f", 1.1))[0]


@pytest.mark.parametrize("name", ["n_predict", "max_tokens", "max_completion_tokens"])
def test_the_budget_has_three_names(sim, name):
    fields = {"n_predict": None, name: 3}
    assert whole(sim, **fields)["tokens_predicted"] == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_predict": -2}, "Field 'n_predict': Value must be between -1 <= value <= 2147483647, but got -2"),
        ({"n_cmpl": 3}, "Field 'n_cmpl': Value must be between 1 <= value <= 2, but got 3"),
        ({"stream": 1}, "Field 'stream': [json.exception.type_error.302] type must be boolean, but is number"),
        ({"seed": "x"}, "Field 'seed': [json.exception.type_error.302] type must be number, but is string"),
        ({"prompt": 5}, '"prompt" elements must be a string, a list of tokens, a JSON object containing a prompt'),
        ({"prompt": [[]]}, '"prompt" elements must be a string'),
        ({"prompt": [-1]}, "Prompt contains invalid tokens"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": []}}, "Multimodal data provided, but model"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_wrong_fields_are_answered_with_400_also_when_streaming(sim, fields, message, streaming):
    status, told = error(exchange(sim, completion(**({"stream": streaming} | fields))))
    assert (status, told["code"], told["type"]) == (400, 400, "invalid_request_error")
    assert told["message"].startswith(message)


def test_unknown_fields_and_models_are_ignored(sim):
    assert whole(sim, model="other", nonsense=1)["model"] == "sim-model"


def test_prompts_may_be_text_ids_both_or_an_object(sim):
    ids = body_of(exchange(sim, post("/tokenize", {"content": "the sun", "add_special": True})))["tokens"]
    prompts = ["the sun", ids, [1, "the sun"], {"prompt_string": "the sun"}]
    answers = [whole(sim, prompt=prompt) for prompt in prompts]
    assert {answer["prompt"] for answer in answers} == {"<s>the sun"}
    assert len({answer["content"] for answer in answers}) == 1


def test_several_prompts_give_a_list_in_their_order(sim):
    answers = whole(sim, prompt=["a", "b", "c"])
    assert [(answer["index"], answer["prompt"]) for answer in answers] == [(0, "<s>a"), (1, "<s>b"), (2, "<s>c")]


def test_prompts_that_find_no_slot_come_after_the_others_with_a_null_event():
    with Simulator("llamacpp", slots=1) as simulator:
        events = stream(simulator, prompt=["a", "b"], n_predict=2)
    assert [event and (event["index"], event["stop"]) for event in events] == [
        *((0, False), (0, False), (0, True)),
        None,
        *((1, False), (1, False), (1, True)),
    ]


def test_copies_of_a_prompt_have_seeds_in_a_row(sim):
    answers = whole(sim, n_cmpl=2, n_predict=20)
    assert [answer["generation_settings"]["seed"] for answer in answers] == [1, 2]
    assert answers[1]["content"] == whole(sim, seed=2, n_predict=20)["content"]


def test_the_end_of_text_is_a_token_of_its_own_without_text():
    with scripted("a") as simulator:
        events = stream(simulator)
    assert [(event["content"], event["tokens"]) for event in events] == [("a", [326]), ("", [2]), ("", [])]
    assert (events[-1]["stop_type"], events[-1]["tokens_predicted"]) == ("eos", 2)


def test_a_stop_word_over_several_tokens_is_never_shown():
    with scripted("a", "b<", "|", "en", "d|>x", "y") as simulator:
        events = stream(simulator, stop=["<|end|>"])
        answer = whole(simulator, stop=["<|end|>", "never"])
    assert [event["content"] for event in events] == ["a", "", "", "", "b", ""]
    assert events[-1]["stopping_word"] == answer["stopping_word"] == "<|end|>"
    assert (answer["content"], answer["stop_type"]) == ("ab", "word")


def test_text_held_back_for_a_stop_word_comes_with_what_resolves_it():
    with scripted("a", "<|", "en", "e") as simulator:
        events = stream(simulator, stop="<|end|>", n_predict=4)
    assert [event["content"] for event in events] == ["a", "", "", "<|ene", ""]


def test_of_two_stop_words_the_first_in_the_text_counts():
    with scripted("one two") as simulator:
        assert whole(simulator, stop=["two", "one"])["stopping_word"] == "one"


def test_a_split_character_is_one_event_with_its_last_id_and_whole_answers_have_all():
    data = "🙂".encode()
    with scripted(*(data[at : at + 1] for at in range(4)), "!") as simulator:
        events = stream(simulator, n_predict=5)
        answer = whole(simulator, n_predict=5, return_tokens=True)
    assert [(event["content"], event["tokens"], event["tokens_predicted"]) for event in events[:2]] == [
        ("🙂", [5 + data[-1]], 4),
        ("!", [262], 5),
    ]
    assert answer["tokens"] == [*(5 + byte for byte in data), 262]


def test_a_character_cut_off_by_the_limit_is_dropped_from_a_stream_and_replaced_in_a_whole_answer():
    with scripted("a", b"\xf0", b"\x9f", b"\x99", b"\x82") as simulator:
        assert said(stream(simulator, n_predict=3)) == "a"
        assert whole(simulator, n_predict=3)["content"] == "a\ufffd"


def test_invalid_bytes_do_not_hold_back_anything():
    with scripted("a", b"\xff", b"\x80", "b") as simulator:
        assert [event["content"] for event in stream(simulator, n_predict=4)] == ["a", "\ufffd", "\ufffd", "b", ""]


def test_probabilities_after_sampling_have_other_names(sim):
    answer = whole(sim, n_predict=2, n_probs=3, post_sampling_probs=True)
    entry = answer["completion_probabilities"][0]
    assert list(entry) == ["id", "token", "bytes", "prob", "top_probs"]
    assert len(entry["top_probs"]) == 3
    assert 0 < entry["prob"] <= 1


def test_the_context_ends_an_answer(sim):
    answer = whole(sim, n_predict=-1)
    assert (answer["truncated"], answer["stop_type"]) == (True, "limit")
    assert answer["tokens_predicted"] + answer["tokens_evaluated"] == 512


@pytest.mark.parametrize("streaming", [True, False])
def test_a_prompt_as_long_as_the_context_is_refused(sim, streaming):
    status, told = error(exchange(sim, completion(prompt=[1] * 512, stream=streaming)))
    assert (status, told["type"]) == (400, "exceed_context_size_error")
    assert (told["n_prompt_tokens"], told["n_ctx"]) == (512, 512)
    assert whole(sim, prompt=[1] * 511)["stop"]


def test_a_full_cache_kills_everything_that_runs():
    with Simulator("llamacpp", rate=500, ctx=1000, kv_tokens=60, source=ENDLESS) as simulator:
        with Client(simulator) as first, Client(simulator) as second:
            first.send(completion(n_predict=-1))
            second.send(completion(n_predict=-1, stream=False))
            events = events_of(first.rest())
            status, told = error(second.response())
        assert events[-1] == {
            "error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}
        }
        assert not any(event.get("stop") for event in events)
        assert (status, told["message"]) == (500, "Context size has been exceeded.")
        simulator.wait_for(failed=2, active=0)


def test_a_silent_stream_is_pinged_once_it_has_a_slot():
    with Simulator("llamacpp", first_token_delay=1.3) as simulator:
        response = exchange(simulator, completion(sse_ping_interval=1, n_predict=1))
        assert response.partition(b"\r\n\r\n")[2].startswith(b"3\r\n:\n\n\r\n")
        assert response.count(b":\n\n") == 1


def test_a_whole_answers_client_is_missed_while_others_run():
    """The engine looks after it only in a quiet second: {busy,idle}_disconnect_nonstream_*."""
    with Simulator("llamacpp", rate=100, ctx=100_000, source=ENDLESS) as simulator, Client(simulator) as streaming:
        left = Client(simulator).send(completion(n_predict=-1, stream=False))
        simulator.wait_for(lambda state: state.tokens)
        streaming.send(completion(n_predict=-1))
        simulator.wait_for(active=2)
        left.sock.close()
        tokens = simulator.state.tokens
        assert simulator.wait_for(lambda state: state.tokens > tokens + 250).active == 2
        streaming.sock.close()
        simulator.wait_for(active=0, cancelled=2)


def test_progress_leaves_out_what_the_cache_holds():
    with Simulator("llamacpp", ctx=20_000) as simulator:
        prompt = list(range(300, 500)) * 40
        stream(simulator, prompt=prompt, n_predict=1)
        events = stream(simulator, prompt=[*prompt, *[300] * 1000], n_predict=1, return_progress=True)
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert [step["processed"] for step in progress] == [8000, 9000]
    assert {(step["total"], step["cache"]) for step in progress} == {(9000, 8000)}


def test_a_similar_prompt_goes_to_the_slot_that_knows_it(sim):
    first = whole(sim, prompt="a quite long prompt about the sea", id_slot=0)
    again = whole(sim, prompt="a quite long prompt about the sea and the sky")
    assert (first["id_slot"], again["id_slot"]) == (0, 0)
    assert again["timings"]["cache_n"] >= first["tokens_evaluated"]
    assert again["timings"]["cache_n"] + again["timings"]["prompt_n"] == again["tokens_evaluated"]


def test_tokens_and_text_go_both_ways(sim):
    text = "the sun 🙂 shines… <b>"
    tokens = body_of(exchange(sim, post("/tokenize", {"content": text})))["tokens"]
    assert body_of(exchange(sim, post("/detokenize", {"tokens": tokens}))) == {"content": text}
    pieces = body_of(exchange(sim, post("/tokenize", {"content": "🙂", "with_pieces": True})))["tokens"]
    assert [piece["piece"] for piece in pieces] == [[byte] for byte in "🙂".encode()]
    assert body_of(exchange(sim, post("/tokenize", {}))) == {"tokens": []}


def test_an_id_that_does_not_exist_is_a_server_error(sim):
    status, told = error(exchange(sim, post("/detokenize", {"tokens": [99999]})))
    assert (status, told["type"]) == (500, "server_error")
    assert told["message"].startswith("vector::_M_range_check")


def test_templates_need_messages_with_roles(sim):
    assert error(exchange(sim, post("/apply-template", {})))[0] == 400
    assert error(exchange(sim, post("/apply-template", {"messages": [{"content": "x"}]})))[0] == 500
    parts = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "add_generation_prompt": False,
    }
    assert body_of(exchange(sim, post("/apply-template", parts))) == {"prompt": "<|im_start|>user\nhi<|im_end|>\n"}


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b'{"prompt": "a"', b'"\xff"', b'{"prompt": "\\ud800"}', b"NaN"])
def test_what_is_not_json_is_a_server_error(sim, body):
    status, told = error(exchange(sim, post("/completion", body)))
    assert (status, told["type"]) == (500, "server_error")
    assert told["message"].startswith("[json.exception.parse_error.101] parse error at line 1, column ")


def test_a_body_that_is_no_object_is_a_bad_request(sim):
    assert error(exchange(sim, post("/completion", [])))[0] == 400


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/completion"), 404),
        (post("/health", {}), 404),
        (post("/v1/chat/completions", {}), 404),
        (post("/slots/0?action=erase", {}), 501),
        (post("/infill", {}), 501),
        (post("/v1/rerank", {}), 501),
    ],
)
def test_wrong_methods_are_unknown_paths_and_features_are_off(sim, request_, status):
    assert error(exchange(sim, request_))[0] == status


@pytest.mark.parametrize(
    "header", ["Authorization: Bearer key", "Authorization: key", "X-Api-Key: key", "authorization: Bearer key"]
)
def test_the_key_may_come_in_several_ways(header):
    with Simulator("llamacpp", api_key="key") as simulator:
        assert exchange(simulator, get("/props", header)).startswith(b"HTTP/1.1 200 ")


def test_the_key_is_checked_before_the_path_and_loading_before_both():
    with Simulator("llamacpp", api_key="key", load_time=3600) as simulator:
        assert error(exchange(simulator, get("/nothing")))[0] == 503
        simulator.finish_loading()
        assert error(exchange(simulator, get("/nothing")))[0] == 401
        assert error(exchange(simulator, get("/nothing", "Authorization: Basic key")))[0] == 401
        assert error(exchange(simulator, get("/nothing", "X-Api-Key: key")))[0] == 404


def test_the_props_follow_the_options():
    with Simulator("llamacpp", slots=4, ctx=4000, model="m", endpoint_slots=False) as simulator:
        props = body_of(exchange(simulator, get("/props")))
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (4, 1000)
    assert (props["model_alias"], props["endpoint_slots"]) == ("m", False)


def test_a_busy_server_says_so_if_asked():
    with Simulator("llamacpp", slots=1, rate=1, source=ENDLESS) as simulator, Client(simulator) as client:
        assert exchange(simulator, get("/slots?fail_on_no_slot=1")).startswith(b"HTTP/1.1 200 ")
        client.send(completion(n_predict=-1))
        simulator.wait_for(active=1)
        status, told = error(exchange(simulator, get("/slots?fail_on_no_slot=1")))
        assert (status, told["message"]) == (503, "no slot available")


def test_metrics_count_what_was_done():
    with Simulator("llamacpp", source=ScriptedSource(lambda _: cycle("ab"))) as simulator:
        whole(simulator, prompt="the sun", n_predict=5)
        page = exchange(simulator, get("/metrics")).decode()
    assert "\nllamacpp:tokens_predicted_total 5\n" in page
    assert "\nllamacpp:prompt_tokens_total 5\n" in page
    assert "\nllamacpp:requests_processing 0\n" in page


def test_a_router_wants_a_model_and_proxies_in_chunks():
    with Simulator("llamacpp", router=True, model="m", load_time=3600) as simulator:
        assert body_of(exchange(simulator, get("/props")))["role"] == "router"
        request = {"prompt": "a", "n_predict": 1}
        assert error(exchange(simulator, post("/completion", request)))[1]["message"] == (
            "model name is missing from the request"
        )
        assert error(exchange(simulator, post("/completion", request | {"model": "zz"})))[1]["message"] == (
            "model 'zz' not found"
        )
        for streaming in (True, False):
            reply = exchange(simulator, post("/completion", request | {"model": "m", "stream": streaming}))
            assert b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n" in reply
        assert exchange(simulator, get("/slots?model=m")).startswith(b"HTTP/1.1 200 ")
