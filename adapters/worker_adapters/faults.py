"""Scripted faults: a grammar for what goes wrong and where, and a record of which request meets what.

    [path ]kind[@where][:argument][*[times]][#nth][%every][~probability]

Nothing here does I/O or reads a clock. What a fault does is up to the server that meets it; docs/simulator.md tells.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from typing import Any, TypeAlias

import attrs

__all__ = ["KINDS", "FaultScript", "FaultSpec", "Kind", "Place", "Value", "parse", "parse_many"]

Value: TypeAlias = float | int | str | tuple[int, str] | None


class Place(StrEnum):
    """Where a fault acts: on the connection, before the answer, at a token, at a byte of the body, before its end sign."""

    ACCEPT = "accept"
    HEAD = "head"
    TOKEN = "token"
    BYTE = "byte"
    END = "end"


def _seconds(text: str) -> float:
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m)?", text)
    if not found:
        raise ValueError("a time such as 30s, 200ms, 2m or forever")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[found[2]]


def _interval(text: str) -> float:
    seconds = _seconds(text)
    if not 0 < seconds < math.inf:
        raise ValueError("a time above 0 such as 50ms")
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError("a count from 1 to 999999")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d{0,9})(B|KiB|MiB)?", text)
    if not found:
        raise ValueError("a size such as 4096, 64KiB or 2MiB")
    return int(found[1]) * {"KiB": 1024, "MiB": 1024 * 1024}.get(found[2], 1)


def _text(text: str) -> str:
    return text


def _line(text: str) -> str:
    # It ends up in a header, where a line break would begin another one.
    if not text.isprintable():
        raise ValueError("one line of printable text")
    return text


def _status(text: str) -> tuple[int, str]:
    status, _, body = text.partition(" ")
    if not re.fullmatch(r"[2-5]\d\d", status):
        raise ValueError("a status from 200 to 599, then perhaps a space and the body")
    return int(status), body


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of fault. `reads` judges its argument, if it takes one (`what` names it); `value` is used without one.

    Raised by `reads`: ValueError, with what was expected.
    """

    name: str
    places: tuple[Place, ...]
    where: str
    reads: Callable[[str], Value] | None = None
    what: str = ""
    value: Value = None
    needed: bool = False


_ANY = (Place.ACCEPT, Place.HEAD, Place.TOKEN, Place.BYTE, Place.END)
_BODY = (Place.TOKEN, Place.BYTE, Place.END)
_EVENT = (Place.TOKEN, Place.END)
_HEAD = (Place.HEAD,)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        # In the answer, or wherever else they are told to act.
        Kind(name="stall", places=_ANY, where="0", reads=_seconds, what="seconds", value=math.inf),
        Kind(name="trickle", places=_ANY[1:], where="0", reads=_interval, what="seconds per byte", value=0.1),
        Kind(name="reset", places=_ANY, where="0"),
        Kind(name="close", places=_ANY, where="0"),
        Kind(name="eof", places=_BODY, where="end"),
        Kind(name="cut", places=_EVENT, where="0"),
        Kind(name="half-char", places=(Place.TOKEN,), where="0"),
        Kind(name="error", places=(Place.HEAD, *_EVENT), where="0", reads=_text, what="message"),
        Kind(name="garbage", places=_ANY[1:], where="0", reads=_text, what="text"),
        Kind(name="not-json", places=_EVENT, where="0", reads=_line, what="text", value='{"content":'),
        Kind(name="comments", places=_EVENT, where="0", reads=_interval, what="seconds between", value=0.05),
        Kind(name="huge", places=_EVENT, where="0", reads=_size, what="bytes", value=2 * 1024 * 1024),
        Kind(name="dup-end", places=(Place.END,), where="end"),
        Kind(name="after-end", places=(Place.END,), where="end", reads=_count, what="tokens", value=1),
        # Instead of the answer.
        Kind(name="loading", places=_HEAD, where="head", reads=_seconds, what="seconds"),
        Kind(name="overloaded", places=_HEAD, where="head"),
        Kind(name="busy", places=_HEAD, where="head", reads=_line, what="Retry-After, or ms= and retry-after-ms"),
        Kind(name="status", places=_HEAD, where="head", reads=_status, what="status and body", needed=True),
        Kind(name="redirect", places=_HEAD, where="head", reads=_line, what="location", value="http://127.0.0.1:9/"),
        Kind(name="html", places=_HEAD, where="head", reads=_text, what="body"),
        # In front of the answer, or around it.
        Kind(name="interim", places=_HEAD, where="head", reads=_count, what="heads", value=1),
        Kind(name="gzip", places=_HEAD, where="head"),
    )
}


def _list_of_kinds() -> str:
    return f"kinds: {', '.join(sorted(KINDS))}"


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"there is no kind {name!r}; {_list_of_kinds()}")
    return KINDS[name]


