"""Planted faults by name, for tests to fail under: `@pytest.mark.kills("name")`, or `@kills:name` on a scenario.

Each is planted where every adapter of the process meets it, and taken out again when its test is over (traceability.py).
Those of dialects are `worker_adapters.testing.MUTANTS`, which third parties hold their own dialects to.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from worker_adapters import CancelOutcome, ErrorCode, Health, Reason, registry
from worker_adapters.testing import MUTANTS as OF_DIALECTS

if TYPE_CHECKING:
    import pytest

__all__ = ["NAMES", "everywhere", "plant"]

Plant = Callable[["pytest.MonkeyPatch"], None]


def everywhere(mutate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The dialect with the change, and so what it finds out to go on with (Triton)."""

    def mutated(dialect: Any) -> Any:
        changed = mutate(dialect)
        if dialect.resolve is None:
            return changed

        def resolve(target: Any) -> Any:
            return mutate((yield from dialect.resolve(target)))

        return attrs.evolve(changed, resolve=resolve)

    return mutated


def _of_dialect(mutate: Callable[[Any], Any]) -> Plant:
    """`connect(name)` gives a dialect with the fault."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real, mutated = registry.dialect, everywhere(mutate)
        patch.setattr(registry, "dialect", lambda engine: mutated(real(engine)))

    return plant


def _attribute(module: str, name: str, make: Callable[[Any], Any]) -> Plant:
    """Something of a module's, or of a class's in it, made anew of what it was."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        from pydoc import locate  # noqa: PLC0415  -- resolves classes, too

        owner: Any = locate(module)
        patch.setattr(owner, name, make(getattr(owner, name)))

    return plant


def _changed_probe(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A dialect one of whose probes says something else in the end."""

    def mutate(dialect: Any) -> Any:
        probe = getattr(dialect, name)

        def changed(target: Any) -> Any:
            return change((yield from probe(target)))

        return attrs.evolve(dialect, **{name: changed})

    return mutate


def _without_deadline(real: Any) -> Any:
    def running(self: Any, request: Any, *args: Any, **named: Any) -> Any:
        return real(self, attrs.evolve(request, deadline=None, deadline_at=None), *args, **named)

    return running


def _never_again(_real: Any) -> Any:
    return lambda *_args: None


def _always_internal(_real: Any) -> Any:
    return lambda reason, *, started: (ErrorCode.INTERNAL, Reason.BUG)


def _silent_cancel(_real: Any) -> Any:
    return lambda _self, *_task: CancelOutcome.CLOSED


def _openai_route(real: Any) -> Any:
    def make(*args: Any) -> Any:
        app = real(*args)
        app.add_url_rule("/v1/completions", view_func=lambda: "{}", methods=["POST"])
        return app

    return make


def _healthy(_real: Any) -> Any:
    return lambda _self, **_how: Health(live=True, ready=True, detail="ok", observed_at=0.0)


def _more_slots(facts: Any) -> Any:
    properties = facts.properties
    return attrs.evolve(facts, properties=attrs.evolve(properties, slots_total=(properties.slots_total or 0) + 1))


def _one_more_token(real: Any) -> Any:
    def tokens(self: Any, *args: Any, tokens_in: int, tokens_out: int) -> None:
        real(self, *args, tokens_in=tokens_in, tokens_out=tokens_out + 1)

    return tokens


def _elsewhere(dialect: Any) -> Any:
    def encode(request: Any, /, *, attempt: int) -> Any:
        wire = dialect.encode(request, attempt=attempt)
        return attrs.evolve(wire, target="/v1/chat/completions")

    return attrs.evolve(dialect, encode=encode)


def _impatient(real: Any) -> Any:
    def init(self: Any, timeouts: Any, *args: Any, **how: Any) -> None:
        real(self, attrs.evolve(timeouts, first_token=0.05), *args, **how)

    return init


def _patient_get(real: Any) -> Any:
    return lambda self, _timeout=None: real(self)


def _one_too_far(real: Any) -> Any:
    def behind(self: Any, last_event_id: str | None) -> Any:
        found = real(self, last_event_id)
        return found + 1 if found else found

    return behind


def _forgetful(real: Any) -> Any:
    def recover(self: Any, header: Any, keys: Any) -> Any:
        return real(self, header, type(keys)())

    return recover


def _served_with(**settings: Any) -> Plant:
    """The example orchestrator on a waitress that is set like that."""
    return _attribute("waitress", "create_server", lambda real: lambda *args, **how: real(*args, **{**how, **settings}))


def _plain_listener(_real: Any) -> Any:
    return lambda host, port: socket.create_server((host, port), backlog=1024)


def _gives_up(_real: Any) -> Any:
    def again(_self: Any, failed: Exception, _running: Any) -> Any:
        raise failed
        yield

    return again


NAMES: dict[str, Plant] = {
    **{name: _of_dialect(mutant.mutate) for name, mutant in OF_DIALECTS.items()},
    "calls a worker healthy unasked": _attribute("worker_adapters.runtime.adapter.EngineAdapter", "health", _healthy),
    "invents a slot": _of_dialect(_changed_probe("properties", _more_slots)),
    "reports another version": _of_dialect(
        _changed_probe("identify", lambda told: attrs.evolve(told, engine_version="0.0.0"))
    ),
    "counts a token too many": _attribute(
        "worker_adapters.runtime.metrics.PrometheusRecorder", "tokens", _one_more_token
    ),
    "asks elsewhere": _of_dialect(_elsewhere),
    "has no patience with queues": _attribute("worker_adapters.lifetime.Lifetime", "__init__", _impatient),
    "cancels nothing": _attribute("worker_adapters.runtime.handle.RunningStream", "cancel", _silent_cancel),
    "knows no deadline": _attribute("worker_adapters.runtime.streams.Streams", "running", _without_deadline),
    "never tries again": _attribute("worker_adapters.runtime.layers", "wait_before_next", _never_again),
    "calls every error internal": _attribute("worker_adapters.runtime.envelope", "code_of", _always_internal),
    "waits for ever in get": _attribute("worker_adapters.runtime.handle.RunningStream", "get", _patient_get),
    "sends no headers of the caller's": _attribute(
        "worker_adapters.api.headers.Headers", "__call__", lambda _real: lambda _self: {}
    ),
    "forgets what the caller knows of a worker": _attribute(
        "worker_adapters.runtime.worker.Worker", "_completed", lambda _real: lambda _self, properties: properties
    ),
    "remembers no row": _attribute("worker_adapters.batch.journal.Journal", "recover", _forgetful),
    "skips an event when a client comes back": _attribute(
        "worker_adapters.serving.replay.Kept", "behind", _one_too_far
    ),
    "records ahead of who reads": _attribute(
        "worker_adapters.serving.recording.Recording", "_wait_for_room", lambda _real: lambda _self: None
    ),
    "looks at no connection that it serves": _served_with(channel_request_lookahead=0),
    "lets the server read ahead": _served_with(outbuf_high_watermark=16 << 20),
    "leaves its send buffer to the kernel": _attribute("examples.orchestrator.serving", "listener", _plain_listener),
    "gives up at the first worker": _attribute("worker_adapters.pool.trip.Trip", "again", _gives_up),
    "lets OpenAI's route through": _attribute("examples.orchestrator.serving", "make_app", _openai_route),
}


def plant(name: str, patch: pytest.MonkeyPatch) -> None:
    """Raises KeyError for a name that there is not."""
    NAMES[name](patch)
