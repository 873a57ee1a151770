"""Hugging Face's own clients read the hand-made responses and the simulator as we do: same text, same end, same refusals."""

from __future__ import annotations

import huggingface_hub.errors
import pytest
import text_generation.errors
from huggingface_hub import InferenceClient
from text_generation import Client

from worker_adapters import GenerateRequest, Retry, WorkerError, connect
from worker_adapters.simulator import ScriptedSource, Simulator, WordSource
from worker_adapters.testing import Transcripts
from worker_adapters.testing.server import ReplayServer

from .test_suite_tgi import FOLDER

pytestmark = pytest.mark.filterwarnings("ignore:The `dict` method")  # of pydantic, which text_generation calls
ONCE = Retry(attempts=1)
VERSIONS = pytest.mark.parametrize("version", ["2.0.4", "3.3.7"])
SAMPLED = {"do_sample": True, "seed": 5}
GREEDY = {"do_sample": False}


def text_generation_stream(url, prompt, stop=None, **parameters):
    """PyPI's text-generation: its events, of which special tokens are no text."""
    return list(Client(url).generate_stream(prompt, stop_sequences=stop, **parameters))


def huggingface_hub_stream(url, prompt, **parameters):
    """PyPI's huggingface_hub, which asks `/` for a stream."""
    return list(InferenceClient(model=url).text_generation(prompt, details=True, stream=True, **parameters))


BOTH = pytest.mark.parametrize("read", [text_generation_stream, huggingface_hub_stream])


def text_of(events):
    return "".join(event.token.text for event in events if not event.token.special)


def end_of(events):
    details = events[-1].details
    return str(getattr(details.finish_reason, "value", details.finish_reason)), details.generated_tokens


@pytest.mark.parametrize("version", ["1.4.0", "3.3.7"])
def test_the_clients_agree(version):
    with ReplayServer(Transcripts(FOLDER / version)) as server, connect("tgi", server.url) as adapter:
        ours = adapter.generate(GenerateRequest(prompt="p", max_tokens=3, seed=1))
        theirs = text_generation_stream(server.url, "p")
    assert text_of(theirs) == ours.text.rstrip("\ufffd")  # theirs leaves out a character that never became whole
    assert end_of(theirs) == (ours.end.finish_reason_raw, ours.end.tokens_out)


@VERSIONS
@BOTH
@pytest.mark.parametrize("how", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_a_simulated_stream_reads_the_same(version, read, how):
    """Words, and characters of several tokens: by whom they are put together makes no difference."""
    with Simulator("tgi", version=version) as simulator, connect("tgi", simulator.url) as adapter:
        ours = adapter.generate(
            GenerateRequest(prompt="the sun", max_tokens=200, temperature=1 if how["do_sample"] else 0, seed=5)
        )
        theirs = read(simulator.url, "the sun", max_new_tokens=200, **how)
    assert text_of(theirs) == ours.text
    assert len(ours.text) > 20
    assert end_of(theirs) == (ours.end.finish_reason_raw, ours.end.tokens_out)


@VERSIONS
@BOTH
@pytest.mark.parametrize(
    ("said", "parameters", "finish"),
    [
        (["a", "b"], {}, "eos_token"),
        (["a", "b"], {"max_new_tokens": 2}, "length"),
        (["a", "b", "END", "never"], {"stop": ["END"]}, "stop_sequence"),
        ([], {}, "eos_token"),
    ],
)
def test_each_finish_reason_reads_the_same(version, read, said, parameters, finish):
    """What they show of a stop string, which TGI leaves in the text, we cut."""
    source = ScriptedSource(said)
    with Simulator("tgi", version=version, source=source) as simulator, connect("tgi", simulator.url) as adapter:
        limit = parameters.get("max_new_tokens", 9)
        stop = parameters.get("stop", [])
        ours = adapter.generate(GenerateRequest(prompt="p", max_tokens=limit, stop=stop, temperature=0))
        theirs = read(simulator.url, "p", **{"max_new_tokens": 9, **parameters})
    assert text_of(theirs) == ours.text + "".join(stop)
    assert end_of(theirs) == (finish, ours.end.tokens_out)
    assert ours.end.finish_reason_raw == finish


@VERSIONS
def test_a_whole_answer_reads_the_same(version):
    source = WordSource(eos_rate=0)
    with Simulator("tgi", version=version, source=source) as simulator, connect("tgi", simulator.url) as adapter:
        ours = adapter.generate(GenerateRequest(prompt="the sun", max_tokens=20, temperature=0))
        asked = {"max_new_tokens": 20, "do_sample": False}
        theirs = Client(simulator.url).generate("the sun", **asked)
        hub = InferenceClient(model=simulator.url).text_generation(
            "the sun", details=True, return_full_text=False, **asked
        )
    for answer in (theirs, hub):
        assert answer.generated_text == ours.text
        assert answer.details.generated_tokens == ours.end.tokens_out
        assert [token.text for token in answer.details.tokens]


@VERSIONS
@pytest.mark.parametrize(
    ("read", "errors"),
    [(text_generation_stream, text_generation.errors), (huggingface_hub_stream, huggingface_hub.errors)],
)
@pytest.mark.parametrize(
    ("fault", "options", "code", "theirs"),
    [
        (None, {"max_concurrent_requests": 0}, "ADMISSION_REJECT", "OverloadedError"),
        (None, {"ctx": 4}, "INVALID_PARAMS", "ValidationError"),
        ("error@0:boom", {}, "POOL_UNAVAILABLE", "GenerationError"),
    ],
)
def test_an_error_inside_a_200_is_one_for_them_too(version, read, errors, fault, options, code, theirs):
    faults = [fault] * 2 if fault else []
    with (
        Simulator("tgi", version=version, faults=faults, **options) as simulator,
        connect("tgi", simulator.url, retry=ONCE) as adapter,
    ):
        with pytest.raises(WorkerError) as ours:
            adapter.generate(GenerateRequest(prompt="the sun", max_tokens=5))
        with pytest.raises(getattr(errors, theirs)):
            read(simulator.url, "the sun", max_new_tokens=5)
    assert ours.value.error.code == code
