"""A real Triton under load, cancelled, with a full queue, told to end, and with its models or itself killed."""

from __future__ import annotations

import os
import signal
import threading
from itertools import count

import pytest
from asking import MODES, ask, assert_error, assert_lawful, request, run, start, text, through_first_token, until
from triton_server import ENSEMBLE, TritonServer

from worker_adapters import End, Retry, Timeouts, connect

pytestmark = [pytest.mark.live("triton"), pytest.mark.req("OC-ADAPT-5060")]

ONCE = Retry(attempts=1)
POLL = 0.02  # seconds between two looks at the log
SINGLE = ("tensorrt_llm_bls", "vllm_model", "llmapi")
LONG = 4000  # tokens of 2 ms
_numbers = count()


def named(*words):
    """A prompt of its own, which the models name in the log."""
    return " ".join((f"number {next(_numbers)}", *words))


@pytest.fixture(scope="module")
def server():
    with TritonServer(*SINGLE, *ENSEMBLE, "bls_queue", "bls_impatient") as running:
        yield running


@pytest.fixture
def connected(server):
    def made(model, **options):
        return connect("triton", server.url, model=model, **{"retry": ONCE, **options})

    return made


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.mark.parametrize("model", [*SINGLE, "ensemble"])
def test_cancel_while_decoding_ends_the_work(server, connected, model, mode):
    """By the connection, which an ensemble never notices: that one, and the LLM API, are told to stop as well."""
    prompt = named()
    with connected(model) as adapter, start(adapter, request(prompt=prompt, max_tokens=LONG), mode) as stream:
        events = through_first_token(stream)
        stream.cancel()
        events += stream
    assert_lawful(events)
    assert events[-1].finish_reason == "cancelled"
    until(lambda: server.ended(prompt), POLL)
    noticed = {"ensemble": ("stopped",), "llmapi": ("stopped", "cancelled")}
    assert server.ended(prompt) in noticed.get(model, ("cancelled",))


def cancel_once_begun(server, prompt, stream):
    """What is cancelled sooner may never have reached the model."""
    until(lambda: server.begun(prompt), POLL)
    stream.cancel()


@pytest.mark.parametrize("model", [*SINGLE, "ensemble"])
def test_cancel_before_the_first_token(server, connected, model, mode):
    """There is no status line yet: the consumer blocks on the head of the answer, and Triton looks at no connection."""
    prompt = named("!first=1500")
    with connected(model) as adapter, start(adapter, request(prompt=prompt), mode) as stream:
        caller = threading.Thread(target=cancel_once_begun, args=(server, prompt, stream))
        caller.start()
        events = list(stream)
        caller.join()
    assert_lawful(events)
    assert (events[-1].finish_reason, events[-1].tokens_out) == ("cancelled", 0)
    until(lambda: server.ended(prompt), POLL)
    assert server.ended(prompt) == ("stopped" if model in ("llmapi", "ensemble") else "cancelled")
    assert server.tokens(prompt) == (0 if model in ("llmapi", "ensemble") else 1)


def test_a_request_that_has_run_out_of_time_is_stopped(server, connected):
    """A first token that is too late, an idle stream, a deadline: nobody is left to read it."""
    for fields, words, timeouts in (
        ({}, "!first=1000", Timeouts(first_token=0.2)),
        ({}, "!pace=1000", Timeouts(idle=0.2)),
        ({"deadline": 0.5}, "!pace=100", Timeouts()),
    ):
        prompt = named(words)
        with connected("ensemble") as adapter:
            run(
                adapter, request(max_tokens=1), "submit"
            )  # what it is asked before its first stream is not in that one's time then
            events = run(adapter, request(prompt=prompt, **fields), "stream", timeouts)
        assert events[-1].kind == "error"
        until(lambda prompt=prompt: server.ended(prompt), POLL)
        assert server.ended(prompt) == "stopped"


def test_a_full_queue(server, connected, mode):
    """One runs, one waits: the third is told at once."""
    runs, waits = named(), named()
    with connected("bls_queue") as adapter:
        with adapter.submit(request(prompt=runs, max_tokens=LONG)) as one:
            through_first_token(one)
            with adapter.submit(request(prompt=waits, max_tokens=2)) as two:
                until(lambda: server.pending("bls_queue") == 1, POLL)
                error = assert_error(ask(adapter, mode), "ADMISSION_REJECT", "OVERLOADED")
                assert (error.upstream.status, error.retriable) == (503, True)
                one.cancel()
                assert isinstance(list(two)[-1], End)
        until(lambda: server.ended(runs), POLL)


def test_a_cancelled_request_keeps_its_place_in_the_queue(server, connected):
    """As `traits.cancel` says: never while queued. It is begun, and given up after its first token."""
    runs, gone = named(), named()
    with connected("bls_queue") as adapter:
        with adapter.submit(request(prompt=runs, max_tokens=LONG)) as one:
            through_first_token(one)
            with adapter.submit(request(prompt=gone, max_tokens=LONG)) as two:
                until(lambda: server.pending("bls_queue") == 1, POLL)
                two.cancel()
                assert [event.finish_reason for event in two] == ["cancelled"]
            assert server.pending("bls_queue") == 1
            assert_error(ask(adapter), "ADMISSION_REJECT", "OVERLOADED")
            one.cancel()
        until(lambda: server.ended(gone), POLL)
    assert server.ended(gone) == "cancelled"


def test_a_queue_that_loses_patience(connected):
    """Told only when the instance is free again; the words are the scheduler's, the status says nothing."""
    with connected("bls_impatient") as adapter, adapter.submit(request(prompt=named(), max_tokens=400)) as one:
        through_first_token(one)
        error = assert_error(ask(adapter), "ADMISSION_REJECT", "OVERLOADED")
        assert "Request timeout expired" in error.message
        assert isinstance(list(one)[-1], End)


