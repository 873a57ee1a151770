"""How the cases of the suite run a dialect: over memory, and over sockets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar
from zlib import crc32

import attrs
import pytest

from ..api import Adapter, End, Error, Event, GenerateRequest, Reason, Retry, Started, Token
from ..dialect import Dialect, Reply, WireRequest
from ..runtime import AdapterConfig, EngineAdapter, merge
from ..transport.scripted import Script, ScriptedTransport, Step
from .leaks import no_leaks
from .server import ReplayServer
from .transcripts import Expected, Recorded, Transcripts

__all__ = [
    "CUTS",
    "PROMPT",
    "RETRIED",
    "RETRIED_STATUS",
    "SECRET",
    "SHORT",
    "STRANGERS",
    "WAYS",
    "Ways",
    "around_frames",
    "comparable",
    "cut",
    "script_of",
    "text_of",
]

SECRET = "s3cr3t-0123456789"
PROMPT = "a prompt that no log may hold"


WAYS = ("stream", "submit", "merge")
CUTS = (1, 7, 4096, 1 << 30)
RETRIED = frozenset({Reason.LOADING, Reason.OVERLOADED})
RETRIED_STATUS = frozenset({502, 503, 504})
SHORT = 0.05  # seconds; where a timer is the subject
PAGE = {"content-type": "text/html"}
STREAM = {"content-type": "text/event-stream"}
STRANGERS = (
    (Script(headers=PAGE, steps=[b"<html>hello</html>"]), Reason.PROTOCOL),
    (Script(headers=STREAM), Reason.EMPTY),
    (Script(headers=STREAM, steps=[b":\n\n:\n\n"]), Reason.EMPTY),
    (Script(headers=STREAM, steps=[b"hello\nworld\n"]), Reason.PROTOCOL),
    (Script(headers=STREAM, steps=[b"data: {not json\n\n"]), Reason.PROTOCOL),
    (Script(headers={**STREAM, "content-encoding": "gzip"}, steps=[b"\x1f\x8b"]), Reason.PROTOCOL),
    (Script(status=302, headers={"location": "http://elsewhere.test/"}), Reason.REDIRECT),
    (Script(status=502, headers=PAGE, steps=[b"<html>Bad Gateway</html>"]), Reason.ENGINE_ERROR),
)
"""What answers in an engine's place, and what it is taken for."""


def cut(body: bytes, size: int) -> list[Step]:
    """A body in reads of that size."""
    return [body[i : i + size] for i in range(0, len(body), size)]


def script_of(recorded: Recorded, steps: Iterable[Step] | None = None, **phases: Any) -> Script:
    """An answer like the recorded one, perhaps with other steps, or with something before its head."""
    whole: Iterable[Step] = [recorded.body]
    return Script(status=recorded.status, headers=recorded.headers, steps=whole if steps is None else steps, **phases)


def text_of(events: Iterable[Event]) -> str:
    """The joined text of the Tokens."""
    return "".join(e.text for e in events if isinstance(e, Token))


def comparable(events: Iterable[Event]) -> list[object]:
    """Without clocks, task ids, and what the version's probe, which runs beside, has found out by then."""
    out: list[object] = []
    for event in events:
        if isinstance(event, End):
            out.append(attrs.evolve(event, decode_time_ms=0.0))
        elif isinstance(event, Token):
            out.append(event)
        elif isinstance(event, Error):
            out.append(attrs.evolve(event, engine_version=None))
        elif isinstance(event, Started):
            known: dict[str, Any] = dict.fromkeys(("engine_version", "model", "model_digest", "trtllm_version"))
            out.append(attrs.evolve(event, task_id="", **known))
    return out


def around_frames(body: bytes) -> list[int]:
    """Positions one byte before, at and after each blank line; for long bodies, of the first and last twenty."""
    ends = [m.end() for m in re.finditer(rb"\r?\n\r?\n", body)]
    if len(ends) > 40:
        ends = ends[:20] + ends[-20:]
    return sorted({at for end in ends for at in (end - 2, end - 1, end, end + 1) if 0 <= at < len(body)} | {0})


