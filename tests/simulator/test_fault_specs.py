"""The grammar of faults, and which request meets which."""

from __future__ import annotations

import math
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_adapters.faults import KINDS, FaultScript, FaultSpec, Place, parse, parse_many
from worker_adapters.simulator import Simulator

from .client import completion

COMMAND = [sys.executable, "-m", "worker_adapters.cli", "simulate", "--port", "0"]
DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"
ARGUMENTS = {
    "a time": st.sampled_from(["30s", "0.5", "200ms", "2m", "1", ".5s"]),
    "a count": st.integers(1, 999_999).map(str),
    "a size": st.sampled_from(["4096", "64KiB", "2MiB", "1B"]),
    "a status": st.builds(lambda status, body: f"{status} {body}".rstrip(" "), st.integers(200, 599), st.text()),
    "a line": st.text(st.characters(exclude_categories=["C", "Z"])),
    "a text": st.text(),
}
TAKES = {
    "stall": "a time",
    "trickle": "a time",
    "error": "a text",
    "garbage": "a text",
    "not-json": "a line",
    "comments": "a time",
    "huge": "a size",
    "after-end": "a count",
    "loading": "a time",
    "busy": "a line",
    "status": "a status",
    "redirect": "a line",
    "html": "a text",
    "interim": "a count",
}


def places(kind):
    number = st.integers(0, 10**9)
    every = {
        Place.ACCEPT: st.just("accept"),
        Place.HEAD: st.just("head"),
        Place.END: st.just("end"),
        Place.TOKEN: number.map(str),
        Place.BYTE: number.map("b{}".format),
    }
    return st.one_of(*(every[place] for place in KINDS[kind].places))


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(sorted(KINDS)))
    where = draw(st.none() | places(kind))
    argument = None
    if kind in TAKES:
        drawn = ARGUMENTS[TAKES[kind]]
        argument = draw(drawn if KINDS[kind].needed else st.none() | drawn)
    return FaultSpec(
        kind=kind,
        where=where,
        argument=argument,
        times=draw(st.none() | st.integers(1, 99) | st.just(math.inf)),
        nth=draw(st.none() | st.integers(1, 99)),
        every=draw(st.none() | st.integers(1, 99)),
        probability=draw(st.none() | st.floats(0, 1, exclude_min=True)),
        path=None if where == "accept" else draw(st.none() | st.sampled_from(["/health", "/*", "/v1/x*"])),
    )


@given(specs())
def test_what_a_fault_writes_of_itself_is_read_as_the_same_fault(spec):
    assert parse(str(spec)) == spec
    assert str(parse(str(spec))) == str(spec)


@given(st.lists(specs(), max_size=4))
def test_several_faults_fit_into_one_header(many):
    header = "; ".join(map(str, many))
    assert header.isascii()
    assert header.isprintable()
    assert parse_many(header) == tuple(many)


@given(st.text() | st.from_regex(r"(/x )?[a-z-]{1,9}(@[a-z0-9]*)?(:.*)?([*#%~]\d*)*", fullmatch=True))
def test_any_text_is_a_fault_or_a_value_error(text):
    try:
        spec = parse(text)
    except ValueError as error:
        assert str(error).startswith("fault ")  # noqa: PT017
    else:
        assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "place", "at", "value"),
    [
        ("stall@12:30s", Place.TOKEN, 12, 30.0),
        ("stall", Place.TOKEN, 0, math.inf),
        ("stall@accept:forever", Place.ACCEPT, 0, math.inf),
        ("stall@head:200ms", Place.HEAD, 0, 0.2),
        ("trickle@b340:.5", Place.BYTE, 340, 0.5),
        ("eof", Place.END, 0, None),
        ("huge@3:2MiB", Place.TOKEN, 3, 2 * 1024 * 1024),
        ("status:502 <h1>a*b</h1>", Place.HEAD, 0, (502, "<h1>a*b</h1>")),
        ("busy:Wed, 21 Oct 2026 07:28:00 GMT", Place.HEAD, 0, "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("busy:-1", Place.HEAD, 0, "-1"),
        ('garbage:"\\u0000*3"', Place.TOKEN, 0, "\0*3"),
    ],
)
def test_place_and_value(text, place, at, value):
    spec = parse(text)
    assert (spec.place, spec.at, spec.value) == (place, at, value)


