"""What each kind of fault does to the bytes, on raw sockets."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
import zlib

import attrs
import pytest

from worker_adapters.simulator import ScriptedSource, Simulator, llamacpp
from worker_adapters.testing.leaks import no_leaks

from ..timers import SOON
from .client import Client, body_of, completion, dechunk, events_of, exchange, get

SAID = ["a", "b", "é", "d"]
REQUEST = {"n_predict": 4, "prompt": "the sun"}
MASK = re.compile(rb'"timings":\{[^}]*\}')
END = b"\r\n0\r\n\r\n"


def simulator(*faults, source=SAID, **options):
    return Simulator("llamacpp", faults=faults, source=ScriptedSource(list(source)), **options)


def ask(*headers, **fields):
    request = completion(**REQUEST, **fields)
    lines = "".join(f"Host: test\r\n{header}\r\n" for header in headers).encode()
    return request.replace(b"Host: test\r\n", lines) if headers else request


def received(sim, request=None):
    """All that comes until the server closes, and whether it did so with a reset."""
    data = b""
    try:  # a reset at accept may be there before connect() has returned
        with Client(sim) as client:
            client.send(request or ask())
            while piece := client.sock.recv(65536):
                data += piece
    except (ConnectionResetError, BrokenPipeError):
        return data, True
    return data, False


def faulty(*faults, **options):
    with simulator(*faults, **options) as sim:
        data, reset = received(sim)
        kinds = [fault.partition("@")[0].partition(":")[0] for fault in faults]
        assert sim.state.fired == {kind: kinds.count(kind) for kind in kinds}
        assert sim.state.faults == len(faults)
        return data, reset


def payloads(data):
    """The complete chunks of a body that may break off anywhere, and what is left behind them."""
    rest, found = data.partition(b"\r\n\r\n")[2], []
    while match := re.match(rb"([0-9a-f]+)\r\n", rest):
        size = int(match[1], 16)
        if len(rest) < match.end() + size + 2 or not size:
            break
        found.append(rest[match.end() : match.end() + size])
        rest = rest[match.end() + size + 2 :]
    return found, rest


def texts(data):
    return [json.loads(payload[6:])["content"] for payload in payloads(data)[0] if payload.startswith(b'data: {"index')]


@pytest.fixture(scope="module")
def plain():
    """The same answer without a fault."""
    with simulator() as sim:
        return received(sim)[0]


def same(one, other):
    return MASK.sub(b"", one) == MASK.sub(b"", other)


def test_without_faults_nothing_differs(plain):
    """Neither what is there but not due nor an option at its default changes a byte."""
    for faults in ((), ("reset@900", "cut#7", "/health close*", "stall@b99999")):
        with simulator(*faults, coalesce=1) as sim:
            data, reset = received(sim)
            assert (sim.state.faults, dict(sim.state.fired)) == (0, {})
        assert not reset
        # Sizes of chunks follow the timings, so those are taken out with the last chunk's size.
        assert [MASK.sub(b"", payload) for payload in dechunk(data)] == [MASK.sub(b"", p) for p in dechunk(plain)]


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_a_reset_comes_before_the_event_it_names(at):
    data, reset = faulty(f"reset@{at}")
    assert reset
    assert texts(data) == SAID[:at]
    assert payloads(data)[1] == b""


@pytest.mark.parametrize("at", ["0", "2", "end"])
def test_a_close_leaves_the_chunked_body_unfinished(at):
    data, reset = faulty(f"close@{at}")
    assert not reset
    assert texts(data) == (SAID if at == "end" else SAID[: int(at)])
    assert payloads(data)[1] == b""
    assert b"Transfer-Encoding: chunked" in data


@pytest.mark.parametrize("at", [0, 1, 3, 40, 113, 118, 200])
@pytest.mark.parametrize("kind", ["reset", "close", "eof"])
def test_a_byte_offset_counts_the_body_on_the_wire(plain, kind, at):
    data, reset = faulty(f"{kind}@b{at}")
    head, _, body = data.partition(b"\r\n\r\n")
    assert len(body) == at
    assert reset == (kind == "reset")
    if kind == "eof":
        assert b"Transfer-Encoding" not in head
        assert body == b"".join(dechunk(plain))[:at]
    else:
        assert data == plain[: len(data)]


@pytest.mark.parametrize("split", [1, 7])
def test_byte_offsets_do_not_depend_on_how_the_bytes_are_cut(plain, split):
    data, _ = faulty("close@b150", split=split)
    assert data == plain[: len(data)]
    assert len(data.partition(b"\r\n\r\n")[2]) == 150


def test_an_unframed_body_looks_clean_wherever_it_ends(plain):
    data, reset = faulty("eof@2")
    head, _, body = data.partition(b"\r\n\r\n")
    assert not reset
    assert head.lower().count(b"connection: close") == 1
    assert not re.search(rb"(?i)transfer-encoding|content-length|keep-alive", head)
    assert body == b"".join(dechunk(plain)[:2])


def test_an_unframed_body_can_be_complete(plain):
    with simulator("eof@900") as sim:
        data, _ = received(sim)
    assert same(data.partition(b"\r\n\r\n")[2], b"".join(dechunk(plain)))


def test_a_cut_is_in_the_middle_of_a_chunk(plain):
    data, reset = faulty("cut@2")
    found, rest = payloads(data)
    size, _, half = rest.partition(b"\r\n")
    assert not reset
    assert len(found) == 2
    assert half == dechunk(plain)[2][: int(size, 16) // 2]


def test_half_a_character_is_all_that_comes_of_it():
    data, reset = faulty("half-char")
    assert not reset
    assert texts(data) == ["a", "b"]
    assert data.endswith(b'"content":"\xc3')


@pytest.mark.parametrize(("at", "said"), [(0, []), (2, ["a", "b"]), (4, SAID)])
def test_the_engines_own_error_is_its_last_event(at, said):
    data, reset = faulty(f"error@{at}")
    assert not reset
    assert texts(data) == said
    assert events_of(data)[-1] == {"error": {"code": 500, "message": "Compute error.", "type": "server_error"}}
    assert data.endswith(END)


def test_an_error_says_what_it_is_told_to_say_and_is_a_reply_where_nothing_was_sent():
    with simulator("error@2:boo*", "error@head:boo") as sim:
        assert events_of(received(sim)[0])[-1]["error"]["message"] == "boo"
        reply = exchange(sim, ask(stream=False))
        assert reply.startswith(b"HTTP/1.1 500 ")
        assert body_of(reply)["error"]["message"] == "boo"
        sim.wait_for(failed=2, active=0)
        assert exchange(sim, ask("X-Simulator-Fault: error@head:boo")).startswith(b"HTTP/1.1 500 ")


def test_garbage_stands_in_a_chunk_of_its_own_and_the_stream_goes_on(plain):
    for fault, text in (("garbage@2", b"\x00\xff\xfe upstream went away \x80\n\n"), ("garbage@2:<boo>", b"<boo>")):
        chunks = dechunk(faulty(fault)[0])
        assert chunks[2] == text
        assert [MASK.sub(b"", chunk) for chunk in chunks[:2] + chunks[3:]] == [MASK.sub(b"", c) for c in dechunk(plain)]


def test_garbage_at_a_byte_breaks_the_framing(plain):
    data, _ = faulty("garbage@b100:xyz")
    at = plain.index(b"\r\n\r\n") + 4 + 100
    assert data[: at + 200] == plain[:at] + b"xyz" + plain[at : at + 197]


def test_what_is_no_json_is_an_event_all_the_same():
    assert dechunk(faulty("not-json@1")[0])[1] == b'data: {"content":\n\n'
    assert dechunk(faulty("not-json@1:nope")[0])[1] == b"data: nope\n\n"


def test_the_end_can_come_twice_and_tokens_after_it(plain):
    chunks = dechunk(faulty("dup-end")[0])
    assert len(chunks) == len(dechunk(plain)) + 1
    assert chunks[-1] == chunks[-2]
    chunks = dechunk(faulty("after-end:3")[0])
    assert chunks[-3:] == (chunks[3],) * 3
    assert b'"stop":true' in chunks[-4]


def test_comments_come_instead_of_tokens_until_the_client_leaves():
    with simulator("comments@1:1ms") as sim, Client(sim) as client:
        data = client.send(ask()).until(b"3\r\n:\n\n\r\n" * 5)
        assert texts(data) == ["a"]
        client.sock.close()
        sim.wait_for(cancelled=1, active=0, open=0, faults=1)


def test_a_huge_event_has_exactly_that_size_and_the_same_content(plain):
    chunks = dechunk(faulty("huge@1:300000")[0])
    assert len(chunks[1]) == 300_000
    assert json.loads(chunks[1][6:]) == json.loads(dechunk(plain)[1][6:])
    assert chunks[1].endswith(b"}" + b" " * (300_000 - len(dechunk(plain)[1])) + b"\n\n")


def test_a_trickle_sends_one_byte_per_interval():
    with simulator("trickle@1:20ms") as sim, Client(sim) as client:
        before = time.monotonic()
        data = client.send(ask()).until(b"\n\n\r\n")
        while len(payloads(data)[1]) < 8:
            data += client.sock.recv(65536)
        trickled = len(payloads(data)[1])
        assert time.monotonic() - before >= 0.02 * (trickled - 1)
        assert texts(data) == ["a"]


def test_a_trickle_may_begin_with_the_head():
    with simulator("trickle@head:2ms") as sim:
        before = time.monotonic()
        with Client(sim) as client:
            head = client.send(ask()).until(b"\r\n\r\n")
        assert time.monotonic() - before >= 0.002 * (len(head) - 1)


def test_a_stall_lasts_as_long_as_it_says_and_takes_nothing_away(plain):
    for where in ("head", "1", "b30", "end"):
        before = time.monotonic()
        data, _ = faulty(f"stall@{where}:60ms")
        assert time.monotonic() - before >= 0.06
        assert texts(data) == [*SAID, ""]
        assert data.endswith(END)


@pytest.mark.parametrize("where", ["head", "0", "2", "b3", "end", "accept"])
@pytest.mark.parametrize("ends", ["client", "stop"])
def test_an_endless_stall_ends_with_its_client_or_with_the_simulator(where, ends):
    with no_leaks():
        threads = set(threading.enumerate())
        sim = simulator(f"stall@{where}").start()
        with Client(sim) as client:
            client.send(ask())
            sim.wait_for(faults=1)
            before = time.monotonic()
            if ends == "client":
                client.sock.close()
                sim.wait_for(open=0, active=0, accepted=1)
            else:
                sim.stop()
                assert sim.state.open == 0
            assert time.monotonic() - before < SOON
        sim.stop()
        assert set(threading.enumerate()) <= threads


def test_a_half_closed_client_ends_a_stall_too_although_bytes_lie_unread():
    with simulator("stall@accept") as sim, Client(sim) as client:
        client.send(ask())
        sim.wait_for(faults=1)
        with pytest.raises(TimeoutError):
            sim.wait_for(accepted=1, timeout=0.1)  # the unread bytes alone end nothing
        client.sock.shutdown(socket.SHUT_WR)
        sim.wait_for(accepted=1)


def test_a_stalled_engine_keeps_its_slot_and_its_pings():
    with simulator("stall@1", slots=1) as sim, Client(sim) as client:
        data = client.send(ask(sse_ping_interval=1)).until(b"3\r\n:\n\n\r\n")
        assert texts(data) == ["a"]
        assert sim.state.active == 1


def test_a_slow_accept_holds_up_everybody():
    with simulator("stall@accept") as sim, Client(sim) as first, Client(sim) as second:
        sim.wait_for(faults=1)
        second.send(get("/health"))
        assert sim.state.accepted == 0
        first.sock.close()
        assert second.response().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("where", ["accept", "head"])
def test_not_a_byte_comes_before_the_head(kind, where):
    assert faulty(f"{kind}@{where}") == (b"", kind == "reset")


def test_loading_for_some_requests_and_then_ready():
    with simulator("loading*2") as sim:
        replies = [exchange(sim, ask()) for _ in range(3)]
        assert [reply.split()[1] for reply in replies] == [b"503", b"503", b"200"]
        assert body_of(replies[0]) == {
            "error": {"message": "Loading model", "type": "unavailable_error", "code": 503},
        }
        assert sim.state.fired == {"loading": 2}


def test_loading_for_some_time_and_then_ready():
    with simulator("loading:200ms") as sim:
        assert exchange(sim, ask()).startswith(b"HTTP/1.1 503 ")
        give_up = time.monotonic() + 5
        while not exchange(sim, ask()).startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < give_up
        assert set(sim.state.fired) == {"loading"}


@pytest.mark.parametrize(
    "text", ["30", "Wed, 21 Oct 2026 07:28:00 GMT", "1e400", "-5", "NaN", "soon", "99999999999999999999"]
)
def test_a_busy_server_says_retry_after_in_any_words(text):
    with simulator(f"busy:{text}") as sim:
        reply = exchange(sim, ask())
    assert reply.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert f"\r\nRetry-After: {text}\r\n".encode() in reply


def test_a_busy_server_may_say_milliseconds_or_nothing():
    with simulator("busy:ms=250", "busy") as sim:
        assert b"\r\nRetry-After-Ms: 250\r\n" in exchange(sim, ask())
        assert b"retry-after" not in exchange(sim, ask()).lower()


@pytest.mark.parametrize(
    ("fault", "status", "kind", "body"),
    [
        ("status:502", b"502 Bad Gateway", b"text/html", b"<h1>502 Bad Gateway</h1>"),
        ('status:"503 down; *really*"', b"503 Service", b"text/plain", b"down; *really*"),
        ('status:400 {"error": 5}', b"400 Bad", b"application/json", b'{"error": 5}'),
        ("status:599 x", b"599 ", b"text/plain", b"x"),
        ("html", b"200 OK", b"text/html", b"<h1>Welcome</h1>"),
        ("html:<p>hi", b"200 OK", b"text/html", b"<p>hi"),
        ("redirect:https://else.where/", b"307 ", b"text/plain", b"Moved"),
        ("overloaded", b"503 ", b"application/json", b"no slot available"),
    ],
)
def test_another_answer_than_the_engines(fault, status, kind, body):
    with simulator(fault) as sim:
        head, _, told = exchange(sim, ask()).partition(b"\r\n\r\n")
        assert sim.wait_for(faults=1).tokens == 0
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nContent-Type: " + kind in head
    assert body in told
    if fault.startswith("redirect"):
        assert b"\r\nLocation: https://else.where/\r\n" in head + b"\r\n"


def test_heads_in_front_of_the_head(plain):
    noise = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    data = faulty("interim:2")[0]
    assert data.startswith(noise + b"HTTP/1.1 200 OK\r\nServer")


def test_garbage_instead_of_a_status_line():
    assert faulty("garbage@head") == (b"220 mail.example ESMTP ready\r\n\r\n", False)
    assert faulty("garbage@head:SSH-2.0") == (b"SSH-2.0", False)


def test_a_compressed_body_says_so_and_is_one(plain):
    data, _ = faulty("gzip")
    assert b"\r\nContent-Encoding: gzip\r\n" in data
    unzip = zlib.decompressobj(wbits=31)
    body = unzip.decompress(b"".join(dechunk(data)))
    assert unzip.eof
    assert same(body, b"".join(dechunk(plain)))
    with simulator() as sim:
        head, _, body = exchange(sim, get("/health", "X-Simulator-Fault: gzip")).partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head
    assert json.loads(gzip.decompress(body)) == {"status": "ok"}


def test_faults_at_different_places_meet_in_one_request():
    with simulator("interim#1", "trickle@b5:1ms#1", "garbage@1:x#1", "close@2") as sim:
        data, _ = received(sim)
        assert sim.state.fired == {"interim": 1, "trickle": 1, "garbage": 1, "close": 1}
    assert data.startswith(b"HTTP/1.1 100 Continue")
    assert texts(data.partition(b"\r\n\r\n")[2]) == ["a", "b"]


def test_answers_that_are_sent_whole_meet_faults_by_token_and_by_byte():
    with simulator("reset@2", "close@b10", "stall@3:30ms", "cut@1") as sim:
        whole = ask(stream=False)
        assert received(sim, whole) == (b"", True)
        data, _ = received(sim, whole)
        assert len(data.partition(b"\r\n\r\n")[2]) == 10
        assert body_of(exchange(sim, whole))["content"] == "abéd"
        assert body_of(exchange(sim, whole))["content"] == "abéd"
        assert sim.state.fired == {"reset": 1, "close": 1, "stall": 1}


def test_a_slot_is_free_once_a_fault_has_ended_its_connection():
    with simulator(*["reset@1"] * 3, slots=1) as sim:
        for number in range(3):
            assert received(sim)[1]
            sim.wait_for(failed=number + 1, active=0, open=0)
        assert texts(received(sim)[0])[:4] == SAID


def test_a_request_can_bring_its_faults():
    with simulator("close@1") as sim:
        assert texts(received(sim, ask("X-Simulator-Fault: interim; reset@3"))[0].partition(b"\r\n\r\n")[2]) == SAID[:3]
        assert texts(received(sim)[0]) == SAID[:1], "the script has not moved on"
        assert exchange(sim, get("/health", "X-Simulator-Fault: status:500 x")).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("header", ["nope@3", "reset@accept", "stall@"])
def test_a_fault_that_cannot_be_met_is_answered_with_400(header):
    with simulator() as sim, Client(sim) as client:
        reply = client.send(get("/health", f"X-Simulator-Fault: {header}")).response()
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert header.encode() in reply
        assert client.send(get("/health")).response().endswith(b'{"status":"ok"}')


def test_the_engine_never_sees_the_header():
    seen = []

    def build(setup, **options):
        wire = llamacpp.build(setup, **options)
        return attrs.evolve(wire, answer=lambda request, slots: seen.append(request) or wire.answer(request, slots))

    with Simulator(build) as sim:
        exchange(sim, get("/health", "X-Simulator-Fault: stall:1ms", "X-Other: 1"))
    assert dict(seen[0].headers) == {"host": "test", "x-other": "1"}


def test_probes_do_not_use_up_what_is_meant_for_streams():
    with simulator("reset@1", "/health status:500 x") as sim:
        assert [exchange(sim, get("/health")).split()[1] for _ in range(2)] == [b"500", b"200"]
        assert exchange(sim, get("/props")).startswith(b"HTTP/1.1 200 ")
        assert received(sim)[1]


def test_faults_can_be_added_while_it_runs():
    with simulator() as sim:
        received(sim)
        sim.inject("cut@1", "busy")
        assert texts(received(sim)[0]) == ["a"]
        assert exchange(sim, ask()).startswith(b"HTTP/1.1 429 ")
        assert texts(received(sim)[0])[:4] == SAID


def test_chance_meets_the_same_requests_again():
    runs = []
    for _ in range(2):
        with simulator("close@1~0.5", seed=7) as sim:
            runs.append([len(texts(received(sim)[0])) for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {1, 5}


def test_waiting_tells_what_was_fired():
    with simulator("stall@1", "cut") as sim, Client(sim) as client:
        client.send(ask())
        assert sim.wait_for(faults=1).fired == {"stall": 1}
        received(sim)
        assert sim.wait_for(lambda state: state.fired.get("cut")).fired == {"stall": 1, "cut": 1}


def test_events_can_share_their_chunks(plain):
    with simulator(coalesce=3) as sim:
        chunks = dechunk(received(sim)[0])
    assert [chunk.count(b"data: ") for chunk in chunks] == [3, 2]
    assert same(b"".join(chunks), b"".join(dechunk(plain)))


def test_what_shares_a_chunk_comes_before_the_fault():
    with simulator("close@2", coalesce=9) as sim:
        found, rest = payloads(received(sim)[0])
        assert [payload.count(b"data: ") for payload in found] == [2]
        assert rest == b""


def test_two_prompts_end_once():
    with simulator("dup-end", "close@end", slots=1) as sim:
        said = events_of(received(sim, completion(prompt=["x", "y"], n_predict=2))[0])
        ends = [event["index"] for event in said if event and event.get("stop")]
        assert ends == [0, 1, 1]
        data, _ = received(sim, completion(prompt=["x", "y"], n_predict=2))
        assert data.count(b'"stop":true') == 1


def test_nothing_is_left_after_many_faults():
    kinds = ["reset@1", "close@1", "cut@1", "eof@1", "reset@head", "close@accept", "reset@accept", "status:500", "gzip"]
    with no_leaks():
        threads = set(threading.enumerate())
        with simulator(*kinds, slots=1, keep_alive_s=0.1) as sim:
            for _ in range(len(kinds) + 2):
                received(sim)
            sim.wait_for(open=0, active=0, faults=len(kinds))
        assert set(threading.enumerate()) <= threads
