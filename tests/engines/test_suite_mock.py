"""The conformance suite for the mock engine, and for `connect("mock", …)` in this process."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from worker_adapters import End, GenerateRequest, InvalidRequestError, Reason, Retry, Timeouts, WorkerError, connect
from worker_adapters.dialect import WireRequest
from worker_adapters.engines import mock
from worker_adapters.testing import MUTANTS, EngineSuite, Transcripts

from .suites import kills, over_sockets


class TestMock(EngineSuite):
    dialect = mock.DIALECT
    transcripts = Transcripts(Path(__file__).parent / "transcripts" / "mock" / "1")


@over_sockets
class TestMockInProcess(EngineSuite):
    """What goes over sockets elsewhere goes to the engine in this process here."""

    dialect = mock.DIALECT
    transcripts = TestMock.transcripts

    @contextmanager
    def worker(self):
        yield "mock://local"

    def connect(self, url, **config):
        return connect("mock", url, **{"retry": Retry(attempts=1), **config})

    def test_nobody_there(self):
        """An engine in this process is always there; a control call it does not know is a typed 404."""
        assert mock.reply(WireRequest(target="/nothing")).status == 404


@pytest.mark.parametrize("name", sorted(set(MUTANTS) - {"splits a character"}))
def test_the_suite_kills_the_mutant(name):
    """All but the one that needs characters over deltas, which the mock's words never are (see `absent`)."""
    kills(TestMock, name)


def test_the_recorded_answers_are_still_the_mocks():
    request = GenerateRequest(prompt="p", seed=1, max_tokens=8, ignore_eos=True)
    answer = mock.answer(mock.DIALECT.encode(request, attempt=1))
    assert b"".join(answer.steps) == TestMock.transcripts.recorded("length").body


def test_the_same_seed_gives_the_same_text_and_another_another():
    with connect("mock", "mock://local") as adapter:
        texts = [adapter.generate(GenerateRequest(prompt="p", seed=seed, ignore_eos=True)).text for seed in (1, 1, 2)]
        greedy = {adapter.generate(GenerateRequest(prompt="p", seed=s, temperature=0)).text for s in (1, 2)}
    assert texts[0] == texts[1] != texts[2]
    assert len(greedy) == 1


def test_a_prompt_beyond_the_context_is_too_long():
    with connect("mock", "mock://local") as adapter, pytest.raises(WorkerError) as error:
        adapter.generate(GenerateRequest(prompt="x" * 40000))
    assert error.value.reason is Reason.CONTEXT_TOO_LONG
    assert "40000" in error.value.message


def test_the_tokenizer_routes_round_trip():
    with connect("mock", "mock://local") as adapter:
        assert adapter.detokenize(adapter.tokenize("naïve 🙂")) == "naïve 🙂"
        assert adapter.apply_template([{"role": "user", "content": "hi"}]) == "user: hi\n"


def test_a_rate_paces_the_tokens():
    with connect("mock", "mock://local") as adapter:
        events = list(
            adapter.submit(GenerateRequest(prompt="p", max_tokens=3, ignore_eos=True, engine_options={"rate": 100}))
        )
    assert isinstance(events[-1], End)
    assert events[-1].decode_time_ms >= 10


FAULTS = [
    ("stall@2:forever", "DECODE_TIMEOUT", "IDLE_TIMEOUT", "decode"),
    ("stall@0:forever", "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT", "first_token"),
    ("stall@head:forever", "POOL_UNAVAILABLE", "FIRST_TOKEN_TIMEOUT", "queue"),
    ("stall@accept:forever", "POOL_UNAVAILABLE", "CONNECT_TIMEOUT", "connect"),
    ("reset@2", "WORKER_RESET", "DISCONNECTED", "decode"),
    ("reset@head", "POOL_UNAVAILABLE", "DISCONNECTED", "queue"),
    ("close@2", "WORKER_RESET", "TRUNCATED", "decode"),
    ("eof@end", "WORKER_RESET", "TRUNCATED", "decode"),
    ("cut@2", "WORKER_RESET", "TRUNCATED", "decode"),
    ("half-char@2", "WORKER_RESET", "TRUNCATED", "decode"),
    ("error@2:boom", "WORKER_RESET", "ENGINE_ERROR", "decode"),
    ("error@0:boom", "POOL_UNAVAILABLE", "ENGINE_ERROR", "first_token"),
    ("garbage@2", "WORKER_RESET", "TRUNCATED", "decode"),
    ("not-json@2", "INTERNAL", "PROTOCOL", "decode"),
    ("comments@2:1ms", "DECODE_TIMEOUT", "IDLE_TIMEOUT", "decode"),
    ("huge@2:2MiB", "INTERNAL", "EVENT_TOO_LARGE", "decode"),
    ("loading", "POOL_UNREADY", "LOADING", "first_token"),
    ("overloaded", "ADMISSION_REJECT", "OVERLOADED", "first_token"),
    ("busy:7", "ADMISSION_REJECT", "OVERLOADED", "first_token"),
    ("status:502 <html>", "POOL_UNAVAILABLE", "ENGINE_ERROR", "first_token"),
    ("redirect", "INTERNAL", "REDIRECT", "first_token"),
    ("html", "INTERNAL", "PROTOCOL", "first_token"),
    ("gzip", "INTERNAL", "PROTOCOL", "first_token"),
]


@pytest.mark.parametrize(("fault", "code", "reason", "phase"), FAULTS)
def test_a_fault_ends_the_stream_as_a_real_one_would(fault, code, reason, phase):
    patience = 0.05 if reason.endswith("TIMEOUT") else 30.0  # where no timer is the subject, a machine may be busy
    timeouts = Timeouts(connect=patience, first_token=patience, idle=patience)
    with connect("mock", "mock://local", retry=Retry(attempts=1), timeouts=timeouts) as adapter:
        request = GenerateRequest(prompt="p", seed=1, max_tokens=8, ignore_eos=True, engine_options={"fault": fault})
        for way in (adapter.submit, adapter.stream):
            error = list(way(request))[-1]
            assert (error.code, error.reason, error.phase) == (code, reason, phase), error.message
            assert error.retry_after_ms == (7000 if fault == "busy:7" else None)


@pytest.mark.parametrize("fault", ["dup-end", "after-end", "trickle@2:1ms", "stall@2:10ms", "loading*2", "interim"])
def test_a_fault_that_a_client_must_survive_changes_no_text(fault):
    with connect("mock", "mock://local", retry=Retry(attempts=3, base=0)) as adapter:
        request = GenerateRequest(prompt="p", seed=1, max_tokens=8, ignore_eos=True)
        spoilt = attrs.evolve(request, engine_options={"fault": fault})
        assert adapter.generate(spoilt).text == adapter.generate(request).text


def test_a_fault_that_can_not_be_read_is_refused():
    with connect("mock", "mock://local") as adapter, pytest.raises(InvalidRequestError) as error:
        adapter.submit(GenerateRequest(prompt="p", engine_options={"fault": "explode@3"}))
    assert "explode" in error.value.message