def test_the_endings_may_come_in_any_order():
    assert parse("busy:30~0.5%3*2") == parse("busy:30*2%3~.5")
    assert str(parse(" /health  busy:30%3*2 ")) == "/health busy:30*2%3"
    assert str(parse('status:"502 *"*')) == 'status:"502 *"*'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stal@12", "no kind 'stal'"),
        ("", "column 1, the end can't be read"),
        ("12", "column 1, '12' can't be read"),
        ("stall @12", "column 6, ' @12' can't be read"),
        ("stall@12:", "column 9, ':' can't be read"),
        ('html:"open', "column 5"),
        ('html:"\\x"', "not quoted as JSON quotes"),
        ("stall@b", "@b is no place"),
        ("cut@b7", "cut does not act at b7 but at: token, end"),
        ("interim@3", "interim does not act at 3 but at: head"),
        ("reset:3", "reset takes no argument"),
        ("status", "status needs an argument: status and body"),
        ("status:99", "a status from 200 to 599"),
        ("stall:soon", "must be a time such as 30s, 200ms, 2m or forever, not 'soon'"),
        ("trickle:0", "must be a time above 0"),
        ("huge:1GB", "must be a size such as"),
        ('busy:"1\\r\\nX: y"', "must be one line"),
        ("reset*0", "times must be at least 1"),
        ("reset#0", "nth must be at least 1"),
        ("reset~0", "a probability is above 0 and at most 1"),
        ("reset~1.5", "a probability is above 0 and at most 1"),
        ("reset*2*3", "\\* stands there twice"),
        ("reset#", "'#' is no count"),
        ("reset*1.5", "'\\*1.5' is no count"),
        ("/health reset@accept", "acts before there is one"),
    ],
)
def test_what_is_wrong_is_said_with_the_text_and_where(text, says):
    with pytest.raises(ValueError, match=f"^fault {re.escape(repr(text))}: .*{says}"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["a:" + "~111" * 16_000, "a:" + "*1" * 30_000 + "x", 'html:"' + "\\" * 60_001, '"' * 60_000]
)
def test_a_header_full_of_signs_is_read_at_once(text):
    before = time.thread_time()
    with pytest.raises(ValueError, match="fault"):
        parse_many(text)
    assert time.thread_time() - before < 5


@pytest.mark.parametrize("text", ["stal", "", "cut@b7", "reset:3"])
def test_what_is_no_kind_is_told_all_there_are(text):
    with pytest.raises(ValueError, match="kinds: " + ", ".join(sorted(KINDS))):
        parse(text)


def test_wrong_values_are_refused_from_python_too():
    for fields in ({"kind": "x"}, {"kind": "reset", "times": 1.5}, {"kind": "reset", "path": "health"}):
        with pytest.raises(ValueError, match=r"no kind|at least 1|no path"):
            FaultSpec(**fields)


def met(script, count, path="/completion", *, generates=True, elapsed=0.0):
    return [
        " ".join(spec.kind for spec in script.for_request(path, generates=generates, elapsed=elapsed))
        for _ in range(count)
    ]


def test_faults_in_line_are_met_one_after_the_other():
    script = FaultScript(["reset", "loading*2", "cut"])
    assert met(script, 5) == ["reset", "loading", "loading", "cut", ""]


def test_a_star_alone_has_no_end():
    assert met(FaultScript(["reset", "cut*", "close"]), 4) == ["reset", "cut", "cut", "cut"]


