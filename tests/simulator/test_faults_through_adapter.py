"""What the adapter makes of each kind of fault: the terminal event, and all that came before it."""

from __future__ import annotations

import time
from itertools import islice

import pytest

from worker_adapters import (
    End,
    Error,
    GenerateRequest,
    Limits,
    Metrics,
    Retry,
    Started,
    Timeouts,
    Token,
)
from worker_adapters.simulator import ENGINES
from worker_adapters.testing import SimulatedWorker, no_leaks

from ..products import product
from ..timers import SOON, unhurried

SAID = ["a", "b", "é", "d"]
ATTEMPTS = 3
QUICK = 0.15  # seconds; a timer that is the subject
SLOW = Timeouts(first_token=30.0, idle=30.0)

NEW = "POOL_UNAVAILABLE"
HALF = "WORKER_RESET"
INTERNAL = "INTERNAL"


def simulator(*faults, engine="llamacpp", **options):
    return SimulatedWorker(engine, faults=faults, says=SAID, **options)


def adapter_of(sim, *, timeouts=SLOW, **options):
    return sim.connect(retry=Retry(attempts=ATTEMPTS, base=0, max_retry_after=1.0), timeouts=timeouts, **options)


def events_of(sim, way, *, deadline=None, **options):
    """The events of one stream, run as `way` says; the adapter leaves nothing behind."""
    with adapter_of(sim, **options) as adapter:
        request = GenerateRequest(prompt="the sun", max_tokens=10, seed=1, deadline=deadline)
        with getattr(adapter, way)(request) as stream:
            return list(stream)


def meet(fault, way, *, engine="llamacpp", **options):
    with no_leaks(), simulator(fault, engine=engine) as sim:
        events = events_of(sim, way, **options)
        sim.wait_for(active=0, open=0)  # the slot is free before a connection has come to its end
        return events, sim.state.fired


def error_of(events, said):
    """The error that ends the events, which are checked to be the rest of a lawful stream with so many Tokens."""
    *before, error = events
    assert isinstance(error, Error)
    if said is None:
        assert before == []
        return error
    assert [type(event) for event in before] == [Started, *[Token] * said]
    assert [(event.index, event.text) for event in before[1:]] == list(enumerate(SAID[:said]))
    return error


def ends(events):
    """What their error says."""
    error = events[-1]
    return (error.code, error.reason, error.retriable, error.phase, error.attempts)


def assert_complete(events, attempt=1):
    """All that was said has come, once."""
    assert [type(event) for event in events] == [Started, *[Token] * len(SAID), Metrics, End]
    assert [event.text for event in events if isinstance(event, Token)] == SAID
    assert events[0].attempt == attempt
    assert events[-1].finish_reason == "stop"


WAYS = ("submit", "stream")
both = pytest.mark.parametrize("way", WAYS)

