"""The simulated TGI and time: its queue, and the legs in which 3.x generates what is long."""

from __future__ import annotations

import http.client
import json
import threading

import pytest

from worker_adapters import End, Error, GenerateRequest, Retry, Started, Timeouts, connect
from worker_adapters.simulator import DEFAULT_VOCABULARY, ScriptedSource, Simulator, WordSource

from .test_tgi import ENDLESS, JSON, ONCE, ask, request, text

LONG = {"prompt": "we see", "max_tokens": 4000, "seed": 1}


# --- legs ---------------------------------------------------------------------------------------------------------


def said_in(leg, **fields):
    with (
        Simulator("tgi", leg_tokens=leg, source=WordSource(eos_rate=0)) as simulator,
        connect("tgi", simulator.url) as adapter,
    ):
        events = list(adapter.stream(request(prompt="the", max_tokens=40, **fields)))
        assert isinstance(events[-1], End)
        assert (events[-1].tokens_out, events[-1].finish_reason_raw) == (40, "length")
        assert sum(isinstance(event, Started) for event in events) == 1
        return text(events)


def test_what_is_sampled_in_legs_is_not_what_one_leg_would_say_and_greedy_is():
    """Why `strict` is not granted above a leg's length: the seed begins again."""
    assert said_in(8, temperature=0) == said_in(1024, temperature=0)
    one, several = said_in(1024), said_in(8)
    assert one != several
    assert one[:12] == several[:12]


class Gated:
    """A source that tells which prompts it was asked for, and lets the first token out when told to."""

    def __init__(self):
        self.open = threading.Event()
        self.prompts = []
        self.source = ScriptedSource(self.say)

    def say(self, asked):
        self.prompts.append(DEFAULT_VOCABULARY.decode(asked.prompt[1:]).decode())
        assert self.open.wait(10)
        return ["x"] * 1000


def test_between_two_legs_others_have_their_turn():
    gated = Gated()
    options = {"slots": 1, "leg_tokens": 4, "source": gated.source}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        long = adapter.submit(request(prompt="L", max_tokens=12))
        simulator.wait_for(active=1)
        short = adapter.submit(request(prompt="S", max_tokens=3))
        simulator.wait_for(queued=1)
        gated.open.set()
        assert text(list(short)) == "xxx"
        assert text(list(long)) == "x" * 12
        assert gated.prompts == ["L", "S", "Lxxxx", "Lxxxxxxxx"]
        assert simulator.state.served == 2


def test_a_cancel_between_two_legs_is_noticed_in_the_queue():
    gated = Gated()
    options = {"slots": 1, "leg_tokens": 4, "source": gated.source, "rate": 100}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        long = adapter.submit(request(prompt="L", max_tokens=10))
        simulator.wait_for(active=1)
        other = adapter.submit(request(prompt="O", max_tokens=4000))
        simulator.wait_for(queued=1)
        gated.open.set()
        simulator.wait_for(lambda state: state.tokens >= 5, queued=1)
        long.cancel()
        simulator.wait_for(queued=0, cancelled=1)
        other.cancel()
        simulator.wait_for(active=0)


def test_there_are_no_legs_before_3():
    gated = Gated()
    gated.open.set()
    options = {"version": "2.4.0", "leg_tokens": 4, "source": gated.source}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        assert text(list(adapter.stream(request(prompt="L", max_tokens=10)))) == "x" * 10
    assert gated.prompts == ["L"]


def test_the_last_leg_is_not_cut_to_what_is_left():
    """Of 10 tokens in legs of 4 it makes 12."""
    with Simulator("tgi", leg_tokens=4, source=ENDLESS) as simulator:
        asked = {"inputs": "p", "parameters": {"max_new_tokens": 10, "details": True}}
        _, _, said = ask(simulator, "POST", "/generate", asked)
    told = json.loads(said)["details"]
    assert (told["generated_tokens"], told["finish_reason"]) == (12, "length")


@pytest.mark.parametrize("way", ["submit", "stream"])
@pytest.mark.parametrize("wants", [{}, {"return_token_ids": True}])
def test_what_runs_past_the_limit_is_ended_there(way, wants):
    """Where a leg ends and where it does not; the worker is freed, which would say more."""
    options = {"leg_tokens": 4, "source": ENDLESS, "faults": ["stall@9"]}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        events = list(getattr(adapter, way)(request(prompt="L", max_tokens=9, **wants)))
        end = events[-1]
        assert (text(events), end.tokens_out, end.finish_reason) == ("x" * 9, 9, "length")
        assert (end.finish_reason_raw, end.finish_reason_source) == (None, "inferred")
        simulator.wait_for(active=0, cancelled=1)
        whole = list(getattr(adapter, way)(request(prompt="L", max_tokens=8, **wants)))[-1]
        assert (whole.tokens_out, whole.finish_reason_raw, whole.finish_reason_source) == (8, "length", "engine")
        simulator.wait_for(served=1)