def test_the_nth_and_every_nth_request_are_counted_by_themselves():
    assert met(FaultScript(["reset#2", "cut%3", "close"]), 6) == ["close", "reset", "cut", "", "", "cut"]


def test_times_limit_what_is_matched():
    assert met(FaultScript(["cut%2*2"]), 8) == ["", "cut", "", "cut", "", "", "", ""]


def test_one_request_can_meet_several():
    assert met(FaultScript(["interim#1", "stall", "cut%1"]), 2) == ["interim stall cut", "cut"]


def test_chance_is_the_same_for_the_same_seed_and_place():
    runs = [met(FaultScript(["reset~0.3"], seed=seed), 1000) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert 250 < runs[0].count("reset") < 350
    beside = FaultScript(["reset~0.3", "cut~0.5"], seed=1)
    assert ["reset" if "reset" in kinds else "" for kinds in met(beside, 1000)] == runs[0]


def test_a_window_holds_for_all_who_come_in_time():
    script = FaultScript(["loading:5s", "cut"])
    assert met(script, 3, elapsed=4.9) == ["loading cut", "loading", "loading"]
    assert met(script, 1, elapsed=5.0) == [""]


def test_only_requests_that_generate_are_meant_unless_a_path_is_named():
    script = FaultScript(["reset*", "/health status:500", "/v1/* cut*"])
    assert met(script, 1, "/props", generates=False) == [""]
    assert met(script, 2, "/health", generates=False) == ["status", ""]
    assert met(script, 2, "/v1/completions") == ["reset", "reset"]
    assert met(script, 1, "/v1/models", generates=False) == ["cut"]


def test_connections_are_counted_apart():
    script = FaultScript(["reset@accept", "cut", "close@accept%2"])
    assert [[spec.kind for spec in script.for_connection()] for _ in range(3)] == [["reset"], ["close"], []]
    assert met(script, 2) == ["cut", ""]


def test_faults_added_later_count_from_then_on():
    script = FaultScript()
    assert met(script, 3) == ["", "", ""]
    script.add("cut#2")
    assert met(script, 3) == ["", "cut", ""]


def test_a_simulator_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="no kind 'nope'"):
        Simulator("llamacpp", faults=["nope"])
    with pytest.raises(ValueError, match="coalesce"):
        Simulator("llamacpp", coalesce=0)
    with Simulator("llamacpp") as sim, pytest.raises(ValueError, match="no kind 'nope'"):
        sim.inject("nope")


def test_the_command_line_says_what_is_wrong():
    ran = subprocess.run([*COMMAND, "--fault", "nope@3"], capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    assert "fault 'nope@3': there is no kind 'nope'; kinds: after-end, busy" in ran.stderr


def test_the_command_line_takes_several_faults():
    command = [*COMMAND, "--coalesce", "9", "--fault", "status:418 teapot", "--fault", "close@2*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            host, port = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline()).groups()
            replies = []
            for _ in range(3):
                with socket.create_connection((host, int(port)), timeout=10) as sock:
                    sock.sendall(completion().replace(b"Host: test", b"Host: test\r\nConnection: close"))
                    replies.append(b"".join(iter(lambda: sock.recv(65536), b"")))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert replies[0].startswith(b"HTTP/1.1 418 ")
    assert [reply.count(b"data: ") for reply in replies[1:]] == [2, 2]


def test_the_documentation_has_every_kind_with_an_example_that_can_be_read():
    rows = re.findall(
        r"^\| `([a-z-]+)` \|([^|]*)\|([^|]*)\|", DOCS.read_text().partition("## The kinds")[2], re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(KINDS)
    for name, places_, examples in rows:
        found = re.findall(r"`([^`]+)`", examples)
        assert found, name
        assert {parse(example).kind for example in found} == {name}
        told = set(re.findall(r"accept|head|token|byte|end", places_))
        assert told == {place.value for place in KINDS[name].places}, name