# By the fault: how many Tokens come before (None: not even Started); code, reason, retriable, phase, attempts.
FAILURES: dict[str, tuple[int | None, tuple[object, ...]]] = {
    "stall@accept*": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "queue", 1)),
    "stall@head": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "queue", 1)),
    "stall@0": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
    "stall@b5": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
    "stall@2": (2, ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True, "decode", 1)),
    "stall@end": (4, ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True, "decode", 1)),
    "trickle@head:100ms": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
    "trickle@0:10ms": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
    "trickle@2:10ms": (2, ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True, "decode", 1)),
    "comments@0:10ms": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
    "comments@3:10ms": (3, ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True, "decode", 1)),
    "reset@head*": (None, (NEW, "DISCONNECTED", True, "queue", ATTEMPTS)),
    "reset@0": (None, (NEW, "DISCONNECTED", True, "first_token", 1)),
    "reset@b30": (None, (NEW, "DISCONNECTED", True, "first_token", 1)),
    "reset@1": (1, (HALF, "DISCONNECTED", True, "decode", 1)),
    "reset@end": (4, (HALF, "DISCONNECTED", True, "decode", 1)),
    "close@accept*": (None, (NEW, "DISCONNECTED", True, "queue", ATTEMPTS)),
    "close@head*": (None, (NEW, "DISCONNECTED", True, "queue", ATTEMPTS)),
    "close@0": (None, (NEW, "TRUNCATED", True, "first_token", 1)),
    "close@3": (3, (HALF, "TRUNCATED", True, "decode", 1)),
    "close@b200": (1, (HALF, "TRUNCATED", True, "decode", 1)),
    "close@end": (4, (HALF, "TRUNCATED", True, "decode", 1)),
    "eof@0": (None, (NEW, "EMPTY", True, "first_token", 1)),
    "eof@1": (1, (HALF, "TRUNCATED", True, "decode", 1)),
    "eof": (4, (HALF, "TRUNCATED", True, "decode", 1)),
    "cut@0": (None, (NEW, "TRUNCATED", True, "first_token", 1)),
    "cut@2": (2, (HALF, "TRUNCATED", True, "decode", 1)),
    "half-char": (2, (HALF, "TRUNCATED", True, "decode", 1)),
    "error@head": (None, (NEW, "ENGINE_ERROR", True, "first_token", 1)),
    "error@0": (None, (NEW, "ENGINE_ERROR", True, "first_token", 1)),
    "error@2": (2, (HALF, "ENGINE_ERROR", True, "decode", 1)),
    "error@2:Context size has been exceeded.": (2, (HALF, "KV_EXHAUSTED", True, "decode", 1)),
    "garbage@head": (None, (INTERNAL, "PROTOCOL", False, "first_token", 1)),
    "not-json@0": (None, (INTERNAL, "PROTOCOL", False, "first_token", 1)),
    "not-json@2": (2, (INTERNAL, "PROTOCOL", False, "decode", 1)),
    "huge@0": (None, (INTERNAL, "EVENT_TOO_LARGE", False, "first_token", 1)),
    "huge@2": (2, (INTERNAL, "EVENT_TOO_LARGE", False, "decode", 1)),
    "loading*": (None, ("POOL_UNREADY", "LOADING", True, "first_token", ATTEMPTS)),
    "loading:30s": (None, ("POOL_UNREADY", "LOADING", True, "first_token", ATTEMPTS)),
    "overloaded*": (None, ("ADMISSION_REJECT", "OVERLOADED", True, "first_token", ATTEMPTS)),
    "busy*": (None, ("ADMISSION_REJECT", "OVERLOADED", True, "first_token", ATTEMPTS)),
    "status:400 no": (None, ("INVALID_PARAMS", "VALIDATION", False, "first_token", 1)),
    "status:401": (None, (INTERNAL, "UPSTREAM_AUTH", False, "first_token", 1)),
    "status:404": (None, (INTERNAL, "UPSTREAM_NOT_FOUND", False, "first_token", 1)),
    "status:405": (None, (INTERNAL, "UNSUPPORTED", False, "first_token", 1)),
    "status:500": (None, (NEW, "ENGINE_ERROR", True, "first_token", 1)),
    "status:502*": (None, (NEW, "ENGINE_ERROR", True, "first_token", ATTEMPTS)),
    "status:503*": (None, (NEW, "ENGINE_ERROR", True, "first_token", ATTEMPTS)),
    "status:504*": (None, (NEW, "ENGINE_ERROR", True, "first_token", ATTEMPTS)),
    "redirect": (None, (INTERNAL, "REDIRECT", False, "first_token", 1)),
    "html": (None, (INTERNAL, "PROTOCOL", False, "first_token", 1)),
    "gzip": (None, (INTERNAL, "PROTOCOL", False, "first_token", 1)),
    # Half of the first event; a chunk size that is no number; a head that the timer cuts between two lines.
    "eof@b50": (None, (NEW, "TRUNCATED", True, "first_token", 1)),
    "garbage@b118:xyz": (None, (INTERNAL, "PROTOCOL", False, "first_token", 1)),
    "trickle@head:5ms": (None, (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)),
}
TIMED = ("stall", "trickle", "comments")


# Where in an event a byte lies, and the words of a failure, are llama-server's own.
OF_LLAMACPP = ("close@b200", "eof@b50", "garbage@b118", "error@2:Context")
# A Triton is asked first what it speaks, and fails there (tests/engines/test_triton_sockets.py).
# trtllm-serve never refuses for load: what comes is a proxy's 503. A TGI that loads has its port closed: test_tgi.py;
# an SGLang says 503 and not a word, which may be anything.
ELSEWHERE = {f"triton-{kind}": ("stall@accept", "close@accept") for kind in ("llmapi", "trtllm", "vllm")} | {
    "tgi": ("loading",),
    "sglang": ("loading",),
    "trtllm": ("overloaded",),
}


