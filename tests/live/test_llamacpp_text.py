"""What a real llama-server says, through the adapter: text, counts, seeds, knobs, characters, ends, constraints."""

from __future__ import annotations

import json
import time

import pytest
import tiny_gguf
from asking import MODES, ask, assert_error, encoded, post, request, run, text
from llama_server import LlamaServer

from worker_adapters import DeterminismLevel, End, InvalidRequestError, Metrics, Started, Token, connect

pytestmark = [pytest.mark.live, pytest.mark.req("OC-ADAPT-5001")]

EMOJI = "🙂"  # four byte tokens in the tiny model

# generation_settings that a request can't set, or need not: what each is.
NO_KNOBS = {
    "max_tokens": "n_predict under its other name",
    "stream": "not about sampling",
    "grammar": "sent if asked for; its absence is no grammar",
    "grammar_lazy": "of tool calls: comes with a chat request's tools, which /completion has not",
    "grammar_triggers": "as grammar_lazy",
    "preserved_tokens": "as grammar_lazy",
    "chat_format": "of the parser of chat replies; /completion gives the text as it is",
    "reasoning_format": "as chat_format",
    "reasoning_in_content": "as chat_format",
    "generation_prompt": "as chat_format",
    "speculative.types": "of the server's command line; properties() looks at it before strict is granted",
}
# What encode sends and generation_settings does not echo: why it is sent.
NOT_ECHOED = {
    "prompt": "echoed beside the settings",
    "cache_prompt": "about the cache, seen in timings.cache_n",
    "id_slot": "echoed beside the settings",
    "n_cmpl": "number of answers, seen in the events' index",
    "n_indent": "of infill-like requests, off at 0",
    "t_max_predict_ms": "a time limit, off at -1",
    "return_progress": "about the stream's events",
    "n_cache_reuse": "about the cache, off at 0",
    "reasoning_budget_tokens": "of models that think aloud, unlimited at -1",
    "reasoning_control": "of chat requests, off",
}


@pytest.fixture(scope="module")
def server():
    with LlamaServer() as running:
        yield running


@pytest.fixture(scope="module")
def adapter(server):
    with connect("llamacpp", server.url) as made:
        yield made


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def tokens(events):
    return [event for event in events if isinstance(event, Token)]


def end(events) -> End:
    assert isinstance(events[-1], End), events[-1]
    return events[-1]


# --- text and counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.0},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2, "presence_penalty": 0.5},
        {"prompt": "rain came down ☂ over 中 hills", "max_tokens": 300},
        {"prompt": ""},
    ],
)
def test_the_text_is_that_of_the_same_request_not_streamed(server, adapter, mode, fields):
    asked = request(**fields)
    events = run(adapter, asked, mode)
    whole = post(server.port, "/completion", encoded(asked, stream=False))
    # Where the limit falls into a character, the stream drops its bytes and the whole answer shows U+FFFD.
    assert text(events) == whole["content"].rstrip("\ufffd") != ""
    assert end(events).tokens_out == whole["tokens_predicted"]
    assert end(events).tokens_in == whole["tokens_evaluated"]


def test_events_carry_the_facts(adapter, mode):
    events = ask(adapter, mode, task_id=f"task-{mode}", ignore_eos=True)
    started, metrics, last = events[0], events[-2], end(events)
    assert isinstance(started, Started)
    assert (started.task_id, started.engine, started.seed, started.attempt) == (f"task-{mode}", "llamacpp", 7, 1)
    assert (started.sampler_profile_version, started.determinism) == ("v1", DeterminismLevel.BEST_EFFORT)
    assert started.tokens_in == last.tokens_in == len(adapter.tokenize("we see", add_special=True))
    assert (last.tokens_out, last.usage_source, last.finish_reason_source) == (64, "engine", "engine")
    assert (last.finish_reason, last.finish_reason_raw) == ("length", "limit")
    assert isinstance(metrics, Metrics)
    assert metrics.values["predicted_n"] == metrics.values["tokens_out"] == 64
    assert metrics.values["latency_first_token_ms"] > 0
    assert metrics.values["latency_decode_ms"] == last.decode_time_ms