def _place(kind: Kind, where: str) -> tuple[Place, int]:
    found = re.fullmatch(r"(accept|head|end)|(b?)(\d{1,15})", where)
    if not found:
        raise ValueError(f"@{where} is no place: a token such as 12, a byte such as b340, head, end or accept")
    place = Place(found[1]) if found[1] else Place.BYTE if found[2] else Place.TOKEN
    if place not in kind.places:
        raise ValueError(f"{kind.name} does not act at {where} but at: {', '.join(kind.places)}; {_list_of_kinds()}")
    return place, int(found[3] or 0)


def _value(kind: Kind, argument: str | None) -> Value:
    if argument is None:
        if kind.needed:
            raise ValueError(f"{kind.name} needs an argument: {kind.what}")
        return kind.value
    if kind.reads is None:
        raise ValueError(f"{kind.name} takes no argument; {_list_of_kinds()}")
    try:
        return kind.reads(argument)
    except ValueError as error:
        raise ValueError(f"the argument of {kind.name} ({kind.what}) must be {error}, not {argument!r}") from None


@attrs.frozen(kw_only=True)
class FaultSpec:
    """One fault: what, where, and for which requests. Raises ValueError for what makes no sense; `str()` writes it out.

    Where `nth`, `every` and `probability` are None, it waits in line: each request meets the first fault in line, as
    often as `times` says (once if None; inf: always). With one of them it meets every request that fits, `times` at
    most. `path` names the requests it is for (a star at its end: all that begin so); None: those that generate.
    """

    kind: str
    where: str | None = None
    argument: str | None = None
    times: float | None = None
    nth: int | None = None
    every: int | None = None
    probability: float | None = None
    path: str | None = None
    place: Place = attrs.field(init=False, eq=False, repr=False)
    at: int = attrs.field(init=False, eq=False, repr=False)
    value: Value = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        kind = _kind(self.kind)
        place, at = _place(kind, kind.where if self.where is None else self.where)
        derived: dict[str, object] = {"place": place, "at": at, "value": _value(kind, self.argument)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        for name in ("times", "nth", "every"):
            value = getattr(self, name)
            if value is not None and (value < 1 or (value != math.inf and value != int(value))):
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        if self.probability is not None and not 0 < self.probability <= 1:
            raise ValueError(f"a probability is above 0 and at most 1, not {self.probability!r}")
        if self.path is not None and (place is Place.ACCEPT or not re.fullmatch(r"/\S*", self.path)):
            raise ValueError(f"{self.path!r} is no path, or the fault acts before there is one")

    @property
    def in_line(self) -> bool:
        """Whether it waits for its turn, instead of looking at each request."""
        return self.window is None and (self.nth, self.every, self.probability) == (None, None, None)

    @property
    def window(self) -> float | None:
        """Seconds from the start for which it holds, if time is what decides."""
        return self.value if self.kind == "loading" and isinstance(self.value, float) else None

    @property
    def limit(self) -> float:
        """How often it happens at most."""
        return (1 if self.in_line else math.inf) if self.times is None else self.times

    def __str__(self) -> str:
        times = "" if self.times is None else "*" if self.times == math.inf else f"*{self.times:.0f}"
        parts = [
            "" if self.path is None else f"{self.path} ",
            self.kind,
            "" if self.where is None else f"@{self.where}",
            "" if self.argument is None else f":{_quoted(self.argument)}",
            times,
            "" if self.nth is None else f"#{self.nth}",
            "" if self.every is None else f"%{self.every}",
            "" if self.probability is None else f"~{_plain(self.probability)}",
        ]
        return "".join(parts)


def _quoted(argument: str) -> str:
    # What could be read as something else is quoted; the escapes keep it in ASCII, so that it fits into a header.
    plain = re.fullmatch(r"(?! )[A-Za-z0-9 .,:=/<>()_+\[\]{}!?-]+(?<! )", argument)
    return argument if plain else json.dumps(argument)


def _plain(number: float) -> str:
    return f"{Decimal(repr(number)):f}"  # never with an exponent, which the grammar lacks


# No text can be read in two ways here, or matching could take for ever.
_SUFFIX = re.compile(r"([*#%~])(\d*|\d*\.\d+)")
_SPEC = re.compile(
    r"(?:(?P<path>/\S*)\s+)?"
    r"(?P<kind>[a-z][a-z-]*)"
    r"(?:@(?P<where>[a-z0-9]+))?"
    r'(?::(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<argument>[^"].*)))?\Z',
    re.DOTALL,
)


def parse(text: str) -> FaultSpec:
    """A fault from its text. Raises ValueError that says what is wrong, and where."""
    try:
        return _read(text.strip())
    except ValueError as error:
        raise ValueError(f"fault {text!r}: {error}") from None


def _read(text: str) -> FaultSpec:
    rest, suffixes = _suffixes(text)
    found = _SPEC.match(rest)
    if found is None:
        raise ValueError(_complaint(rest))
    quoted = found["quoted"]
    return FaultSpec(
        kind=found["kind"],
        where=found["where"],
        argument=found["argument"] if quoted is None else _unquoted(quoted),
        path=found["path"],
        **suffixes,
    )


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError as error:
        raise ValueError(f"{text} is not quoted as JSON quotes: {error}") from None


def _suffixes(text: str) -> tuple[str, dict[str, Any]]:
    """What stands in front of the endings, and what those say."""
    names = {"*": "times", "#": "nth", "%": "every", "~": "probability"}
    values: dict[str, Any] = {}
    while True:
        at = max(text.rfind(sign) for sign in names)
        found = _SUFFIX.fullmatch(text, at) if at > 0 else None
        if found is None:
            return text, values
        sign, number = found[1], found[2]
        if names[sign] in values:
            raise ValueError(f"{sign} stands there twice")
        if (not number and sign != "*") or ("." in number and sign != "~"):
            raise ValueError(f"{found[0]!r} is no count, or no probability")
        values[names[sign]] = float(number) if sign == "~" else int(number) if number else math.inf
        text = text[:at]


def _complaint(text: str) -> str:
    """What is wrong with a text that is no spec at all: how far it can be read, and what stands there."""
    good = re.match(r'(?:/\S*\s+)?(?P<kind>[a-z][a-z-]*)?(?:@[a-z0-9]+)?(?::"(?:[^"\\]|\\.)*")?', text)
    end = good.end() if good else 0
    if good and good["kind"] and good["kind"] not in KINDS:
        return f"there is no kind {good['kind']!r}; {_list_of_kinds()}"
    seen = repr(text[end : end + 10]) if text[end:] else "the end"
    return (
        f"at column {end + 1}, {seen} can't be read; the form is "
        f"[path ]kind[@where][:argument][*[times]][#nth][%every][~probability]; {_list_of_kinds()}"
    )


def parse_many(text: str) -> tuple[FaultSpec, ...]:
    """Faults with semicolons between them. One in an argument must stand in quotes. Raises ValueError."""
    parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^;])+', text)
    return tuple(parse(part) for part in parts if part.strip())