# Their last event holds the reason: it is over, whatever becomes of the body.
REASONED = ("triton-llmapi", "triton-vllm")
AFTER_THE_REASON = ("stall@end", "reset@end", "close@end", "eof")


CASES = [
    (fault, engine, way)
    for fault in FAILURES
    for engine in sorted(ENGINES)
    for way in WAYS
    if engine == "llamacpp" or not fault.startswith(OF_LLAMACPP)
    if not fault.startswith(ELSEWHERE.get(engine, ()))
    if not (engine in REASONED and fault in AFTER_THE_REASON)
]


@pytest.mark.parametrize("engine", REASONED)
@pytest.mark.parametrize("fault", AFTER_THE_REASON)
def test_a_body_that_breaks_off_after_the_finish_reason_has_ended(fault, engine):
    events, fired = meet(fault, "stream", engine=engine, timeouts=SLOW)
    assert isinstance(events[-1], End), events[-1]
    assert sum(fired.values()) == 1


@product("fault, engine, way", CASES)
def test_a_fault_ends_the_stream_with_its_error(fault, engine, way):
    said, expected = FAILURES[fault]
    if fault.startswith(TIMED):
        events, fired = unhurried(
            lambda scale: meet(
                fault, way, engine=engine, timeouts=Timeouts(first_token=QUICK * scale, idle=QUICK * scale)
            ),
            lambda met: (
                sum(isinstance(event, Token) for event in met[0]) == (said or 0)
                and ends(met[0]) == expected
                and sum(met[1].values()) >= met[0][-1].attempts
            ),
        )
    else:
        events, fired = meet(fault, way, engine=engine)
    error = error_of(events, said)
    assert ends(events) == expected
    assert sum(fired.values()) >= error.attempts


def test_interim_heads_of_every_kind_are_skipped():
    """http.client skips 100 alone (RFC 9110, 15.2: a client must be able to skip any 1xx)."""
    assert_complete(meet("interim:3", "stream")[0])


@both
def test_a_reset_at_accept_is_seen_while_connecting_or_just_after(way):
    events, fired = meet("reset@accept*", way)
    error = error_of(events, None)
    assert (error.code, error.reason, error.retriable, error.attempts) == (NEW, "DISCONNECTED", True, ATTEMPTS)
    assert error.phase in {"connect", "queue"}
    assert fired["reset"] >= ATTEMPTS


@pytest.mark.parametrize("kind", ["close", "reset", "eof"])
def test_wherever_a_body_breaks_off_there_is_no_end_and_no_wrong_token(kind):
    """Offsets of every sort: in a size, in an event, between two, in a character, in the last event, in the terminator."""
    offsets = [0, 1, 2, 3, 100, 112, 115, 116, 117, 118, 119, 120, *range(121, 600, 37), 1200, 2100]
    with no_leaks(), simulator() as sim, adapter_of(sim) as adapter:
        came = []
        for offset in offsets:
            sim.inject(f"{kind}@b{offset}")
            with adapter.stream(GenerateRequest(prompt="the sun", max_tokens=10)) as stream:
                *before, error = list(stream)
            assert isinstance(error, Error), offset
            tokens = [event.text for event in before if isinstance(event, Token)]
            assert tokens == SAID[: len(tokens)]
            assert error.code == (HALF if before else NEW) or (kind == "eof" and not before)
            came.append(len(tokens))
        assert came == sorted(came)
        assert set(came) == set(range(len(SAID) + 1))
        assert sim.state.fired == {kind: len(offsets)}


HARMLESS = [
    "stall@head:50ms",
    "stall@accept:50ms",
    "stall@2:50ms",
    "stall@b100:50ms",
    "garbage@2",
    "garbage@0",
    "dup-end",
    "after-end:3",
    "huge@2:500KiB",
    "interim",
    "eof@99",
]


@both
@pytest.mark.parametrize("fault", HARMLESS)
def test_a_fault_that_a_stream_survives_changes_none_of_its_events(fault, way):
    events, fired = meet(fault, way)
    assert_complete(events)
    assert bool(fired) == (fault != "eof@99")