@pytest.mark.req("OC-ADAPT-5010")
def test_seeds_repeat_and_differ(adapter, mode):
    texts = {seed: text(ask(adapter, mode, seed=seed, ignore_eos=True)) for seed in (1, 2, 2**32 - 2)}
    assert len(set(texts.values())) == 3
    assert all(text(ask(adapter, mode, seed=seed, ignore_eos=True)) == said for seed, said in texts.items())


def test_a_missing_seed_is_derived_from_the_task_and_reported(adapter, mode):
    first, again = (ask(adapter, mode, seed=None, task_id="a task") for _ in range(2))
    assert text(first) == text(again) == text(ask(adapter, mode, seed=first[0].seed))


@pytest.mark.req("OC-ADAPT-5010")
def test_temperature_0_is_greedy(adapter, mode):
    by_seed = {text(ask(adapter, mode, temperature=0.0, seed=seed)) for seed in range(4)}
    assert by_seed == {text(ask(adapter, mode, temperature=1.0, top_k=1))}


@pytest.mark.req("OC-ADAPT-5010")
def test_every_sampling_knob_is_sent_and_arrives(server):
    """The server echoes its settings: each is either what encode sent, or no sampling knob, for a reason given here."""
    asked = request(
        max_tokens=5,
        temperature=0.75,
        top_k=20,
        top_p=0.875,
        min_p=0.03125,
        repetition_penalty=1.25,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        stop=("zz", "yy"),
        ignore_eos=True,
        logprobs=2,
    )
    sent = encoded(asked)
    settings = post(server.port, "/completion", {**sent, "stream": False})["generation_settings"]
    assert set(settings) - set(sent) == set(NO_KNOBS) - {"stream"}
    assert set(sent) - set(settings) == set(NOT_ECHOED)
    # ignore_eos shows as a bias of minus infinity on each token that ends a text, which JSON has no number for.
    bent = {"stream", "logit_bias"}
    for knob in set(sent) & set(settings) - bent:
        expected = pytest.approx(sent[knob]) if isinstance(sent[knob], float) else sent[knob]
        assert settings[knob] == expected, knob
    assert {entry["bias"] for entry in settings["logit_bias"]} == {None}


@pytest.mark.req("OC-ADAPT-5010")
def test_flags_of_the_server_do_not_leak_in(adapter, mode):
    flags = """--temp 0.1 --top-k 3 --top-p 0.5 --min-p 0.3 --repeat-penalty 1.9 --presence-penalty 1 --seed 5
        --samplers top_k;temperature --dry-multiplier 2 --mirostat 2 --xtc-probability 0.9 --typical 0.4 --top-nsigma 1
        --dynatemp-range 0.5 --ignore-eos -n 3"""
    with LlamaServer(extra=flags.split()) as other, connect("llamacpp", other.url) as there:
        assert text(ask(there, mode, max_tokens=200)) == text(ask(adapter, mode, max_tokens=200))


# --- characters -----------------------------------------------------------------------------------------------------


def test_split_characters_come_whole_and_cost_ids(adapter, mode):
    events = ask(adapter, mode, max_tokens=300, ignore_eos=True, return_token_ids=True)
    assert EMOJI in text(events)
    assert not any("\ufffd" in token.text for token in tokens(events))
    ids = [i for token in tokens(events) for i in token.token_ids]
    last = end(events)
    assert (last.tokens_out, last.usage_source) == (300, "engine")
    assert len(ids) + len(last.token_ids_tail) < 300
    assert last.token_ids_complete is False


def test_a_limit_in_mid_character_leaves_no_half(server, adapter, mode):
    """The whole answer ends in U+FFFD there; the stream ends before the character."""
    found = 0
    for limit in range(1, 40):
        asked = request(max_tokens=limit, ignore_eos=True)
        whole = post(server.port, "/completion", encoded(asked, stream=False))["content"]
        if whole.endswith("\ufffd"):
            found += 1
            events = run(adapter, asked, mode)
            assert text(events) == whole.rstrip("\ufffd")
            assert end(events).tokens_out == limit
    assert found >= 3


