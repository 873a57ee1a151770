"""Byte soup: whatever a worker answers, head and body, a stream is lawful, ends, and is no bug of ours.

By the whole path, over sockets. What is served is made of the engine's own frames, of frames whose JSON was changed in some
place, and of bytes that are nothing. `WORKER_ADAPTERS_SOUP=5000` in the environment serves so many to each dialect.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from worker_adapters import Error, GenerateRequest, Limits, Reason, Retry, Timeouts
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing.server import ReplayServer

from ..products import examples
from .soak import lawful
from .subjects import SUBJECTS, Subject, chunked

if TYPE_CHECKING:
    from collections.abc import Iterator

HELPINGS = int(os.environ.get("WORKER_ADAPTERS_SOUP", "0"))
PATIENCE = 5.0  # seconds without a byte, which no helping takes: the server has closed by then
NEVER = (  # it was there, and had answered whatever it had to say
    Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.FIRST_TOKEN_TIMEOUT, Reason.IDLE_TIMEOUT, Reason.DEADLINE,
)  # fmt: skip


class SoupServer(ReplayServer):
    """Answers probes as recorded, and a generation with whatever it is told, after which it closes or resets."""

    soup = b""
    pieces: tuple[int, ...] = ()
    reset = False
    served = 0

    def serve(self, connection: socket.socket) -> None:
        probes = {target for probe in self._transcripts.probes.values() for target in probe["replies"]}
        with connection, contextlib.suppress(OSError):
            while (target := self._read(connection)) is not None:
                if target in probes:
                    connection.sendall(self._answer(target))
                    continue
                self.served += 1
                for start, end in zip((0, *self.pieces), (*self.pieces, len(self.soup)), strict=True):
                    connection.sendall(self.soup[start:end])
                if self.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return


# --- what is served ---------------------------------------------------------------------------------------------------

STRANGE = [
    b"", b"null", b"[]", b"{}", b"0", b"-1", b"1e999", b"NaN", b'""', b'"\\ud800"', b'"\\u0000"', b"true", b"[[[[]]]]",
    b'{"a":{"a":{"a":{}}}}', b"99999999999999999999999999999", b'"\xff\xfe"', b"[" * 3000, b"[DONE]", b" [DONE]",
    b'{"error":1}',
    b'{"error":{"message":7,"code":"x","type":[]}}', b'{"choices":[]}', b'{"choices":[null]}', b'{"token":null}',
]  # fmt: skip
LINES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b":\n\n", b"data:\n\n", b"data\n\n", b"event: error\n", b"id: 1\x00\n", b"retry: -1\n",
    b"error: no\n\n", b"\xef\xbb\xbf", b"data: {\ndata: }\n\n",
]  # fmt: skip
HEADERS = [
    "content-length: -1", "content-length: 1e9", "content-length: 5", "content-length: 7, 7", "transfer-encoding: gzip",
    "transfer-encoding: chunked", "content-type: text/plain", "content-type:", "no colon here", ": empty", "retry-after: x",
    "x: \x00", "content-encoding: br", "connection: upgrade",
]  # fmt: skip
leaves = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**63,
        2**70,
        1.5,
        float("inf"),
        "",
        "x",
        "\ud800",
        "\ufffd",
        [],
        [None],
        {},
        {"a": 1},
        [[1], 2],
    ]
)


def changed(value: Any, draw: Any) -> Any:
    """The value with one place in it replaced, dropped or doubled."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 4)) == 0:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        if draw(st.integers(0, 4)) == 0:
            return value + value
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw(leaves)


@st.composite
def broken_frame(draw: Any, frames: list[bytes]) -> bytes:
    """A frame of the engine with something wrong inside its JSON."""
    frame = draw(st.sampled_from(frames))
    before, mark, data = frame.partition(b"{")
    try:
        value = json.loads(mark + data)
    except ValueError:
        return frame[: draw(st.integers(0, len(frame)))]
    return before + json.dumps(changed(value, draw)).encode("utf-8", "surrogatepass") + b"\n\n"


def _body(subject: Subject) -> st.SearchStrategy[bytes]:
    frames = subject.frames
    pieces = st.one_of(
        st.sampled_from(frames),
        broken_frame(frames),
        broken_frame(frames),
        st.sampled_from(STRANGE).map(lambda data: b"data: " + data + b"\n\n"),
        st.sampled_from(LINES),
        st.binary(max_size=40),
    )
    begun = st.integers(0, len(frames)).map(lambda n: b"".join(frames[:n]))
    return st.builds(lambda first, rest: first + b"".join(rest), begun, st.lists(pieces, max_size=6))


@st.composite
def _answer(draw: Any, subject: Subject) -> bytes:
    """Head and body, framed in one way or another, or neither."""
    body = draw(_body(subject))
    kind = draw(st.sampled_from(["chunked", "chunked", "chunked", "length", "close", "wrong", "raw"]))
    if kind == "raw":
        return draw(st.binary(max_size=80)) + body
    status = draw(
        st.sampled_from(["200 OK"] * 8 + ["204 -", "206 -", "299 -", "400 -", "429 -", "500 -", "503 -", "999 -", "-1"])
    )
    if kind == "chunked":
        cut = draw(st.integers(0, len(body)))
        framed = chunked(body[:cut], end=False) + chunked(body[cut:], end=draw(st.booleans()))
        return subject.head("transfer-encoding: chunked", status=status) + framed
    if kind == "length":
        return subject.head(f"content-length: {len(body)}", status=status) + body
    if kind == "close":
        return subject.head("connection: close", status=status) + body
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    return subject.head(*lines, status=status) + body


@contextlib.contextmanager
def table(subject: Subject) -> Iterator[tuple[SoupServer, EngineAdapter]]:
    """One server and one adapter for all of a dialect's helpings."""
    timers = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
    with SoupServer(subject.transcripts) as server:
        config = AdapterConfig(
            dialect=subject.dialect,
            url=server.url,
            model=subject.model,
            retry=Retry(attempts=1),
            timeouts=timers,
            limits=Limits(max_event_size=65536),
        )
        with EngineAdapter(config) as adapter:
            yield server, adapter
        assert server.served, "nothing of what was to be served was asked for"


@pytest.mark.product
@pytest.mark.timeout(600 if HELPINGS else 60)
@pytest.mark.parametrize("subject", SUBJECTS, ids=[s.name for s in SUBJECTS])
def test_whatever_comes_the_stream_is_lawful(subject: Subject) -> None:
    request = GenerateRequest(
        **{"prompt": "p", "max_tokens": 64, "seed": 1, **subject.transcripts.streams[subject.good].request}
    )
    with table(subject) as (server, adapter):

        @settings(
            max_examples=HELPINGS or examples(150),
            derandomize=not HELPINGS,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(st.data())
        def helping(data: st.DataObject) -> None:
            soup = data.draw(_answer(subject))
            server.pieces = tuple(sorted(data.draw(st.lists(st.integers(0, len(soup)), max_size=3))))
            server.soup, server.reset = soup, data.draw(st.booleans())
            way = data.draw(st.sampled_from(["stream", "submit"]))
            with getattr(adapter, way)(attrs.evolve(request, task_id=str(uuid.uuid4()))) as stream:
                events = list(stream)
            note(f"{way}: {[event.kind for event in events]} {events[-1]}")
            lawful(events)
            last = events[-1]
            assert not isinstance(last, Error) or last.reason not in NEVER

        helping()
