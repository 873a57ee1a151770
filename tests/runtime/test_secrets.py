"""Secrets: wherever the engine, a header or a provider brings them up, nobody is shown them."""

from __future__ import annotations

import traceback

import attrs
import pytest

from worker_adapters import (
    FromEnv,
    Reason,
    WorkerError,
)
from worker_adapters.dialect import Fault, Reply, WireRequest
from worker_adapters.transport.scripted import Script

from .dialects import (
    TINY,
    GatedTransport,
    adapter,
    events_of,
    good,
    request,
    status,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


SECRET = "s3cr3t-0123456789abcdef"


def leaking(reply_body=b""):
    """A worker that says everything it was told."""

    def echo(wire: WireRequest) -> Reply:
        return Reply(status=500, headers={}, body=reply_body or f"you said Bearer {SECRET}".encode())

    return echo


def shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc)) + repr(exc) + str(exc)


@pytest.mark.parametrize("cut", [0, 5])
def test_a_secret_that_the_engine_echoes_is_redacted_in_errors_of_streams(cut, caplog):
    caplog.set_level(0)
    padding = b"x" * (2048 - cut - len("Bearer ") - (0 if cut else 2000))
    body = padding + f"Bearer {SECRET}".encode()
    events = events_of(status(500, body), credentials=lambda: SECRET)
    assert "**" in events[0].upstream.message
    for text in (repr(events), caplog.text):
        assert SECRET not in text
        assert SECRET[:5] not in text


def test_a_secret_that_the_engine_echoes_is_redacted_in_what_probes_raise():
    """In its traceback too, where the cause of an exception is printed."""

    def tokenize(_text, _special, _target):
        reply = yield WireRequest(target="/tokenize")
        raise Fault(Reason.ENGINE_ERROR, reply.body.decode())  # as dialects do that have the engine's own words

    dialect = attrs.evolve(TINY, tokenize=tokenize)
    with adapter(transport=GatedTransport(reply=leaking()), dialect=dialect, credentials=lambda: SECRET) as a:
        for ask in (a.properties, lambda: a.tokenize("x")):
            with pytest.raises(WorkerError) as caught:
                ask()
            assert SECRET not in shown(caught.value)
        assert SECRET not in repr(a.health())
        assert SECRET not in repr(vars(a)) + repr(a)


def test_the_engines_words_are_bounded_and_redacted_wherever_they_stand():
    from worker_adapters import Upstream  # noqa: PLC0415  -- this test's own

    fault = Fault(Reason.VALIDATION, SECRET * 100, upstream=Upstream(type=f"t{SECRET}" * 100, message=SECRET * 1000))
    error = events_of(Script(queue=fault), credentials=lambda: SECRET)[0]
    assert SECRET[:5] not in repr(error)
    assert len(error.message.encode()) <= 500
    assert len(error.upstream.type.encode()) <= 200
    assert len(error.upstream.message.encode()) <= 2048


@pytest.mark.parametrize("token", ["", " ", f"{SECRET}\n", f"{SECRET}\u20ac", f"\0{SECRET}", None, SECRET.encode()])
def test_what_can_stand_in_no_header_is_refused_without_being_shown(token):
    """The HTTP library would quote it in its own exception."""
    error = events_of(good(), credentials=lambda: token)[0]
    assert (error.code, error.reason, error.attempts) == ("INTERNAL", "UPSTREAM_AUTH", 1)
    assert SECRET not in repr(error)


def test_a_provider_that_fails_is_an_auth_error_that_names_it(monkeypatch):
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    error = events_of(good(), credentials=FromEnv("NO_SUCH_TOKEN"))[0]
    assert error.reason == "UPSTREAM_AUTH"
    assert "NO_SUCH_TOKEN" in error.message


def test_the_provider_is_asked_for_every_request():
    tokens = iter(["one", "two", "three", "four", "five", "six"])
    with adapter(good(), good(), credentials=lambda: next(tokens), replies={}) as a:
        list(a.stream(request()))
        list(a.stream(request()))
        sent = [h["Authorization"] for h in a._transport.headers]
    assert len(set(sent)) == 2