def test_ids_are_complete_where_no_character_is_split(adapter, mode):
    last = None
    for seed in range(40):
        events = ask(adapter, mode, prompt="key", max_tokens=6, ignore_eos=True, return_token_ids=True, seed=seed)
        last = end(events)
        if last.token_ids_complete:
            ids = [i for token in tokens(events) for i in token.token_ids] + list(last.token_ids_tail)
            assert len(ids) == last.tokens_out == 6
            assert adapter.detokenize(ids).strip() == text(events).strip()
            return
    raise AssertionError(f"no seed gave six whole tokens: {last}")


def test_ids_are_not_given_unasked(adapter, mode):
    events = ask(adapter, mode)
    assert {token.token_ids for token in tokens(events)} == {None}
    assert (end(events).token_ids_tail, end(events).token_ids_complete) == (None, False)


def test_bytes_that_are_no_character_become_one_replacement(mode):
    model = tiny_gguf.model(tiny_gguf.Options(invalid=True))
    with LlamaServer(model=model) as server, connect("llamacpp", server.url) as there:
        asked = request(max_tokens=400, ignore_eos=True)
        events = run(there, asked, mode)
        assert "\ufffd" in text(events)
        assert text(events) == post(server.port, "/completion", encoded(asked, stream=False))["content"]


# --- ends -----------------------------------------------------------------------------------------------------------


def test_a_stop_string_is_cut_and_named(adapter, mode):
    free = text(ask(adapter, mode, max_tokens=100, ignore_eos=True))
    for at in (10, 40, 90):
        stop = free[at : at + 7]  # several tokens long, so that it comes in pieces and is held back
        events = ask(adapter, mode, max_tokens=100, ignore_eos=True, stop=(stop,))
        assert text(events) == free[: free.index(stop)]
        assert (end(events).finish_reason, end(events).finish_reason_raw) == ("stop", "word")
        assert end(events).stop_text == stop


def test_the_first_of_four_stop_strings_wins(adapter, mode):
    free = text(ask(adapter, mode, max_tokens=100, ignore_eos=True))
    stops = (free[70:78], "never said", free[30:36], free[50:59])
    events = ask(adapter, mode, max_tokens=100, ignore_eos=True, stop=stops)
    first = min((stop for stop in stops if stop in free), key=free.index)
    assert text(events) == free[: free.index(first)]
    assert end(events).stop_text == first


def test_the_beginning_of_a_stop_string_that_does_not_come_is_given_out(adapter, mode):
    free = ask(adapter, mode, ignore_eos=True)
    almost = text(free)[20:26] + "\x00"
    assert text(ask(adapter, mode, ignore_eos=True, stop=(almost,))) == text(free)


def test_end_of_text_and_ignore_eos(adapter, mode):
    seed = next(s for s in range(50) if end(ask(adapter, mode, seed=s, max_tokens=500)).finish_reason == "stop")
    events = ask(adapter, mode, seed=seed, max_tokens=500, return_token_ids=True)
    last = end(events)
    assert (last.finish_reason_raw, last.stop_text) == ("eos", None)
    assert len(last.token_ids_tail) == 1  # the end-of-text token has an id and no text
    on = ask(adapter, mode, seed=seed, max_tokens=500, ignore_eos=True)
    assert (end(on).finish_reason, end(on).tokens_out) == ("length", 500)


def test_a_full_context_ends_the_text(mode):
    with LlamaServer(slots=1, ctx=256) as small, connect("llamacpp", small.url) as there:
        events = ask(there, mode, max_tokens=1000, ignore_eos=True)
        last = end(events)
        assert (last.finish_reason, last.finish_reason_raw) == ("length", "limit")
        assert last.tokens_out == 256 - last.tokens_in
        small.wait_for_log("truncated = 1")


# --- prompts --------------------------------------------------------------------------------------------------------


def test_prompt_tokens(adapter, mode):
    ids = adapter.tokenize("we see", add_special=True)
    by_ids = ask(adapter, mode, prompt=None, prompt_tokens=ids)
    assert text(by_ids) == text(ask(adapter, mode))
    assert end(by_ids).tokens_in == len(ids)


def test_a_token_the_model_lacks_is_refused(adapter, mode):
    error = assert_error(ask(adapter, mode, prompt=None, prompt_tokens=(10**6,)), "INVALID_PARAMS", "VALIDATION")
    assert (error.upstream.status, error.attempts, error.retriable) == (400, 1, False)


