"""The faults, and what the contract makes of each, whatever the dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import Event, Limits, Stream, Timeouts
from worker_adapters.testing import After, Answer, Ending, FaultProxy
from worker_adapters.testing.server import nobody_there

from ..transport.servers import BlackHole, Server
from .consumers import dying, reading, slow, stopping
from .labelled import CHUNKS, FRAMINGS, GOOD, HEADS, LABELS, answered, compressed, unframed

if TYPE_CHECKING:
    from worker_adapters.testing.faultproxy import Fault

    from .subjects import Subject

__all__ = ["ATTEMPTS", "CASES", "END", "LEFT", "Case"]

ATTEMPTS = 3
TIMERS = frozenset({"FIRST_TOKEN_TIMEOUT", "IDLE_TIMEOUT", "DEADLINE"})
LONG = 30.0  # seconds; a timer that is not the subject
QUIET = 0.3  # seconds; one that is
BEFORE = Timeouts(connect=LONG, first_token=QUIET, idle=LONG)
BETWEEN = Timeouts(connect=LONG, first_token=LONG, idle=QUIET)
NONE = Timeouts(connect=LONG, first_token=LONG, idle=LONG)

NEW, HALF, INTERNAL = "POOL_UNAVAILABLE", "WORKER_RESET", "INTERNAL"
END = ("END",)
LEFT = ("LEFT",)  # nobody was there to read the end, and the worker was let go
LATER = "Retry-After: 5"
UNFRAMED = b'{"error":{"message":"so it is","code":%d}}'


@attrs.frozen(kw_only=True)
class Case:
    """A fault. `expected`: code, reason, retriable, phase, attempts; or END."""

    name: str
    faults: Callable[[Subject], list[Fault]]
    expected: tuple[Any, ...]
    place: Callable[[], AbstractContextManager[str]] | None = None
    """Gives a URL where there is no worker at all."""
    consume: Callable[[Callable[[], Stream], FaultProxy], list[Event]] = reading
    """How the stream is read; the first argument opens it."""
    but: dict[str, tuple[Any, ...]] = attrs.field(factory=dict)
    """What it comes to for some engines instead; beside the case stands why."""
    retry_after_ms: int | None = None
    sent: int | None = None
    timeouts: Timeouts = NONE
    limits: Limits = attrs.field(factory=Limits)
    deadline: float | None = None

    def expected_of(self, subject: Subject) -> tuple[Any, ...]:
        """What it comes to for this dialect."""
        names = (subject.name, subject.dialect.name, subject.name.split()[0])
        return next((self.but[name] for name in names if name in self.but), self.expected)

    @property
    def is_timed(self) -> bool:
        """Whether a timer is the subject, which on a busy machine may run out before the stream has come to the fault."""
        return len(self.expected) > 1 and self.expected[1] in TIMERS

    def slower(self, scale: float) -> Case:
        """The same with the timer so many times as long."""
        timers = attrs.asdict(self.timeouts)
        longer = {name: QUIET * scale for name, seconds in timers.items() if seconds == QUIET}
        deadline = None if self.deadline is None else self.deadline * scale
        return attrs.evolve(self, timeouts=attrs.evolve(self.timeouts, **longer), deadline=deadline)


def case(name: str, faults: Any, *expected: Any, **options: Any) -> Case:
    return Case(name=name, faults=faults, expected=expected or END, **options)


def status(line: str, *headers: str, body: bytes = b"") -> Answer:
    lines = [
        f"HTTP/1.1 {line}",
        f"Content-Length: {len(body)}",
        "Content-Type: text/plain",
        "Connection: close",
        *headers,
    ]
    return Answer("\r\n".join([*lines, "", ""]).encode() + body)


def _cut(subject: Subject, tail: bytes = b"", ending: Ending = Ending.CLOSE) -> list[Fault]:
    return [Answer(subject.answer(*subject.frames[: subject.half], *([tail] if tail else []), end=False), ending)]


def _first(subject: Subject, frame: bytes) -> list[Fault]:
    return [Answer(subject.answer(frame))]


def _plain(subject: Subject, frames: list[bytes], *lines: str, **head: Any) -> list[Fault]:
    return [Answer(subject.head("connection: close", *lines, **head) + b"".join(frames))]


def _labelled(lines: list[str], subject: Subject) -> list[Fault]:
    return answered(subject, lines, drop="content-type")


def _headed(lines: list[str], subject: Subject) -> list[Fault]:
    return answered(subject, lines)


def _framed(frame: Callable[[bytes], bytes], subject: Subject) -> list[Fault]:
    return [Answer(subject.head(CHUNKS) + frame(b"".join(subject.frames)))]


def _framed_later(frame: Callable[[bytes], bytes], subject: Subject) -> list[Fault]:
    half = subject.half
    good = subject.answer(*subject.frames[:half], end=False)
    return [Answer(good + frame(b"".join(subject.frames[half:])))]


def _half_a_character(subject: Subject) -> bytes:
    frame = subject.frames[min(subject.half, len(subject.frames) - 1)]
    return frame[: frame.index(b":", frame.index(b'"'))] + b':"\xc3'


WRONG_LATER = (INTERNAL, "PROTOCOL", False, "decode", 1)
WRONG_FIRST = (INTERNAL, "PROTOCOL", False, "first_token", 1)
UNHEARD = (NEW, "DISCONNECTED", True, "queue", ATTEMPTS)
LOST = (NEW, "DISCONNECTED", True, "first_token", 1)
NO_TOKEN = (NEW, "FIRST_TOKEN_TIMEOUT", True, "first_token", 1)
IDLE = ("DECODE_TIMEOUT", "IDLE_TIMEOUT", True, "decode", 1)
CUT = (HALF, "TRUNCATED", True, "decode", 1)
GONE = (HALF, "DISCONNECTED", True, "decode", 1)
BUSY = ("ADMISSION_REJECT", "OVERLOADED", True, "first_token")


@contextmanager
def black_hole() -> Iterator[str]:
    with BlackHole() as hole:
        yield hole.url


@contextmanager
def no_tls() -> Iterator[str]:
    with Server(lambda client: client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        yield server.url.replace("http:", "https:")


def nowhere(name: str, place: Callable[[], AbstractContextManager[str]], reason: str, **options: Any) -> Case:
    """No worker there. A Triton is asked first what it speaks, as often as a stream would be tried."""
    return case(
        name,
        lambda s: [],
        *(NEW, reason, True, "connect", ATTEMPTS),
        but={"triton": (NEW, reason, True, "prepare", ATTEMPTS)},
        place=place,
        **options,
    )


CASES = [
    nowhere("connect refused", nobody_there, "CONNECT"),
    nowhere(
        "connect into a black hole",
        black_hole,
        "CONNECT_TIMEOUT",
        timeouts=Timeouts(connect=0.1, first_token=LONG, idle=LONG, probe=0.1),
    ),
    nowhere("no TLS where it was expected", no_tls, "CONNECT"),
    # How often it is sent is not said: a connection that a probe left behind is replaced silently, beside the attempts.
    case("reset before the head", lambda s: [After(-1, Ending.RESET)] * 9, *UNHEARD),
    case("closed before the head", lambda s: [After(-1, Ending.CLOSE)] * 9, *UNHEARD),
    case("reset within the status line", lambda s: [Answer(b"HTTP/1.", Ending.RESET)], *LOST, sent=1),
    case("closed within the status line", lambda s: [Answer(b"HTTP/1.")], *LOST, sent=1),
    case("reset within the head", lambda s: [Answer(s.head()[:-9], Ending.RESET)], *LOST, sent=1),
    case("closed within the head", lambda s: [Answer(s.head()[:-9])], *LOST, sent=1),
    case("closed between two lines of the head", lambda s: [Answer(s.head()[:-2])], *LOST, sent=1),
    case("reset after the head", lambda s: [After(0, Ending.RESET)], *LOST, sent=1),
    case("closed after the head", lambda s: [After(0, Ending.CLOSE)], NEW, "TRUNCATED", True, "first_token", 1, sent=1),
    case("reset within the first frame", lambda s: [After(0, Ending.RESET, 9)], *LOST, sent=1),
    case("reset in mid-stream", lambda s: [After(s.half, Ending.RESET)], *GONE, sent=1),
    case("reset within a frame", lambda s: _cut(s, b"data: {", Ending.RESET), *GONE, sent=1),
    case("reset within a character", lambda s: _cut(s, _half_a_character(s), Ending.RESET), *GONE, sent=1),
    case(
        "reset before the end sign",
        lambda s: [Answer(s.answer(*s.frames[: s.proof], end=False), Ending.RESET)],
        *GONE,
        sent=1,
    ),
    case("closed in mid-stream (length known)", lambda s: [After(s.half, Ending.CLOSE)], *CUT, sent=1),
    case("closed in mid-stream (chunked)", _cut, *CUT, sent=1),
    case("closed within a character", lambda s: _cut(s, _half_a_character(s)), *CUT, sent=1),
    case("closed before the end sign", lambda s: [Answer(s.answer(*s.frames[: s.proof], end=False))], *CUT, sent=1),
    case("body cut cleanly by Connection: close", lambda s: _plain(s, s.frames[: s.half]), *CUT, sent=1),
    case(
        "garbage in the chunk framing",
        lambda s: [Answer(s.answer(*s.frames[: s.half], end=False) + b"xyz\r\n")],
        *WRONG_LATER,
    ),
    case("garbage after good frames", lambda s: _cut(s, b"data: {garbage\n\n"), *WRONG_LATER),
    case(
        "silence before the head",
        lambda s: [After(-1, Ending.HANG)],
        NEW,
        "FIRST_TOKEN_TIMEOUT",
        True,
        "queue",
        1,
        timeouts=BEFORE,
        sent=1,
    ),
    case("silence before the first token", lambda s: [After(0, Ending.HANG)], *NO_TOKEN, timeouts=BEFORE, sent=1),
    case("silence in mid-stream", lambda s: [After(s.half, Ending.HANG)], *IDLE, timeouts=BETWEEN, sent=1),
    case(
        "comments for ever, no token",
        lambda s: [Answer(s.head("connection: close"), Ending.COMMENTS)],
        *NO_TOKEN,
        timeouts=BEFORE,
        sent=1,
    ),
    case(
        "comments for ever in mid-stream",
        lambda s: [Answer(_plain(s, s.frames[: s.half])[0].data, Ending.COMMENTS)],
        *IDLE,
        timeouts=BETWEEN,
        sent=1,
    ),
    case(
        "one byte per second, first", lambda s: [After(0, Ending.TRICKLE, pace=1.0)], *NO_TOKEN, timeouts=BEFORE, sent=1
    ),
    case(
        "one byte per second in mid-stream",
        lambda s: [After(s.half, Ending.TRICKLE, pace=1.0)],
        *IDLE,
        timeouts=BETWEEN,
        sent=1,
    ),
    case("one byte at a time, to the end", lambda s: [After(0, Ending.TRICKLE, pace=0.0)], sent=1),
    case("one byte at a time, first", lambda s: [After(0, Ending.TRICKLE)], *NO_TOKEN, timeouts=BEFORE, sent=1),
    case(
        "one byte at a time, and the deadline",
        lambda s: [After(s.half, Ending.TRICKLE)],
        "DEADLINE_UNMET",
        "DEADLINE",
        False,
        "decode",
        1,
        deadline=QUIET,
        sent=1,
    ),
    case(
        "silence, and the deadline",
        lambda s: [After(-1, Ending.HANG)],
        "DEADLINE_UNMET",
        "DEADLINE",
        False,
        "queue",
        1,
        deadline=QUIET,
        sent=1,
    ),
    case("loading (503), then ready", lambda s: [status("503 Service Unavailable")], sent=2),
    case(
        "502 for ever",
        lambda s: [status("502 Bad Gateway")] * 9,
        NEW,
        "ENGINE_ERROR",
        True,
        "first_token",
        ATTEMPTS,
        sent=3,
    ),
    case("429 for ever", lambda s: [status("429 -")] * 9, *BUSY, ATTEMPTS, sent=3),
    case("429, Retry-After: 5", lambda s: [status("429 -", LATER)], *BUSY, 1, retry_after_ms=5000, sent=1),
    case(
        "429, Retry-After absurd",
        lambda s: [status("429 -", "Retry-After: 99999999")],
        *BUSY,
        1,
        retry_after_ms=86_400_000,
        sent=1,
    ),
    case(
        "429, Retry-After a past date",
        lambda s: [status("429 -", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT")],
        sent=2,
    ),
    case("429, Retry-After negative", lambda s: [status("429 -", "Retry-After: -1")] * 9, *BUSY, ATTEMPTS, sent=3),
    case("429, Retry-After NaN", lambda s: [status("429 -", "Retry-After: nan")] * 9, *BUSY, ATTEMPTS, sent=3),
    case("401", lambda s: [status("401 -")], INTERNAL, "UPSTREAM_AUTH", False, "first_token", 1, sent=1),
    case("404", lambda s: [status("404 -")], INTERNAL, "UPSTREAM_NOT_FOUND", False, "first_token", 1, sent=1),
    case("405", lambda s: [status("405 -")], INTERNAL, "UNSUPPORTED", False, "first_token", 1, sent=1),
    case(
        "redirect",
        lambda s: [status("302 -", "Location: http://elsewhere.test/")],
        INTERNAL,
        "REDIRECT",
        False,
        "first_token",
        1,
        sent=1,
    ),
    case(
        "huge error body",
        lambda s: [status("500 -", body=b"x" * 500_000)],
        NEW,
        "ENGINE_ERROR",
        True,
        "first_token",
        1,
        sent=1,
    ),
    case(
        "two lengths that differ",
        lambda s: [Answer(s.head("content-length: 7", "content-length: 8") + b"data: {}")],
        *(INTERNAL, "PROTOCOL", False, "first_token", 1),
        sent=1,
    ),
    *(case(name, partial(_labelled, lines)) for name, lines in LABELS.items()),
    *(case(name, partial(_headed, lines), *WRONG_FIRST, sent=1) for name, lines in HEADS.items()),
    *(case(name, partial(_framed, frame)) for name, frame in GOOD.items()),
    *(case(name, partial(_framed, frame), *WRONG_FIRST, sent=1) for name, frame in FRAMINGS.items()),
    *(case(f"{name}, later", partial(_framed_later, frame), *WRONG_LATER, sent=1) for name, frame in FRAMINGS.items()),
    case("length and chunks", lambda s: answered(s, [f"content-length: {len(b''.join(s.frames))}", CHUNKS])),
    case("a status below 100", lambda s: answered(s, [], "99 No"), *WRONG_FIRST, sent=1),
    # Where the end of the body is all there is, a connection that closes proves nothing.
    case(
        "HTTP/1.0, whole",
        unframed,
        but=dict.fromkeys(("triton 2.51.0", "triton 2.51.0-ensemble"), CUT),
        sent=1,
    ),
    case(
        "refusal that is compressed",
        lambda s: compressed(b'{"error":{"message":"who are you?"}}', "401 -"),
        *(INTERNAL, "UPSTREAM_AUTH", False, "first_token", 1),
        but={"mock": (NEW, "ENGINE_ERROR", True, "first_token", 1)},  # which knows no statuses
        sent=1,
    ),
    case(
        "1xx noise", lambda s: [Answer(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + s.answer(*s.frames))], sent=1
    ),
    # TensorRT-LLM's models tell no reason: the end of the body is all that they have.
    case(
        "end sign, and the body stays open",
        lambda s: [Answer(s.answer(*s.frames[: s.proof + 1], end=False), Ending.HANG)],
        but=dict.fromkeys(("triton 2.51.0", "triton 2.51.0-ensemble"), IDLE),
        timeouts=BETWEEN,
        sent=1,
    ),
    case(
        "reset after the end sign",
        lambda s: [Answer(s.answer(*s.frames[: s.proof + 1], end=False), Ending.RESET)],
        but=dict.fromkeys(("triton 2.51.0", "triton 2.51.0-ensemble"), GONE),
        sent=1,
    ),
    case("end sign twice", lambda s: [Answer(s.answer(*s.frames, *s.frames[s.proof :]))], sent=1),
    case(
        "tokens after the end sign",
        lambda s: [Answer(s.answer(*s.frames, *(s.frames[:1] if s.proof < len(s.frames) else [])))],
        sent=1,
    ),
    case("wrong content type", lambda s: [status("200 OK", body=b"<html>hello</html>")], *WRONG_FIRST),
    case(
        "gzip body",
        lambda s: [Answer(s.head("content-encoding: gzip", "connection: close") + b"\x1f\x8b\x08\0")],
        *WRONG_FIRST,
    ),
    # An overload, told by the status that it names, is tried again; the mock knows no statuses.
    case(
        "error without framing, first",
        lambda s: _first(s, UNFRAMED % 429),
        but={"mock": (NEW, "ENGINE_ERROR", True, "first_token", 1)},
    ),
    case(
        "error without framing, later",
        lambda s: _cut(s, UNFRAMED % 500),
        *(HALF, "ENGINE_ERROR", True, "decode", 1),
        sent=1,
    ),
    case("page of several blocks", lambda s: _first(s, b"<html>\n\n<body>hello</body>"), *WRONG_FIRST, sent=1),
    case(
        "refusal whose body stalls",
        lambda s: [Answer(b"HTTP/1.1 401 -\r\nContent-Length: 9\r\n\r\nno", Ending.HANG)],
        *(INTERNAL, "UPSTREAM_AUTH", False, "first_token", 1),
        sent=1,
    ),
    case("blocks without data", lambda s: [Answer(s.answer(*(part for f in s.frames for part in (b"data:\n\n", f))))]),
    case("no event at all", lambda s: [Answer(s.answer())], NEW, "EMPTY", True, "first_token", 1, sent=1),
    case("not JSON, first", lambda s: _first(s, b"data: {not json\n\n"), *WRONG_FIRST),
    # llama-server opens streams of several prompts with it (completion_two_prompts): no content, and a body that was cut.
    case(
        "data: null, first",
        lambda s: _first(s, b"data: null\n\n"),
        *WRONG_FIRST,
        but=dict.fromkeys(("llamacpp", "openai-completions"), (NEW, "TRUNCATED", True, "first_token", 1)),
    ),
    case(
        "data: null, later",
        lambda s: _cut(s, b"data: null\n\n"),
        *WRONG_LATER,
        but={"llamacpp": CUT, "openai-completions": CUT},
    ),
    # Triton's own JSON holds raw bytes and NaN: both survive, and what is left is a body that was cut.
    case(
        "invalid UTF-8 in the text",
        lambda s: _cut(s, s.frames[0].replace(b'":"', b'":"\xff')),
        *WRONG_LATER,
        but={"triton": CUT, "openai-completions": CUT},
    ),
    # What is not known is not looked at, be it NaN: what is left is a body that was cut.
    case(
        "NaN in JSON",
        lambda s: _cut(s, b'data: {"nothing known":NaN}\n\n'),
        *WRONG_LATER,
        but={"triton": CUT, "llamacpp": CUT, "openai-completions": CUT},
    ),
    case(
        "huge event, first",
        lambda s: _first(s, b"data: " + b"x" * 200_000),
        INTERNAL,
        "EVENT_TOO_LARGE",
        False,
        "first_token",
        1,
        limits=Limits(max_event_size=65536),
    ),
    case(
        "huge event, later",
        lambda s: _cut(s, b"data: " + b"x" * 200_000),
        INTERNAL,
        "EVENT_TOO_LARGE",
        False,
        "decode",
        1,
        limits=Limits(max_event_size=65536),
    ),
    case("slow consumer", lambda s: [], timeouts=BETWEEN, limits=Limits(hand_over=1), consume=slow),
    case(
        "consumer that stops reading",
        lambda s: [After(s.half, Ending.HANG)],
        "DEADLINE_UNMET",
        "DEADLINE",
        False,
        "decode",
        1,
        deadline=QUIET,
        consume=stopping,
        sent=1,
    ),
    case("consumer thread that dies", lambda s: [After(s.half, Ending.HANG)], *LEFT, consume=dying, sent=1),
]
