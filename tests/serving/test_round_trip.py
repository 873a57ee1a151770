"""What `event_stream` frames, `parse_events` gives back: the same events, however the bytes are cut (contract §3 e)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_adapters import (
    Metrics,
    Token,
    TokenLogprob,
    event_from_dict,
    event_stream,
    event_to_dict,
    parse_events,
)
from worker_adapters.codec import SSEDecoder
from worker_adapters.serving import Framer

from .events import events, streams

# The machine is not ours alone: how long an example takes says nothing. The same examples each time.
QUICK = settings(max_examples=30)


@QUICK
@given(streams, st.data())
def test_the_same_events_come_back_however_the_bytes_are_cut(given, data):
    body = b"".join(event_stream(given))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert list(parse_events(parts)) == given


def test_one_byte_at_a_time():
    given = [Token(index=n, text="Zoë\r\n\0🎈"[n]) for n in range(7)]
    body = b"".join(event_stream(given))
    assert list(parse_events(bytes([byte]) for byte in body)) == given


TOKEN = b'event: token\nid: t:0\ndata: {"event":"token","i":0,"t":"a"}\n\n'


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + TOKEN,
        TOKEN.replace(b"\n", b"\r"),
        TOKEN.replace(b"\n", b"\r\n"),
        b'event: token\rid: t:0\r\nretry: 5\ncolour: red\rdata: {"event":"token",\r\ndata: "i":0,"t":"a"}\n\r',
        b"data: {}\n\n: hello\n\n" + TOKEN + TOKEN[:-1],  # the last one has no end, and is none
        b'data: {"event":["token"]}\n\nevent: \xff\ndata: {\n\ndata: [1]\n\n' + TOKEN,
        TOKEN.replace(b'"a"', b'"a","new":{"x":[null]}'),
    ],
    ids=range(7),
)
def test_what_others_write_is_read_however_it_is_cut(body):
    for cut in range(len(body) + 1):
        reader = parse_events([body[:cut], b"", body[cut:]])
        assert list(reader) == [Token(index=0, text="a")]
        assert reader.last_event_id == "t:0"


def test_an_event_that_has_no_id_leaves_that_of_the_one_before():
    reader = parse_events([TOKEN, TOKEN.replace(b"id: t:0\n", b"")])
    assert len(list(reader)) == 2
    assert reader.last_event_id == "t:0"


@QUICK
@given(streams, st.integers(1, 20))
def test_runs_have_the_frames_of_their_events(given, size):
    """However many came together: a run is framed in C, single events in Python."""
    whole, single = Framer("t"), Framer("t")
    runs = b"".join([whole.frames(given[at : at + size]) for at in range(0, len(given), size) if given])
    assert runs == b"".join(map(single.frame, given))


@QUICK
@given(events)
def test_the_json_form_comes_back_through_json(event):
    form = json.loads(json.dumps(event_to_dict(event)))
    lost = {"event"} if isinstance(event, Metrics) else set()  # the one figure that the flat form has no place for
    expected = Metrics(values={k: v for k, v in event.values.items() if k not in lost}) if lost else event
    assert event_from_dict(form) == expected
    assert event_from_dict(event_to_dict(event)) == expected


@QUICK
@given(streams)
def test_frames_are_named_and_numbered_and_hold_the_json_form(given):
    frames = SSEDecoder().feed(b"".join(event_stream(given)))
    assert [frame.event.decode() for frame in frames] == [event.kind for event in given]
    assert [int(frame.id.rpartition(b":")[2]) for frame in frames] == list(range(len(given)))
    for frame, event in zip(frames, given, strict=True):
        form = json.loads(frame.data)
        assert form == event_to_dict(event) or isinstance(event, Metrics)


def test_half_a_surrogate_pair_changes_nothing_of_its_neighbours():
    given = [Metrics(values={"a": 1e20, "b": text}) for text in ("x", "\ud800", "y", "\udf88", "z")]
    whole, single = Framer("t"), Framer("t")
    assert whole.frames(given) == b"".join(map(single.frame, given))
    assert list(parse_events(event_stream(given))) == given


def test_the_id_is_the_task_s_and_the_number():
    framer = Framer("task:1")
    assert (
        framer.frame(Token(index=0, text="a"))
        == b'event: token\nid: task:1:0\ndata: {"event":"token","i":0,"t":"a"}\n\n'
    )
    run = [Token(index=n, text="a") for n in range(1, 12)]
    assert b"id: task:1:11\n" in framer.frames(run)
    assert framer.next_index == 12


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_a_task_id_that_would_break_the_framing_is_refused(bad):
    with pytest.raises(ValueError, match="id can't hold"):
        Framer(bad)


def test_a_figure_that_no_reader_has_a_number_for_is_left_out():
    given = Metrics(values={"a": 10**308, "b": 10**309, "c": -(10**5000)})
    assert list(parse_events(event_stream([given]))) == [Metrics(values={"a": 10**308})]


@pytest.mark.parametrize("figure", [float("inf"), float("-inf"), float("nan")])
def test_a_figure_that_json_has_no_word_for_is_left_out_and_the_text_is_not(figure):
    lone = TokenLogprob(token="a", logprob=figure)
    given = [
        Metrics(values={"a": 1.5, "b": figure}),
        Token(index=0, text="x", logprobs=(lone,)),
        Token(index=1, text="y", logprobs=(TokenLogprob(token="y", logprob=-1.0, top=(lone,)),)),
    ]
    body = b"".join(event_stream(given))
    assert b"NaN" not in body
    assert b"Infinity" not in body
    assert list(parse_events([body])) == [
        Metrics(values={"a": 1.5}),
        Token(index=0, text="x"),
        Token(index=1, text="y"),
    ]


def test_what_is_none_of_ours_is_passed_over():
    body = b': hi\n\nevent: ping\ndata: {\n\ndata: {"event":"other"}\n\ndata: {"event":"token","i":0,"t":"a"}\n\n'
    assert list(parse_events([body])) == [Token(index=0, text="a")]


def test_a_field_of_a_newer_version_is_passed_over():
    assert event_from_dict({"event": "token", "i": 0, "t": "a", "new": 1}) == Token(index=0, text="a")


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"event": "tokens"},
        {"event": ["token"]},
        {"event": "token", "i": "0", "t": "a"},
        {"event": "end"},
        {"event": "error", "code": "NOPE", "reason": "BUG", "message": ""},
        [],
        "token",
    ],
)
def test_what_is_no_event_is_a_value_error(form):
    with pytest.raises(ValueError, match="event"):
        event_from_dict(form)


DEEP = b"[" * 50_000 + b"]" * 50_000
FIGURE = b'{"event":"token","i":0,"t":"a","x":%b}'


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"null",
        DEEP,
        b'{"event":"token","i":0}',
        b'{"event":"token","i":0.5,"t":"a"}',
        b'{"event":"token","i":0,"t":"\xff"}',
        b'{"event":"token","i":0,"t":"\xed\xa0\x80"}',  # half a surrogate pair, as no UTF-8 has it
        '{"event":"token","i":0,"t":"a"}'.encode("utf-16"),
        FIGURE % DEEP,
        FIGURE % b"NaN",
        b'{"event":"metrics","a":-Infinity}',
        b'{"event":"metrics","a":%b}' % (b"9" * 5000),
        b'{"event":"error","code":"NEW","reason":"BUG","message":""}',
    ],
    ids=range(14),
)
@pytest.mark.parametrize("name", ["token", "metrics"])
def test_data_that_is_no_event_is_a_value_error_and_what_follows_is_read(name, data):
    reader = parse_events([b"event: %b\ndata: %b\n\n" % (name.encode(), data) + TOKEN])
    with pytest.raises(ValueError, match=r"event|data"):
        next(reader)
    assert list(reader) == [Token(index=0, text="a")]


def test_an_event_that_is_too_large_is_refused_and_none_is_given_after_it():
    reader = parse_events([TOKEN, TOKEN.replace(b'"a"', b'"%b"' % (b"a" * 100)), TOKEN], max_event_size=50)
    assert next(reader)
    for _ in range(2):
        with pytest.raises(ValueError, match="larger than 50 bytes"):
            next(reader)


def test_a_reader_knows_behind_which_event_to_go_on():
    body = b"".join([Framer("t").frames([Token(index=0, text="a"), Token(index=1, text="b")])])
    reader = parse_events([body])
    assert reader.last_event_id == ""
    next(reader)
    assert reader.last_event_id == "t:0"
    assert list(reader) == [Token(index=1, text="b")]
    assert reader.last_event_id == "t:1"