@both
@pytest.mark.parametrize(
    ("faults", "attempt"),
    [
        (["loading*2"], 3),
        (["overloaded"], 2),
        (["status:502", "reset@head"], 3),
        (["close@head", "status:504"], 3),
        (["busy:0"], 2),
        (["busy:ms=20"], 2),
        (["busy:Wed, 21 Oct 2015 07:28:00 GMT"], 2),
        (["busy:-5", "busy:NaN"], 3),
        (["busy:soon", "busy:1e400"], 3),
        (["busy:-inf", "busy:1, 2"], 3),
    ],
    ids=str,
)
def test_what_passes_is_retried_until_it_has_passed(faults, attempt, way):
    with no_leaks(), simulator(*faults) as sim:
        assert_complete(events_of(sim, way), attempt)
        assert sim.state.faults == attempt - 1
        assert sim.state.served == 1


@both
@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("9", 9000), ("ms=5000.5", 5000), ("Fri, 01 Jan 2100 00:00:00 GMT", None), ("99999999999999999999", None)],
)
def test_a_wait_too_long_is_handed_on_instead_of_waited_for(text, milliseconds, way):
    events, fired = meet(f"busy:{text}*", way)
    error = error_of(events, None)
    assert (error.code, error.reason, error.attempts) == ("ADMISSION_REJECT", "OVERLOADED", 1)
    assert isinstance(error.retry_after_ms, int)
    if milliseconds is None:
        assert error.retry_after_ms > 1e6
    else:
        assert milliseconds <= error.retry_after_ms <= milliseconds + 1
    assert fired == {"busy": 1}


@both
@pytest.mark.parametrize(
    ("fault", "said", "phase"),
    [("stall@head", None, "queue"), ("trickle@0", None, "first_token"), ("comments@2", 2, "decode")],
)
def test_nothing_outlives_the_deadline(fault, said, phase, way):
    def run(scale):
        deadline, before = 0.1 * scale, time.monotonic()
        pace = "" if fault.startswith("stall") else f":{scale:g}ms"
        events, _ = meet(f"{fault}{pace}", way, deadline=deadline)
        assert time.monotonic() - before < deadline + SOON
        return events

    def is_right(events):
        return len(events) > (said or 0) and getattr(events[-1], "phase", None) == phase

    error = error_of(unhurried(run, is_right), said)
    assert (error.code, error.reason, error.retriable, error.phase) == ("DEADLINE_UNMET", "DEADLINE", False, phase)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("stall@accept", []),
        ("stall@head", []),
        ("stall@0", []),
        ("stall@b3", []),
        ("stall@1", SAID[:1]),
        ("comments@2", SAID[:2]),
    ],
)
def test_a_cancel_ends_a_fault_on_both_sides(fault, said):
    with no_leaks(), simulator(fault) as sim, adapter_of(sim) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="the sun", max_tokens=10))
        events = list(islice(stream, len(said) + 1)) if said else []
        sim.wait_for(faults=1)
        before = time.monotonic()
        stream.cancel()
        events += stream
        assert time.monotonic() - before < SOON
        assert [event.text for event in events if isinstance(event, Token)] == said
        assert isinstance(events[-1], End)
        assert events[-1].finish_reason == "cancelled"
        sim.wait_for(active=0, open=0)  # the slot is free before a connection has come to its end


@both
def test_a_stream_fails_alone(way):
    """What one request meets, its neighbours do not."""
    with no_leaks(), simulator("reset@2#2") as sim, adapter_of(sim) as adapter:
        ends = []
        for _ in range(3):
            with getattr(adapter, way)(GenerateRequest(prompt="the sun", max_tokens=10)) as stream:
                ends.append(list(stream)[-1])
        assert [type(end) for end in ends] == [End, Error, End]


@both
def test_the_limit_for_one_event_can_be_set(way):
    limits = Limits(max_event_size=4096)
    error = error_of(meet("huge@1:5000", way, limits=limits)[0], 1)
    assert error.reason == "EVENT_TOO_LARGE"
    assert_complete(meet("huge@1:4000", way, limits=limits)[0])


@both
@pytest.mark.parametrize(
    "options", [{"coalesce": 3}, {"coalesce": 100}, {"split": 1}, {"chunk_split": 3, "coalesce": 2}]
)
def test_how_events_are_packed_changes_none_of_them(options, way):
    with no_leaks(), simulator(**options) as sim:
        assert_complete(events_of(sim, way))


def test_health_can_fail_while_streams_run():
    with no_leaks(), simulator("/health status:503*", "/props close@b20*") as sim, adapter_of(sim) as adapter:
        health = adapter.health()
        assert (health.live, health.ready) == (True, False)
        assert_complete(list(adapter.submit(GenerateRequest(prompt="the sun", max_tokens=10))))
