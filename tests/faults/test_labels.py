"""What a response says of its body, against what the body is: labels that lie, and codings that nobody asked for.

Every dialect, over sockets.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import logging
import random
import uuid
import zlib

import attrs
import pytest

from worker_adapters import End, Error, GenerateRequest, Limits, Retry, Timeouts, Token, WorkerError
from worker_adapters.runtime import AdapterConfig, EngineAdapter, reply
from worker_adapters.transport import REFUSAL_SECONDS, http

from ..products import product
from ..timers import SOON, unhurried
from .matrix import RECORDED
from .subjects import SUBJECTS, Subject, chunked
from .test_soup import SoupServer, table

subjects = pytest.mark.parametrize("subject", SUBJECTS, ids=[s.name for s in SUBJECTS])
both = pytest.mark.parametrize("way", ["stream", "submit"])

STREAM = "content-type: text/event-stream"
LABELS = {
    "JSON": ["content-type: application/json"],
    "none": [],
    "empty": ["content-type:"],
    "HTML": ["content-type: text/html; charset=utf-8"],
    "bytes": ["content-type: application/octet-stream"],
    "twice, JSON first": ["content-type: application/json", STREAM],
    "twice, JSON last": [f"{STREAM}; charset=utf-8", "content-type: application/json"],
    "twice the same": [STREAM, f"{STREAM}; charset=utf-8"],
    "coding none": [STREAM, "content-encoding: none"],
    "coding utf-8": [STREAM, "Content-Encoding: UTF-8"],
    "coding empty": [STREAM, "content-encoding:"],
    "coding identity": [STREAM, "content-encoding: identity"],
    "coding identity, thrice": [STREAM, "content-encoding: Identity", "transfer-encoding: identity, chunked"],
}
RIGHT = {"coding empty", "coding identity", "coding identity, thrice"}


def labelled(subject: Subject, lines: list[str], body: bytes) -> bytes:
    framing = [] if any(line.startswith("transfer-encoding") for line in lines) else ["transfer-encoding: chunked"]
    return subject.head(*lines, *framing, drop="content-type") + chunked(body)


def asked(subject: Subject) -> GenerateRequest:
    fields = {"prompt": "p", "max_tokens": 64, "seed": 1, **subject.transcripts.streams[subject.good].request}
    return GenerateRequest(**fields, task_id=str(uuid.uuid4()))


def shown(events):
    """Texts and the terminal event, but for what differs from run to run."""
    last = events[-1]
    if isinstance(last, Error):
        return last.code, last.reason, last.message, last.retriable, last.retry_after_ms, last.upstream
    assert isinstance(last, End)
    return [e.text for e in events if isinstance(e, Token)], attrs.evolve(last, decode_time_ms=0)


@pytest.mark.req("ADAPT-3000", "ADAPT-3002", socket=True)
@subjects
@both
def test_a_stream_is_one_by_its_first_bytes_whatever_its_label(subject, way, caplog):
    body = b"".join(subject.frames)
    with table(subject) as (server, adapter):
        server.soup = labelled(subject, [STREAM], body)
        expected = shown(list(adapter.stream(asked(subject))))
        assert isinstance(expected[1], End)
        for name, lines in LABELS.items():
            server.soup = labelled(subject, lines, body)
            assert shown(list(getattr(adapter, way)(asked(subject)))) == expected, name
        assert adapter.drain(5)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    warned = [text for text in said if "is its decode slow?" not in text]  # which a busy machine makes a step
    assert len(warned) == 1, "once per adapter"
    assert "Content-Type 'application/json'" in warned[0]


@pytest.mark.parametrize("name", LABELS)
def test_the_warning_names_the_label_that_lies(name, caplog):
    subject = SUBJECTS[0]
    with table(subject) as (server, adapter):
        server.soup = labelled(subject, LABELS[name], b"".join(subject.frames))
        for _ in range(2):
            assert isinstance(list(adapter.stream(asked(subject)))[-1], End)
        assert adapter.drain(5)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == (name not in RIGHT)
    assert all(("Content-Encoding" in line) == name.startswith("coding") for line in warned)


STARTS = {
    "a byte order mark": b"\xef\xbb\xbf",
    "blank lines": b"\n\r\n\r\n",
    "a comment": b": hello\n\n",
    "a name": b"event: message\n",
    "an id": b"id: 7\n",
    "a time to wait": b"retry: 100\n\n",
    "a mark and a comment": b"\xef\xbb\xbf\n:\n",
}


@pytest.mark.parametrize("start", STARTS)
@both
def test_it_may_begin_as_any_stream_may_and_in_any_pieces(way, start):
    subject = next(s for s in SUBJECTS if s.name.startswith("vllm"))
    body = STARTS[start] + b"".join(subject.frames)
    with table(subject) as (server, adapter):
        server.soup = labelled(subject, [STREAM], body)
        expected = shown(list(adapter.stream(asked(subject))))
        server.soup = subject.head(drop="content-type") + body
        of_head = len(server.soup) - len(body)
        for pieces in ((), (of_head,), tuple(range(of_head, of_head + len(STARTS[start]) + 9))):
            server.pieces = pieces
            assert shown(list(getattr(adapter, way)(asked(subject)))) == expected, pieces


NO_STREAMS = [
    b"",
    b"dat",
    b"data",
    b"database: x\n\n",
    b"{}",
    b"<html>",
    b"ok",
    b"\n" * 300 + b"data: x\n\n",
    b"\xef\xbb",
    b" data: x\n\n",
]


@subjects
def test_what_begins_as_something_else_is_none(subject):
    with table(subject) as (server, adapter):
        for body in NO_STREAMS:
            for end in ("content-length", "close"):
                length = [f"content-length: {len(body)}"] if end == "content-length" else []
                server.soup = subject.head(*length, drop="content-type") + body
                (error,) = adapter.stream(asked(subject))
                assert error.reason == ("PROTOCOL" if body else "EMPTY"), body
                assert error.message.isprintable()


@both
def test_what_breaks_off_after_its_first_bytes_tells_how(way):
    subject = next(s for s in SUBJECTS if s.name.startswith("vllm"))
    head = subject.head("transfer-encoding: chunked", drop="content-type")
    first = subject.frames[0]
    with table(subject) as (server, adapter):
        for rest, reset, reason in (
            (b"", False, "TRUNCATED"),
            (b"", True, "DISCONNECTED"),
            (b"zz\r\n", False, "PROTOCOL"),
        ):
            server.soup, server.reset = head + chunked(first, end=False) + rest, reset
            events = list(getattr(adapter, way)(asked(subject)))
            assert (events[0].kind, events[-1].reason) == ("started", reason)


# --- codings ----------------------------------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODED = {
    "Content-Encoding: gzip": gzip.compress,
    "Content-Encoding: x-gzip": gzip.compress,
    "Content-Encoding: deflate": zlib.compress,
    "Content-Encoding: Deflate": raw_deflate,
    "Content-Encoding: gzip, identity": gzip.compress,
    "Content-Encoding: deflate, gzip": lambda data: gzip.compress(zlib.compress(data)),
    "Transfer-Encoding: gzip, chunked": lambda data: chunked(gzip.compress(data)) or b"0\r\n\r\n",
    "Transfer-Encoding: gzip": gzip.compress,
}
UNKNOWN = {
    "Content-Encoding: br": bytes,
    "Content-Encoding: zstd": bytes,
    "Transfer-Encoding: chunked, chunked": lambda data: chunked(chunked(data)),
    "Transfer-Encoding: xgzip": bytes,
    "Transfer-Encoding: chunked\x85": chunked,
    "Transfer-Encoding: \xa0chunked": chunked,
    "Content-Encoding: gzip, gzip, gzip": bytes,
}


@pytest.mark.req("ADAPT-3002", socket=True)
@subjects
@both
def test_a_coded_stream_is_refused_by_the_name_of_its_coding(subject, way):
    body = b"".join(subject.frames)
    with table(subject) as (server, adapter):
        for line, code in {**CODED, **UNKNOWN}.items():
            server.soup = subject.head().removesuffix(b"\r\n") + f"{line}\r\n\r\n".encode("latin-1") + code(body)
            (error,) = getattr(adapter, way)(asked(subject))
            assert (error.code, error.reason) == ("INTERNAL", "PROTOCOL")
            assert ascii(line)[1:-1] in error.message


REFUSED = [(s, name) for s, name in RECORDED if s.transcripts.recorded(name).status != 200]


@pytest.mark.parametrize(("subject", "name"), REFUSED, ids=[f"{s.name} {n}" for s, n in REFUSED])
def test_a_compressed_refusal_is_read_as_if_it_were_none(subject, name):
    codings = itertools.islice(itertools.cycle(CODED.items()), REFUSED.index((subject, name)), None)
    with table(subject) as (server, adapter):
        server.soup = plain = subject.replayed(name)
        expected = shown(list(adapter.stream(asked(subject))))
        head, _, body = plain.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        for line, code in itertools.islice(codings, 2):
            server.soup = b"\r\n".join([*kept, line.encode(), b"", code(body)])
            assert shown(list(adapter.stream(asked(subject)))) == expected, line


@subjects
def test_a_refusal_that_can_not_be_read_counts_all_the_same(subject):
    with table(subject) as (server, adapter):
        for line, code in UNKNOWN.items():
            server.soup = f"HTTP/1.1 429 Busy\r\nRetry-After: 3\r\n{line}\r\n\r\n".encode("latin-1") + code(
                b'{"error": "x"}'
            )
            (error,) = adapter.stream(asked(subject))
            assert (error.code, error.reason, error.retry_after_ms) == ("ADMISSION_REJECT", "OVERLOADED", 3000)
            assert ascii(line)[1:-1] in error.message
            assert error.upstream is None or not error.upstream.message


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@subjects
def test_a_refusal_whose_compression_is_broken_counts_and_one_that_is_cut_tells_what_came(subject, coding):
    words = b"the queue is full, come again: " + random.Random(1).randbytes(30_000)
    made = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](words)
    bodies = {
        "cut": made[:-9000],
        "followed": made + b"behind",
        "damaged": made[:9000] + b"?" * 9000,
        "none": words,
        "": b"",
    }
    with table(subject) as (server, adapter):
        for name, body in bodies.items():
            server.soup = f"HTTP/1.1 429 Busy\r\nContent-Encoding: {coding}\r\n\r\n".encode() + body
            (error,) = adapter.stream(asked(subject))
            told = (error.upstream and error.upstream.message) or ""
            assert error.reason == "OVERLOADED"
            assert ("the queue is full, come again" in told) == (name in ("cut", "followed")), name


class Coded(SoupServer):
    """Answers probes as recorded, but coded."""

    line = ""
    code = staticmethod(bytes)
    asked: list[str]

    def _answer(self, target: str) -> bytes:
        head, _, body = super()._answer(target).partition(b"\r\n\r\n")
        self.asked.append(target)
        if not self.line or not body:
            return head + b"\r\n\r\n" + body
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        coded = self.code(body)
        framing = f"Content-Length: {len(coded)}" if self.line.startswith("Content") else "Connection: keep-alive"
        return b"\r\n".join([*kept, self.line.encode(), framing.encode(), b"", coded])


def facts_of(adapter: EngineAdapter) -> list[object]:
    """What the control calls tell."""
    found: list[object] = []
    for ask in (adapter.health, adapter.properties):
        try:
            found.append(attrs.evolve(ask(), observed_at=0))
        except WorkerError as exc:
            found.append((exc.error.reason, exc.error.message))
    return found


@pytest.mark.parametrize("line", [line for line in CODED if line != "Transfer-Encoding: gzip"])
@subjects
def test_compressed_replies_to_control_calls_are_read_as_if_they_were_none(subject, line):
    found = []
    for of, code in (("", bytes), (line, CODED[line])):
        with Coded(subject.transcripts) as server:
            server.line, server.code, server.asked = of, code, []
            with EngineAdapter(
                AdapterConfig(dialect=subject.dialect, url=server.url, model=subject.model, retry=Retry(attempts=1))
            ) as adapter:
                found.append(facts_of(adapter))
        assert server.asked
    assert found[0] == found[1]


def test_a_bomb_in_a_reply_to_a_control_call_is_told():
    subject = next(s for s in SUBJECTS if s.name.startswith("llamacpp"))
    with Coded(subject.transcripts) as server:
        server.line, server.code, server.asked = "Content-Encoding: gzip", lambda _body: gzip.compress(b" " * 2**24), []
        config = AdapterConfig(dialect=subject.dialect, url=server.url, limits=Limits(max_probe_body=2**20))
        with EngineAdapter(config) as adapter, pytest.raises(WorkerError, match="longer than 1048576 bytes") as caught:
            adapter.properties()
    assert caught.value.reason == "PROTOCOL"


# --- refusals that stall or break off -----------------------------------------------------------------------------------


class Stalls(SoupServer):
    """Says what it is told to anybody, and then nothing more until the client has left."""

    says = b""
    hangs = True

    def serve(self, connection):
        with connection, contextlib.suppress(OSError):
            self._read(connection)
            connection.sendall(self.says)
            while self.hangs and connection.recv(65536):
                pass


BODIES = {
    "stalls in its length": (b"Content-Length: 900\r\n\r\nsorry, ", True),
    "stalls before its body": (b"Content-Length: 900\r\n\r\n", True),
    "stalls in a chunk": (b"Transfer-Encoding: chunked\r\n\r\n20\r\nsorry, ", True),
    "stalls without a length": (b"\r\nsorry, ", True),
    "stalls compressed": (b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"sorry, ")[:-8], True),
    "is cut in its length": (b"Content-Length: 900\r\n\r\nsorry, ", False),
    "is cut in a chunk": (b"Transfer-Encoding: chunked\r\n\r\n20\r\nsorry, ", False),
    "is no chunk": (b"Transfer-Encoding: chunked\r\n\r\nsorry, ", False),
}


@contextlib.contextmanager
def stalling(subject: Subject, says: bytes, *, hangs: bool, scale: float = 1.0):
    """The timers are shorter than what such a body is given, which is a second; all of them may be so many times as long."""
    timeouts = Timeouts(connect=2 * SOON, first_token=0.3 * scale, idle=0.3 * scale, probe=0.6 * scale)
    with Stalls(subject.transcripts) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply, "REFUSAL_SECONDS", REFUSAL_SECONDS * scale)
        patch.setattr(http, "REFUSAL_SECONDS", REFUSAL_SECONDS * scale)
        server.says, server.hangs = says, hangs
        config = AdapterConfig(
            dialect=attrs.evolve(subject.dialect, resolve=None),
            url=server.url,
            model=subject.model,
            retry=Retry(attempts=1),
            timeouts=timeouts,
        )
        with EngineAdapter(config) as adapter:
            yield adapter


@pytest.mark.req("ADAPT-3002", "ADAPT-3005", socket=True)
@product("subject, body", [*itertools.product(SUBJECTS, BODIES)])  # each waits a second
def test_the_status_of_a_refusal_whose_body_does_not_come_counts(subject, body):
    """Its bound is a second, above the timers here: who has answered is not late."""
    rest, hangs = BODIES[body]
    way = ("stream", "submit")[list(BODIES).index(body) % 2]

    def run(scale: float):
        says = b"HTTP/1.1 429 Busy\r\nRetry-After: 7\r\n" + rest
        with stalling(subject, says, hangs=hangs, scale=scale) as adapter:
            (error,) = getattr(adapter, way)(asked(subject))
            return error

    error = unhurried(run, lambda error: error.reason == "OVERLOADED")
    assert (error.code, error.reason, error.retry_after_ms) == ("ADMISSION_REJECT", "OVERLOADED", 7000)
    assert error.upstream.status == 429


@both
def test_a_deadline_leaves_room_for_the_answer(way):
    subject = SUBJECTS[0]

    def run(scale: float):
        says = b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\n"
        with stalling(subject, says, hangs=True, scale=scale) as adapter:
            (error,) = getattr(adapter, way)(attrs.evolve(asked(subject), deadline=0.8 * scale))
            return error.reason

    assert unhurried(run, lambda reason: reason == "UPSTREAM_AUTH") == "UPSTREAM_AUTH"


@subjects
def test_the_status_of_a_probe_whose_refusal_stalls_counts(subject):
    def run(scale: float):
        says = b"HTTP/1.1 401 No\r\nContent-Length: 900\r\n\r\n{"
        with (
            stalling(subject, says, hangs=True, scale=scale) as adapter,
            pytest.raises(WorkerError) as caught,
        ):
            adapter.properties()
        return caught.value.reason

    assert unhurried(run, lambda reason: reason == "UPSTREAM_AUTH") == "UPSTREAM_AUTH"


@both
def test_what_is_there_of_a_refusal_is_read_however_late_it_is_looked_at(way):
    """By a process that stood still for longer than a body is waited for."""
    says = b"HTTP/1.1 401 No\r\nContent-Length: 8\r\n\r\nno entry"
    subject = next(s for s in SUBJECTS if s.name.startswith("vllm"))
    with stalling(subject, says, hangs=True, scale=SOON) as adapter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reply, "REFUSAL_SECONDS", 0.0)
        (error,) = getattr(adapter, way)(asked(subject))
    assert error.upstream.message == "no entry"


def test_what_is_no_stream_and_stalls_is_told_soon():
    subject = SUBJECTS[0]

    def run(scale: float):
        says = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"
        with stalling(subject, says, hangs=True, scale=scale) as adapter:
            (error,) = adapter.stream(asked(subject))
            return error

    error = unhurried(run, lambda error: error.reason == "PROTOCOL")
    assert (error.reason, error.upstream.message) == ("PROTOCOL", "<html>")
