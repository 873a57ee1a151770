"""The simulator against a real llama-server: the recorded requests must give the recorded bytes.

`MASKS` and `OWN_MASKS` are everything that may differ. Chunk boundaries are compared, and sizes with them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters.simulator import Ask, ScriptedSource, Simulator, Token

from . import transcripts
from .client import Client, completion, exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBER = rb"[\d.e+-]+"
MASKS = {
    "timings": re.compile(
        rb'("(?:cache_n|prompt_n|time_ms|prompt_ms|prompt_per_token_ms|prompt_per_second'
        rb'|predicted_ms|predicted_per_token_ms|predicted_per_second)":)' + NUMBER
    ),
    "id_slot of the final event": re.compile(rb'("id_slot":)\d+'),
    "id_task": re.compile(rb'("id_task":)\d+'),
    "created": re.compile(rb'("created":)\d+'),
    "media_marker": re.compile(rb"(<__media_)\w{32}"),
    "Process-Start-Time-Unix": re.compile(rb"(Process-Start-Time-Unix: )\d+"),
}
# What only one transcript needs: a grammar made from a JSON schema, values that depend on what ran before.
OWN_MASKS = {
    "completion_json_schema": [rb'("grammar":)"(?:[^"\\]|\\.)*"'],
    "queue_slots_during": [rb'("(?:n_prompt_tokens|n_remain|n_decoded)":)\d+'],
    "metrics_after": [rb"(?m)^(llamacpp:\w+ )" + NUMBER],
    "queue_metrics_during": [rb"(?m)^(llamacpp:(?!requests_)\w+ )" + NUMBER],
}

TINY = {"model": "tiny.gguf", "slots": 2, "ctx": 8192}
LONG = {"model": "tiny-long.gguf", "slots": 2, "ctx": 131072}
INVALID = {"model": "tiny-invalid.gguf", "slots": 2, "ctx": 8192}
OFF = {"endpoint_slots": False, "endpoint_metrics": False, "endpoint_props": False}

STREAMS = {
    "completion_grammar": TINY,
    "completion_json_schema": TINY,
    "completion_n_cmpl_2": TINY,
    "completion_n_predict_0": TINY,
    "completion_nonstream_full": TINY,
    "completion_stream_close": TINY,
    "completion_stream_emoji_200": TINY,
    "completion_stream_full": TINY,
    "completion_stream_progress": LONG,
    "completion_stream_stop_word": TINY,
    "completion_token_prompt": TINY,
    "completion_two_prompts": TINY,
    "ctx_full_mid_stream": TINY,
    "err_bad_slot": TINY,
    "err_huge_seed": TINY,
    "invalid_utf8_nonstream": INVALID,
    "invalid_utf8_stream": INVALID,
    "keepalive_stream": LONG,
    "loading_completion_200": LONG,
    # One request and half the pool instead of two that share it.
    "midstream_error_0": {"model": "tiny.gguf", "ctx": 1024, "kv_tokens": 512},
}
PAGES = {
    "apikey_health_no_key": TINY | {"api_key": "secret"},
    "apikey_missing": TINY | {"api_key": "secret"},
    "apikey_models_no_key": TINY | {"api_key": "secret"},
    "apply_template": TINY,
    "detokenize_partial_char": TINY,
    "err_bad_grammar": TINY,
    "err_bad_json": TINY,
    "err_bad_token_id": TINY,
    "err_embedding_off": TINY,
    "err_empty_body": TINY,
    "err_empty_prompt_tokens": TINY,
    "err_invalid_utf8_body": TINY,
    "err_no_prompt": TINY,
    "err_prompt_too_long_nonstream": TINY,
    "err_unknown_path": TINY,
    "err_wrong_type_temperature": TINY,
    "loading_completion_503": LONG | {"load_time": 3600.0},
    "loading_health_200": LONG,
    "loading_metrics_503": LONG | {"load_time": 3600.0},
    "loading_slots_503": LONG | {"load_time": 3600.0},
    "loading_v1_models_503": LONG | {"load_time": 3600.0},
    "metrics_after": TINY,
    "models": TINY,
    "off_metrics": TINY | OFF,
    "off_slots": TINY | OFF,
    "props": TINY,
    "props_post": TINY,
    "queue_health_during": LONG,
    "tokenize_special": TINY,
    "v1_models": TINY,
}
OTHERS = {  # each has a test of its own
    "disconnect_completion_rst",
    "keepalive_health",
    "queue_metrics_during",
    "queue_slots_during",
    "queued_ping_1s",
    "slots_after",
    "slots_idle",
}
NOT_COVERED = {
    "busy_disconnect_nonstream_fin": "no byte was sent; the behaviour is in test_slots",
    "busy_disconnect_stream_fin": "no byte was kept",
    "chat_input_tokens": "OpenAI route",
    "completion_stream_eos_first": "another model, whose vocabulary was not recorded",
    "convid_delete": "resumable streams",
    "convid_lookup": "resumable streams",
    "disconnect_v1_completions_fin": "OpenAI route",
    "err_bad_role": "OpenAI route",
    "err_logprobs_stream_tools": "OpenAI route",
    "err_no_messages": "OpenAI route",
    "err_prompt_too_long_chat": "OpenAI route",
    "err_prompt_too_long_v1_completions": "OpenAI route",
    "err_unknown_model_name": "OpenAI route",
    "idle_disconnect_during_prompt_fin": "no byte was sent",
    "idle_disconnect_nonstream_rst": "no byte was sent",
    "idle_disconnect_stream_fin": "no byte was kept",
    "midstream_error_chat_0": "OpenAI route",
    "midstream_error_v1_1": "OpenAI route",
    "sigint_mid_stream": "signal, OpenAI route",
    "sigkill_mid_stream": "signal, OpenAI route",
    "sigkill_nonstream": "signal",
    "sigterm_mid_stream": "signal, OpenAI route",
    "sigterm_nonstream": "signal",
    "sigterm_stream_only_ping2": "signal",
    "v1_chat_nonstream": "OpenAI route",
    "v1_chat_stream_full": "OpenAI route",
    "v1_chat_stream_n2": "OpenAI route",
    "v1_chat_stream_stop": "OpenAI route",
    "v1_chat_stream_usage": "OpenAI route",
    "v1_completions_stream": "OpenAI route",
    "v1_completions_stream_nousage": "OpenAI route",
    "v1_messages_stream": "Anthropic route",
}
# Requests that were recorded only in part: the prompt goes on, then comes this.
CUT = {
    "completion_stream_progress": b'", "seed": 1, "n_predict": 3, "stream": true, "return_progress": true,'
    b' "cache_prompt": false}',
    "err_prompt_too_long_nonstream": b'", "seed": 1, "n_predict": 32, "stream": false}',
}


def masked(name: str, data: bytes) -> bytes:
    for mask in MASKS.values():
        data = mask.sub(rb"\1#", data)
    for pattern in OWN_MASKS.get(name, ()):
        data = re.sub(pattern, rb"\1#", data)
    return data


def assert_same(name: str, expected: bytes, actual: bytes) -> None:
    one, rest = transcripts.parse(expected)
    other, actual_rest = transcripts.parse(actual)
    assert [masked(name, piece) for piece in one.pieces] == [masked(name, piece) for piece in other.pieces]
    head, other_head = masked(name, one.head), masked(name, other.head)
    if masked(name, one.body) != one.body:
        head, other_head = (re.sub(rb"(Content-Length: )\d+", rb"\1#", each) for each in (head, other_head))
    assert head == other_head
    assert (rest, actual_rest) == (b"", b"")


def request(name: str) -> bytes:
    data = transcripts.request(name)
    if name not in CUT:
        return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"Content-Length: (\d+)", head)[1])
    start = b'{"prompt": "'
    sentence = b"the sun of "
    full = start + sentence * ((length - len(start) - len(CUT[name])) // len(sentence)) + CUT[name]
    kept = body.removesuffix(b"...[cut]")
    assert (full[: len(kept)], len(full)) == (kept, length)
    return head + b"\r\n\r\n" + full


def recorded_source(name: str) -> ScriptedSource:
    """Says what the transcript says; the copies of one prompt are told apart by their seeds."""
    answers = transcripts.script(transcripts.response(name))
    vocabulary = transcripts.vocabulary()

    def say(ask: Ask) -> Iterable[Token]:
        if len(answers) == 1:
            return answers[0]
        if name == "completion_two_prompts":
            return answers[[" the", " a"].index(vocabulary.decode(ask.prompt[1:]).decode())]
        return answers[ask.seed - 1]

    return ScriptedSource(say, vocabulary=vocabulary)


def simulator(options: dict[str, Any], source: ScriptedSource | None = None) -> Simulator:
    return Simulator("llamacpp", source=source or ScriptedSource([], vocabulary=transcripts.vocabulary()), **options)


@pytest.mark.parametrize("name", STREAMS)
def test_completion_is_the_recorded_one(name):
    with simulator(STREAMS[name], recorded_source(name)) as sim:
        assert_same(name, transcripts.response(name), exchange(sim, request(name)))


@pytest.mark.parametrize("name", PAGES)
def test_page_is_the_recorded_one(name):
    with simulator(PAGES[name]) as sim:
        assert_same(name, transcripts.response(name), exchange(sim, request(name)))


def test_a_hundred_requests_on_one_connection_are_the_recorded_ones():
    with simulator(LONG) as sim, Client(sim) as client:
        replies = b"".join(client.send(request("keepalive_health")).response() for _ in range(100))
        assert client.rest() == b""
    assert replies == transcripts.response("keepalive_health")


def test_what_a_client_saw_before_it_left_is_the_recorded_beginning():
    """The script goes on after the recorded part, as the model did."""
    recorded = transcripts.response("disconnect_completion_rst")
    tokens = transcripts.script(recorded)[0]
    beginning = recorded[: recorded.rindex(b"\n\n\r\n") + 4]
    with simulator(LONG, ScriptedSource([*tokens, *[300] * 500], vocabulary=transcripts.vocabulary())) as sim:
        with Client(sim) as client:
            client.send(request("disconnect_completion_rst"))
            received = client.until(beginning[-100:])
        assert received.startswith(beginning)


def test_slots_after_use_are_the_recorded_ones():
    """Slot 1 first: a slot that was never used is taken from the end."""
    source = ScriptedSource(lambda _: [300] * 5000, vocabulary=transcripts.vocabulary())
    with simulator(TINY, source) as sim:
        exchange(sim, completion(prompt="the sun of", seed=3, n_predict=300, stream=False, ignore_eos=False))
        assert_same("slots_idle", transcripts.response("slots_idle"), exchange(sim, request("slots_idle")))
        huge = completion(prompt="the sun of", seed=0, n_predict=2, ignore_eos=False, id_slot=1)
        exchange(sim, huge)
        exchange(
            sim, request("ctx_full_mid_stream").replace(b'"seed"', b'"id_slot": 0, "seed"').replace(b" 6678", b" 6692")
        )
        assert_same("slots_after", transcripts.response("slots_after"), exchange(sim, request("slots_after")))


def test_pages_with_two_running_and_four_waiting_are_the_recorded_ones():
    source = ScriptedSource(lambda _: [300] * 5000, vocabulary=transcripts.vocabulary())
    with simulator(LONG | {"rate": 0.01}, source) as sim:
        clients = []
        try:
            for seed in range(1, 7):
                clients.append(Client(sim).send(completion(prompt="the sun of", n_predict=1500, seed=seed)))
                sim.wait_for(active=min(seed, 2), queued=max(seed - 2, 0), tokens=min(seed, 2))
            for name in ("queue_slots_during", "queue_metrics_during"):
                assert_same(name, transcripts.response(name), exchange(sim, request(name)))
            waiting = Client(sim).send(request("queued_ping_1s"))
            clients.append(waiting)
            sim.wait_for(queued=5)
            waiting.sock.settimeout(1.3)
            with pytest.raises(TimeoutError):
                waiting.sock.recv(1)  # no ping while queued, although one a second is asked for
        finally:
            for client in clients:
                client.sock.close()


def test_every_transcript_is_accounted_for():
    lists = [set(STREAMS), set(PAGES), OTHERS, set(NOT_COVERED)]
    assert sum(map(len, lists)) == len(set.union(*lists))
    assert set(transcripts.names()) == set.union(*lists)