def test_two_hundred_streams_with_a_third_cancelled(connected):
    slots, results, lock = threading.Semaphore(16), [], threading.Lock()

    def one(adapter, number):
        with slots, adapter.submit(request(seed=number, max_tokens=24)) as stream:
            events = through_first_token(stream)
            if number % 3 == 0:
                stream.cancel()
            events += stream
            with lock:
                results.append((number, events))

    with connected("vllm_model") as adapter:
        threads = [threading.Thread(target=one, args=(adapter, number)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 200
    for number, events in results:
        assert_lawful(events)
        assert isinstance(events[-1], End), events[-1]
        if number % 3:
            assert (events[-1].finish_reason, events[-1].tokens_out) == ("length", 24)
        else:  # it may have said everything before the cancel arrived
            assert events[-1].finish_reason in ("cancelled", "length")


def test_a_client_that_reads_nothing_does_not_slow_the_model(server, connected):
    """No backpressure: the model sends all it has while nobody reads."""
    prompt = named("!pace=0")
    with connected("vllm_model") as adapter, adapter.submit(request(prompt=prompt, max_tokens=2000)) as stream:
        until(lambda: server.ended(prompt), POLL)
        assert text(list(stream))
    assert server.ended(prompt) == "done"


@pytest.mark.parametrize("model", [*SINGLE, "ensemble"])
def test_a_model_s_process_killed_in_mid_stream(model):
    """It hangs for good, and Triton goes on calling it ready: the idle timer ends the stream. The next one is told.

    Or, now and then, it takes the server with it (SIGABRT), when a step of an ensemble was killed.
    """
    models, victim = (ENSEMBLE, "tensorrt_llm") if model == "ensemble" else ((model,), model)
    with TritonServer(*models) as server, connect("triton", server.url, model=model, retry=ONCE) as adapter:
        with adapter.submit(request(max_tokens=LONG), timeouts=Timeouts(idle=1.5)) as stream:
            # After 100 tokens the model has handed its request to a thread of its own.
            events = [next(stream) for _ in range(100)]
            os.kill(server.model_pid(victim), signal.SIGKILL)
            events += stream
        assert_lawful(events)
        if events[-1].code == "WORKER_RESET":
            assert_error(events, "WORKER_RESET", "TRUNCATED", "decode")
            server.wait_exit()
            assert server.exit_status == -signal.SIGABRT
            return
        assert_error(events, "DECODE_TIMEOUT", "IDLE_TIMEOUT", "decode")
        assert adapter.health(deep=True).ready
        for mode in MODES:
            error = assert_error(run(adapter, request(), mode), "POOL_UNAVAILABLE", "ENGINE_ERROR")
            assert "is not healthy" in error.message
            assert error.retriable


def test_a_model_s_process_killed_while_triton_waits_for_it(mode):
    """A model that generates inside `execute`: here Triton notices, within a second, and says so in the stream."""
    with TritonServer("bls_queue") as server, connect("triton", server.url, model="bls_queue", retry=ONCE) as adapter:
        with start(adapter, request(max_tokens=LONG), mode) as stream:
            events = [next(stream) for _ in range(100)]
            os.kill(server.model_pid("bls_queue"), signal.SIGKILL)
            events += stream
        assert_lawful(events)
        error = assert_error(events, "WORKER_RESET", "ENGINE_ERROR", "decode")
        assert "is not healthy" in error.message


@pytest.mark.parametrize("model", SINGLE)
def test_a_server_killed_in_mid_stream(model, mode):
    with TritonServer(model) as server, connect("triton", server.url, model=model, retry=ONCE) as adapter:
        with start(adapter, request(max_tokens=LONG), mode) as stream:
            events = through_first_token(stream)
            server.kill()
            events += stream
        assert_lawful(events)
        error = events[-1]
        assert (error.code, error.retriable, error.phase) == ("WORKER_RESET", True, "decode")
        assert error.reason in ("TRUNCATED", "DISCONNECTED")
        assert_error(run(adapter, request(), mode), "POOL_UNAVAILABLE", "CONNECT")


def test_a_server_told_to_end_waits_for_its_connections(mode):
    """Streams end as they would have, new connections are dropped without a byte; those we keep idle hold it up, too."""
    with TritonServer("vllm_model") as server, connect("triton", server.url, model="vllm_model", retry=ONCE) as adapter:
        with start(adapter, request(max_tokens=1000), mode) as stream:
            events = through_first_token(stream)
            os.kill(server.pid, signal.SIGTERM)
            server.wait_for_log(r"Timeout \d+: Found \d+ HTTP service connections")
            with connect("triton", server.url, model="vllm_model", retry=ONCE) as stranger:
                (refused,) = run(stranger, request(), mode)
            assert (refused.code, refused.retriable) == ("POOL_UNAVAILABLE", True)
            assert refused.reason in ("DISCONNECTED", "CONNECT")
            events += stream
        assert_lawful(events)
        assert (events[-1].finish_reason, events[-1].tokens_out) == ("length", 1000)
        assert server.exit_status is None
        adapter.close()
        server.wait_exit()


def test_a_server_that_comes_back_is_asked_again():
    with TritonServer("vllm_model") as server:
        adapter = connect("triton", server.url, model="vllm_model", retry=ONCE)
        assert isinstance(ask(adapter)[-1], End)
        server.kill()
        assert_error(ask(adapter), "POOL_UNAVAILABLE", "CONNECT")
    with adapter, TritonServer(others={"vllm_model": "tensorrt_llm_bls"}, port=server.port):  # another dialect now
        assert isinstance(ask(adapter)[-1], End)
