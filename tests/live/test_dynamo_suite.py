"""The conformance suite on Dynamo's real frontend, and what befalls its worker in mid-stream: one that draws its words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dynamo_server
import pytest
from asking import MODES, assert_error, assert_lawful, request, run, start, text, through_first_token, until
from dynamo_server import MODEL, DynamoServer
from one_server import OnOneServer

from worker_adapters import End, GenerateRequest, Retry, Started, Timeouts, connect, registry
from worker_adapters.engines.openai_completions import DIALECT
from worker_adapters.testing import Transcripts
from worker_adapters.testing.ways import WAYS

TRANSCRIPTS = Path(__file__).parent.parent / "engines" / "transcripts" / "openai-completions" / "dynamo-1.6.1"
PATIENCE = Timeouts(first_token=60.0, idle=60.0)
ONCE = Retry(attempts=1)
pytestmark = [pytest.mark.live("dynamo"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server():
    with DynamoServer() as running:
        yield running


@pytest.fixture
def adapter(server):
    with connect("openai-completions-dynamo", server.url, model=MODEL, timeouts=PATIENCE, retry=ONCE) as made:
        yield made


class TestRealDynamo(OnOneServer):
    dialect = registry.dialect("openai-completions-dynamo")
    transcripts = Transcripts(TRANSCRIPTS)
    model = MODEL

    def test_the_ways_to_run_agree_over_sockets(self):
        """Words are drawn anew for each request, whatever its seed: what agrees is how many there are, and the end."""
        with self.worker() as url, self.connect(url) as adapter:
            found = set()
            for way in WAYS:
                events = self.run(adapter, self.request(max_tokens=8), (way,))
                assert isinstance(events[0], Started), events[-1]
                assert isinstance(events[-1], End), events[-1]
                found.add((events[-1].finish_reason, events[-1].tokens_out, len(text(events).split())))
            assert found == {("length", 8, 8)}


@pytest.mark.req("OC-ADAPT-5090")
@pytest.mark.parametrize("mode", MODES)
def test_a_stream_and_what_it_is_made_of(adapter, mode):
    events = run(adapter, request(max_tokens=12), mode)
    assert (events[-1].finish_reason, events[-1].tokens_out, events[-1].usage_source) == ("length", 12, "engine")
    assert events[0].model == MODEL


def test_the_default_row_is_taken_too(server):
    with connect(DIALECT, server.url, model=MODEL, timeouts=PATIENCE) as plain:
        assert len(text(run(plain, request(max_tokens=5), "submit")).split()) == 5


def test_a_stop_string_is_cut_out(adapter):
    events = run(adapter, request(max_tokens=200, stop=["7"]), "submit")
    assert "7" not in text(events)
    assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize("mode", MODES)
def test_a_cancel_in_mid_stream(adapter, mode):
    with start(adapter, request(max_tokens=3000), mode) as stream:
        events = through_first_token(stream)
        stream.cancel()
        events += stream
    assert_lawful(events)
    assert events[-1].finish_reason == "cancelled"
    assert isinstance(run(adapter, request(max_tokens=4), mode)[-1], End)


def test_a_refusal(adapter):
    assert_error(
        run(adapter, request(engine_options={"unchecked": {"top_q": 1}}), "submit"), "INVALID_PARAMS", "VALIDATION"
    )
    assert_error(run(adapter, request(model="nope"), "submit"), "INTERNAL", "UPSTREAM_NOT_FOUND")


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_is_killed_in_mid_stream(server, adapter, mode):
    """The frontend says so in the stream, and `[DONE]` after it; until there is another, nothing is served."""
    with start(adapter, request(max_tokens=4000), mode) as stream:
        events = through_first_token(stream)
        server.mocker.kill()
        events += stream
    assert_error(events, "WORKER_RESET", "ENGINE_ERROR")
    assert events[-1].upstream.status == 503
    server.wait_models(0)
    assert not adapter.health().ready
    assert run(adapter, request(), mode)[-1].code in ("POOL_UNAVAILABLE", "INTERNAL")
    server.start_mocker()
    until(lambda: adapter.health().ready, 0.1)
    assert isinstance(run(adapter, request(max_tokens=4), mode)[-1], End)


def test_a_worker_that_is_stopped_in_mid_stream(server, adapter):
    """SIGTERM: whatever it makes of its streams, none of them ends before the engine has said so."""
    with adapter.submit(request(max_tokens=4000)) as stream:
        events = through_first_token(stream)
        server.mocker.stop()
        events += stream
    last = events[-1]
    assert (last.kind, getattr(last, "tokens_out", None)) in (("error", None), ("end", 4000)), last
    assert last.kind == "end" or last.code == "WORKER_RESET"
    server.wait_models(0)
    server.start_mocker()


def test_a_frontend_that_is_killed_in_mid_stream():
    with (
        DynamoServer() as running,
        connect("openai-completions-dynamo", running.url, model=MODEL, timeouts=PATIENCE, retry=ONCE) as adapter,
        adapter.submit(request(max_tokens=4000)) as stream,
    ):
        events = through_first_token(stream)
        running.kill()
        events += stream
        assert (events[-1].kind, events[-1].code) == ("error", "WORKER_RESET")
        assert_error(run(adapter, request(), "submit"), "POOL_UNAVAILABLE", "CONNECT")


@pytest.mark.req("OC-ADAPT-5080")
@pytest.mark.parametrize("mode", MODES)
def test_sglangs_own_route_in_ids(server, mode):
    """What the frontend serves of SGLang: `/generate`, ids in and out, what is new in each event."""
    asked = GenerateRequest(prompt_tokens=[5, 6, 7], max_tokens=6, seed=1, return_token_ids=True)
    with connect("sglang", server.url, timeouts=PATIENCE, retry=ONCE) as adapter:
        events = run(adapter, asked, mode)
    last = events[-1]
    assert isinstance(last, End), last
    assert (last.finish_reason, last.tokens_out, last.tokens_in) == ("length", 6, 3)
    assert (len(last.token_ids_tail), last.token_ids_complete) == (6, True)


def test_the_frontend_puts_no_bos_before_a_text_whatever_its_tokenizer_would_do(tmp_path, monkeypatch):
    """It encodes without special tokens: a prompt's BOS is left where it is."""
    model = shutil.copytree(dynamo_server.model(), tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    (bos,) = (one["id"] for one in tokenizer["added_tokens"] if one["content"] == "<s>")
    special, said = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, said],
        "pair": [special, said, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    monkeypatch.setattr(dynamo_server, "model", lambda: model)
    with (
        DynamoServer() as server,
        connect("openai-completions-dynamo", server.url, model=MODEL, timeouts=PATIENCE) as adapter,
    ):
        bare, with_bos = (adapter.generate(GenerateRequest(prompt=prompt, max_tokens=2)) for prompt in ("ab", "<s>ab"))
    assert not adapter.features.adds_bos
    assert (bare.end.tokens_in, with_bos.end.tokens_in) == (2, 3)
