"""Small test dialects, and adapters over scripts. One wire: `s`, `t<text>`, `n<text>`, `m`, `e<REASON>`, `.<reason>`."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import (
    Features,
    FinishReason,
    GenerateRequest,
    Metrics,
    Properties,
    Reason,
    Retry,
    Timeouts,
    Token,
    Upstream,
    UsageSource,
)
from worker_adapters.dialect import (
    Dialect,
    Fault,
    Finished,
    HealthFacts,
    Opened,
    ProbeTarget,
    Reply,
    Traits,
    WireRequest,
    WorkerFacts,
    fault_of_status,
)
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.transport.scripted import Script, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

URL = "http://engine.test"
NOW = Retry(base=0.0)  # retries at once
ONCE = Retry(attempts=1)


def encode(request: GenerateRequest, /, *, attempt: int) -> WireRequest:
    body = f"{request.prompt} {request.task_id}-{attempt}".encode()
    return WireRequest(method="POST", target="/generate", body=body)


def _said(reason: str) -> Fault:
    return Fault(Reason(reason), f"the engine says {reason}", upstream=Upstream(message=reason))


def decode(batches, /, *, request, tally):
    index, opened = 0, False
    for batch in batches:
        run: list[Any] = []
        try:
            for payload in batch:
                data = (payload if type(payload) is bytes else payload.data).decode()
                kind, text = data[:1], data[1:]
                if kind == "e":
                    raise _said(text)
                if kind == "b":
                    raise KeyError("needle in the answer")
                if not opened:
                    opened = True
                    run.append(Opened(tokens_in=5))
                    tally.tokens_in = 5
                if kind == "t":
                    run.append(Token(index=index, text=text))
                    index += 1
                    tally.tokens_out += 1
                elif kind == "m":
                    run.append(Metrics(values={"x": 1}))
                elif kind == "g":  # a gap in the indexes
                    index += 1
                elif kind == "u":
                    tally.tokens_out, tally.usage_source = int(text), UsageSource.ENGINE
                elif kind == ".":
                    run.append(Finished(finish_reason=FinishReason(text or "stop"), finish_reason_raw=text))
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run


def _version(_target: ProbeTarget):
    reply = yield WireRequest(target="/version")
    if reply.status != 200:
        raise fault_of_status("tiny", reply)
    return Properties(engine="tiny", observed_at=0.0, engine_version=reply.body.decode())


def _properties(target: ProbeTarget):
    reply = yield WireRequest(target="/props")
    if reply.status != 200:
        raise fault_of_status("tiny", reply)
    against = ("two slots",) if reply.body == b"2" else ()
    slots = int(reply.body)
    known = {"slots_total": slots, "slots_free": slots, "queue_depth": 0}
    return WorkerFacts(
        properties=Properties(engine="tiny", observed_at=0.0, engine_version="1", **known), against_strict=against
    )


def _health(_target: ProbeTarget):
    reply = yield WireRequest(target="/health")
    return HealthFacts(ready=reply.status == 200, detail=reply.body.decode())


TINY = Dialect(
    name="tiny",
    encode=encode,
    decode=decode,
    parse_error=lambda reply: fault_of_status("tiny", reply),
    health=_health,
    properties=_properties,
    identify=_version,
    features=Features(),
    traits=Traits(probe_interval=60.0),
)


def frames(*data: str) -> bytes:
    return "".join(f"data: {d}\n\n" for d in data).encode()


GOOD = frames("ta", "tb", ".")


def good(*data: str, **script: Any) -> Script:
    """A stream that arrives in one read."""
    return Script(steps=[frames(*data) if data else GOOD], **script)


def tokens(count: int, first: int = 0) -> bytes:
    """That many Tokens: t0, t1, …"""
    return frames(*(f"tt{n}" for n in range(first, first + count)))


def end(count: int) -> bytes:
    """The end at max_tokens, and how many the engine has counted."""
    return frames(f"u{count}", ".length")


def counted(count: int = 3) -> Script:
    """An answer of so many Tokens, in one read."""
    return Script(steps=[tokens(count) + end(count)])


def waiting(steps: Iterable[Any], reached: threading.Event) -> Iterator[Any]:
    """The steps; sets `reached` when the one after the last is asked for."""
    yield from steps
    reached.set()


PHASES = {  # where a stream may be when something happens to it
    "connect": lambda hang: Script(connect=hang, steps=[GOOD]),
    "queue": lambda hang: Script(queue=hang, steps=[GOOD]),
    "first_token": lambda hang: Script(steps=[b":\n\n", hang, GOOD]),
    "decode": lambda hang: Script(steps=[frames("ta"), hang, GOOD]),
}


def status(code: int, body: bytes = b"", **headers: str) -> Script:
    return Script(status=code, headers={k.replace("_", "-"): v for k, v in headers.items()}, steps=[body])


def busy(headers: dict[str, str] | None = None) -> Script:
    """A refusal that is retried."""
    return Script(status=429, headers=headers or {}, steps=[b"the queue is full"])


def ok(body: bytes) -> Reply:
    return Reply(status=200, headers={}, body=body)


class GatedTransport(ScriptedTransport):
    """Control calls wait for `gate`, which is open unless a test shuts it: on their thread, or beside the rest, as steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def call(self, wire, headers, timeouts, limit):
        self.asked.set()
        self.gate.wait(40)  # as tests.timers.SOON; on its own, this file is a module, too
        return super().call(wire, headers, timeouts, limit)

    def exchange(self, wire, headers, lifetime, limit):
        self.asked.set()
        while not self.gate.is_set():
            yield from lifetime.wait(until=lifetime.clock() + 0.005)
        return super().call(wire, headers, lifetime.timeouts, limit)