def test_more_than_there_is_room_for_is_refused_until_2_4_and_cut_off_since_3():
    for version, expected in (("2.4.0", Error), ("3.3.7", End)):
        options = {"version": version, "ctx": 20, "leg_tokens": 8, "source": ENDLESS}
        with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url, retry=ONCE) as adapter:
            last = list(adapter.stream(request(prompt="abcd", max_tokens=1000)))[-1]
            assert isinstance(last, expected)
            if isinstance(last, Error):
                assert (last.code, last.reason) == ("INVALID_PARAMS", "CONTEXT_TOO_LONG")
            else:
                assert (last.tokens_out, last.finish_reason) == (8, "length")


def test_a_leg_that_ends_inside_a_character_is_lost_to_the_next():
    """`generated_text` is empty then, and it is what the next leg begins with."""
    asked = []

    def say(ask):
        asked.append(DEFAULT_VOCABULARY.decode(ask.prompt[1:]))
        return [b"a", b"\xc3", b"b"]

    options = {"leg_tokens": 2, "source": ScriptedSource(say)}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        list(adapter.stream(request(prompt="p", max_tokens=4)))
    assert asked == [b"p", b"p"]


# --- queue and time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_a_full_server_refuses_inside_a_200(way):
    with (
        Simulator("tgi", slots=1, rate=200, source=ENDLESS, max_concurrent_requests=2) as simulator,
        connect("tgi", simulator.url, retry=ONCE) as adapter,
    ):
        running = [adapter.submit(GenerateRequest(**LONG)) for _ in range(2)]
        simulator.wait_for(active=1, queued=1)
        (error,) = list(getattr(adapter, way)(request()))
        assert (error.code, error.reason, error.upstream.type) == ("ADMISSION_REJECT", "OVERLOADED", "overloaded")
        assert error.upstream.status in (None, 200)
        for stream in running:
            stream.cancel()
        simulator.wait_for(active=0)


@pytest.mark.parametrize("way", ["submit", "stream"])
def test_an_overload_inside_a_200_is_retried_before_the_first_token(way):
    faults = ["overloaded*2"]
    retry = Retry(attempts=3, base=0)
    with Simulator("tgi", faults=faults) as simulator, connect("tgi", simulator.url, retry=retry) as adapter:
        events = list(getattr(adapter, way)(request()))
        assert isinstance(events[-1], End)
        assert (events[0].attempt, simulator.state.fired) == (3, {"overloaded": 2})


@pytest.mark.parametrize("queued", [False, True])
def test_keep_alive_comments_are_no_content(queued):
    """Neither while it is queued nor while its prompt is read."""
    options = {"slots": 1, "first_token_delay": 30.0, "keep_alive": 0.02}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url, retry=ONCE) as adapter:
        before = [adapter.submit(request()) for _ in range(queued)]
        simulator.wait_for(active=int(queued))
        (error,) = list(adapter.stream(request(), timeouts=Timeouts(first_token=0.3)))
        assert error.reason == "FIRST_TOKEN_TIMEOUT"
        for stream in before:
            stream.cancel()


def test_comments_come_while_a_request_is_queued():
    options = {"slots": 1, "first_token_delay": 30.0, "keep_alive": 0.02}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url) as adapter:
        first = adapter.submit(request())
        simulator.wait_for(active=1)
        connection = http.client.HTTPConnection(*simulator.address, timeout=10)
        connection.request("POST", "/generate_stream", json.dumps({"inputs": "x"}), JSON)
        assert connection.getresponse().read(6) == b":\n\n:\n\n"
        connection.close()
        first.cancel()


def test_a_hundred_streams_share_one_connection():
    with Simulator("tgi") as simulator, connect("tgi", simulator.url) as adapter:
        adapter.engine_version()
        accepted = simulator.state.accepted
        for _ in range(100):
            assert isinstance(list(adapter.stream(request(max_tokens=2)))[-1], End)
        assert simulator.state.accepted <= accepted + 1


def test_a_full_cache_fails_the_whole_batch():
    gated = Gated()
    options = {"slots": 2, "kv_tokens": 40, "rate": 1000, "source": gated.source}
    with Simulator("tgi", **options) as simulator, connect("tgi", simulator.url, retry=ONCE) as adapter:
        streams = [adapter.submit(request(max_tokens=100)) for _ in range(2)]
        simulator.wait_for(active=2)
        gated.open.set()
        ends = [list(stream)[-1] for stream in streams]
    assert [(end.code, end.reason) for end in ends] == [("WORKER_RESET", "KV_EXHAUSTED")] * 2