class Ways:
    """What a suite is told of its dialect, and the ways in which its cases run it."""

    dialect: ClassVar[Dialect]
    transcripts: ClassVar[Transcripts]
    model: ClassVar[str | None] = None
    simulator: ClassVar[Callable[[], AbstractContextManager[Any]] | None] = None
    ways: ClassVar[Sequence[str]] = WAYS
    """In turn, over cases and their streams. A subclass with one of them runs everything like that."""
    _turn = 0
    _wait_for: Callable[..., Any] | None = None  # a simulator's, which tells when the engine has noticed

    @pytest.fixture(autouse=True)
    def _leaves_nothing(self, request: pytest.FixtureRequest) -> Iterator[None]:
        self._turn = crc32(request.node.name.encode())  # each case begins with its own way, the same one each time
        with no_leaks():
            yield

    # --- ways to run ------------------------------------------------------------------------------------------------

    def adapter(self, *scripts: Script, **config: Any) -> EngineAdapter:
        """An adapter over memory that gets these answers, in this order."""
        config = {"retry": Retry(attempts=1), "model": self.model, **config}
        return EngineAdapter(
            AdapterConfig(dialect=self.dialect, url="http://engine.test", **config),
            transport=ScriptedTransport(scripts, reply=self._reply_to),
        )

    def events(
        self, *scripts: Script, request: dict[str, Any] | None = None, ways: Sequence[str] = (), **config: Any
    ) -> list[Event]:
        """The events of one stream over memory."""
        with self.adapter(*scripts, **config) as adapter:
            return self.run(adapter, self.request(**(request or {})), ways)

    def run(self, adapter: Adapter, request: GenerateRequest, ways: Sequence[str] = ()) -> list[Event]:
        """The events of one stream, run in the next of the ways: on this thread, submitted, or merged."""
        ways = ways or self.ways
        way = ways[self._turn % len(ways)]
        self._turn += 1
        if way == "stream":
            return list(adapter.stream(request))
        stream = adapter.submit(request)
        return list(stream) if way == "submit" else [event for _, event in merge([stream])]

    def request(self, **fields: Any) -> GenerateRequest:
        """A request that any engine takes."""
        return GenerateRequest(**{"prompt": PROMPT, "max_tokens": 64, "seed": 1, **fields})

    @contextmanager
    def worker(self) -> Iterator[str]:
        """A worker over sockets, by its URL. Live suites override this with the real engine."""
        make = type(self).simulator or (lambda: ReplayServer(self.transcripts))
        with make() as server:
            self._wait_for = getattr(server, "wait_for", None)
            yield server.url

    def connect(self, url: str, **config: Any) -> Adapter:
        """An adapter over sockets."""
        config = {"retry": Retry(attempts=1), "model": self.model, **config}
        return EngineAdapter(AdapterConfig(dialect=self.dialect, url=url, **config))

    def _reply_to(self, wire: WireRequest) -> Reply | None:
        for probe in self.transcripts.probes.values():
            if wire.target in probe["replies"]:
                return self._reply(probe["replies"][wire.target])
        return None

    def _reply(self, name: str) -> Reply:
        recorded = self.transcripts.recorded(name)
        return Reply(status=recorded.status, headers=recorded.headers, body=recorded.body)

    def _streams(self) -> Iterator[tuple[str, Recorded, Expected]]:
        for name, expected in self.transcripts.streams.items():
            yield name, self.transcripts.recorded(name), expected

    def _good(self) -> tuple[Recorded, Expected]:
        name = self.transcripts.good()
        return self.transcripts.recorded(name), self.transcripts.streams[name]

    def begun(self, recorded: Recorded) -> bytes:
        """About half of the frames of a stream, none of which is its end; comments are none."""
        ends = [m.end() for m in re.finditer(rb"^data.*\n\r?\n", recorded.body, re.MULTILINE)]
        before = [end for end in ends if end < self.transcripts.proven(recorded.body)]
        return recorded.body[: before[len(before) // 2]]

    def converse(self, conversation: Any, replies: dict[str, str]) -> Any:
        """What a probe makes of recorded replies."""
        try:
            wire = next(conversation)
            while True:
                wire = conversation.send(self._reply(replies[wire.target]))
        except StopIteration as done:
            return done.value