class WatchedTransport(GatedTransport):
    """Notes by which thread each exchange was closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left: list[str] = []

    def open(self, wire, headers, lifetime):
        exchange = yield from super().open(wire, headers, lifetime)
        exchange.close = lambda: self.left.append(threading.current_thread().name)
        return exchange


def adapter(
    *scripts: Script,
    replies: dict[str, Reply] | None = None,
    answer: Callable[[WireRequest], Script] | None = None,
    dialect: Dialect = TINY,
    transport: ScriptedTransport | None = None,
    url: str = URL,
    **config: Any,
) -> EngineAdapter:
    """An adapter over memory; its transport is `._transport`. One attempt unless `retry` says more."""
    if transport is None:
        known = {"/version": ok(b"v9"), "/props": ok(b"1"), "/health": ok(b"fine")} if replies is None else replies
        transport = GatedTransport(scripts, answer=answer, reply=lambda wire: known.get(wire.target))
    config = {"retry": ONCE, **config}
    return EngineAdapter(AdapterConfig(dialect=dialect, url=url, **config), transport=transport)


def sent(adapter: EngineAdapter) -> int:
    """How many requests went out."""
    transport = adapter._transport
    assert isinstance(transport, ScriptedTransport)
    return len(transport.requests)


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "p", **fields})


def events_of(*scripts: Script, ask: dict[str, Any] | None = None, **config: Any) -> list[Any]:
    with adapter(*scripts, **config) as a:
        return list(a.stream(request(**(ask or {}))))


def run_both(*scripts: Script, **config: Any) -> list[Any]:
    """The same stream on the calling thread and on the loop; they must agree."""
    ask = config.pop("ask", {})
    with adapter(*scripts, *scripts, **config) as a:
        streamed = list(a.stream(request(task_id="t", **ask)))
        submitted = list(a.submit(request(task_id="t", **ask)))

    def timeless(event: Any) -> Any:
        if event.kind == "metrics":
            return {k: v for k, v in event.values.items() if "latency" not in k}
        if event.kind == "error":
            # Of a bug the innermost place: who called it depends on the way. The version: if it is known by then.
            return attrs.evolve(event, message=event.message.split(" < ")[0], engine_version=None)
        if event.kind == "started":
            return attrs.evolve(event, engine_version=None)
        return attrs.evolve(event, decode_time_ms=0.0) if event.kind == "end" else event

    assert [timeless(e) for e in streamed] == [timeless(e) for e in submitted]
    return streamed


def kinds(events: Iterable[Any]) -> list[str]:
    return [e.kind for e in events]


def cancelled(event: Any) -> bool:
    return bool(event.kind == "end" and event.finish_reason == "cancelled")


def texts(events: Iterable[Any]) -> str:
    return "".join(e.text for e in events if e.kind == "token")


def errors(events: Iterable[Any]) -> list[Any]:
    return [e for e in events if e.kind == "error"]


def quick(**timeouts: float) -> Timeouts:
    return Timeouts(**{"connect": 5.0, "first_token": 5.0, "idle": 5.0, **timeouts})


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """For states that nothing signals (a thread that has gone, a weak reference that has died)."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "the state was never reached"
        threading.Event().wait(0.002)


@contextmanager
def threads_held_up(monkeypatch: Any, name: str) -> Iterator[list[Callable[[], None]]]:
    """Threads of that name have yet to begin, as on a busy machine: calling one of what is given lets it."""
    start = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    real, begin = getattr(threading, start), []

    def scheduled(function: Any, *args: Any, **named: Any) -> None:
        if function.__self__.name == name:
            begin.append(partial(real, function, *args, **named))
        else:
            real(function, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(threading, start, scheduled)
        yield begin


def endless(step: bytes = frames("tx")) -> Iterator[bytes]:
    while True:
        yield step


def with_traits(**traits: Any) -> Dialect:
    return attrs.evolve(TINY, traits=attrs.evolve(TINY.traits, **traits))