def test_tokenizer_round_trip(adapter):
    said = "rain came down over hills 🙂 中文 ß\n"
    ids = adapter.tokenize(said)
    assert adapter.detokenize(ids).removeprefix(" ") == said
    assert len(adapter.tokenize(said, add_special=True)) == len(ids) + 1
    assert len(adapter.tokenize("<|im_end|>")) == 1  # special tokens are parsed, as in prompts
    assert "\ufffd" in adapter.detokenize(adapter.tokenize("🙂")[:-1])


@pytest.mark.req("OC-ADAPT-5010")
def test_the_engines_template_makes_a_prompt(adapter, mode):
    prompt = adapter.apply_template([{"role": "user", "content": "we see"}])
    assert prompt == "<|im_start|>user\nwe see<|im_end|>\n<|im_start|>assistant\n"
    events = ask(adapter, mode, prompt=prompt)
    assert text(events)
    assert end(events).tokens_in == len(adapter.tokenize(prompt, add_special=True))
    assert "<|im_end|>" not in text(events)


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(adapter, mode):
    error = assert_error(ask(adapter, mode, prompt="rain " * 6000), "INVALID_PARAMS", "CONTEXT_TOO_LONG")
    assert "4096" in error.message
    assert "600" in error.message
    assert (error.upstream.type, error.attempts) == ("exceed_context_size_error", 1)


def test_two_megabytes_of_prompt_come_back_in_the_last_event(mode):
    """512 tokens of 4 KiB each: 2 MiB of ordinary words would be a quarter of a million, which this CPU needs hours for."""
    options = tiny_gguf.Options(long=4096)
    prompt = tiny_gguf.long_token(options) * 512
    assert len(prompt) > 2 * 1024 * 1024
    with LlamaServer(model=tiny_gguf.model(options)) as server, connect("llamacpp", server.url) as there:
        began = time.monotonic()
        events = ask(there, mode, prompt=prompt, max_tokens=20, ignore_eos=True)
        assert (end(events).tokens_out, end(events).finish_reason) == (20, "length")
        assert 512 <= end(events).tokens_in <= 515
        assert time.monotonic() - began < 30


# --- constraints and logprobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs(server, adapter, mode, count):
    asked = request(logprobs=count, max_tokens=30, ignore_eos=True)
    events = run(adapter, asked, mode)
    if count == 0:  # nothing to list, and no way to ask for the sampled token's alone
        assert all(token.logprobs == () for token in tokens(events))
        return
    given = [p for token in tokens(events) for p in token.logprobs]
    assert all(p.logprob <= 0 and len(p.top) == count and p.token_id is not None for p in given)
    whole = post(server.port, "/completion", encoded(asked, stream=False))["completion_probabilities"]
    assert [p.token_id for p in given] == [p["id"] for p in whole]
    assert [p.logprob for p in given] == pytest.approx([p["logprob"] for p in whole], abs=1e-3)


def test_json_schema(adapter, mode):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    for given in (schema, json.dumps(schema)):
        events = ask(adapter, mode, json_schema=given, max_tokens=100)
        assert list(json.loads(text(events))) == ["a"]
        assert end(events).finish_reason == "stop"


def test_grammar(adapter, mode):
    said = {text(ask(adapter, mode, grammar='root ::= "yes" | "no"', seed=seed)) for seed in range(8)}
    assert said == {"yes", "no"}


@pytest.mark.parametrize("fields", [{"grammar": "root ::= ((("}, {"json_schema": {"type": "no such type"}}])
def test_a_bad_constraint_is_the_callers_fault(adapter, mode, fields):
    error = assert_error(ask(adapter, mode, **fields), "INVALID_PARAMS", "VALIDATION")
    assert (error.upstream.status, error.attempts, error.retriable) == (400, 1, False)


def test_what_the_engine_would_ignore_is_refused_before_it_is_asked(adapter, mode):
    for fields in ({"regex": "a+"}, {"grammar": "root ::= x", "json_schema": {}}, {"engine_options": {"n_predict": 3}}):
        with pytest.raises(InvalidRequestError):
            getattr(adapter, mode)(request(**fields))
    assert text(ask(adapter, mode))