@attrs.define(kw_only=True)
class _Entry:
    spec: FaultSpec
    number: int
    seen: int = 0
    used: int = 0


class FaultScript:
    """Which request meets which faults: the same requests in the same order, and the same seed, meet the same.

    Not safe to share between threads without a lock. Raises ValueError for a fault that can't be read.
    """

    def __init__(self, faults: Iterable[FaultSpec | str] = (), *, seed: int = 1) -> None:
        self._seed = seed
        self._entries: list[_Entry] = []
        self.add(*faults)

    def add(self, *faults: FaultSpec | str) -> None:
        """Put faults at the end. Counting of requests begins here for them."""
        specs = [parse(fault) if isinstance(fault, str) else fault for fault in faults]
        start = len(self._entries)
        self._entries += [_Entry(spec=spec, number=start + more) for more, spec in enumerate(specs)]

    def for_connection(self) -> tuple[FaultSpec, ...]:
        """The faults that one more connection meets, whatever it is for."""
        return tuple(self._met(entry for entry in self._entries if entry.spec.place is Place.ACCEPT))

    def for_request(self, path: str, *, generates: bool, elapsed: float) -> tuple[FaultSpec, ...]:
        """The faults that one more request meets. `elapsed`: seconds since the start."""
        fitting = (
            entry
            for entry in self._entries
            if entry.spec.place is not Place.ACCEPT and _fits(entry.spec.path, path, generates=generates)
        )
        return tuple(self._met(fitting, elapsed))

    def _met(self, entries: Iterable[_Entry], elapsed: float = 0.0) -> Iterator[FaultSpec]:
        served = False  # whether one of those in line has had its turn
        for entry in entries:
            entry.seen += 1
            if entry.used >= entry.spec.limit or (entry.spec.in_line and served):
                continue
            if entry.spec.in_line or self._matches(entry, elapsed):
                served = served or entry.spec.in_line
                entry.used += 1
                yield entry.spec

    def _matches(self, entry: _Entry, elapsed: float) -> bool:
        spec = entry.spec
        return (
            (spec.window is None or elapsed < spec.window)
            and (spec.nth is None or entry.seen == spec.nth)
            and (spec.every is None or entry.seen % spec.every == 0)
            and (spec.probability is None or self._draw(entry) < spec.probability)
        )

    def _draw(self, entry: _Entry) -> float:
        # A hash, so that what one fault meets does not depend on what the others have drawn.
        key = f"{self._seed}/{entry.number}/{entry.seen}".encode()
        return int.from_bytes(blake2b(key, digest_size=7).digest(), "big") / 2**56


def _fits(wanted: str | None, path: str, *, generates: bool) -> bool:
    if wanted is None:
        return generates
    return path.startswith(wanted[:-1]) if wanted.endswith("*") else path == wanted
