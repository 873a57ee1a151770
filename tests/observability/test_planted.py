"""A whole faulty run with planted secrets: none of them in a log line, error, repr, traceback, metric, span or pickle."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import random
import re
import traceback
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from worker_adapters import (
    FromEnv,
    GenerateRequest,
    InvalidRequestError,
    MetricsOptions,
    Retry,
    TelemetryOptions,
    WorkerError,
    connect,
    dump,
)
from worker_adapters.cli.logs import JSONFormatter

from ..faults.hostile import answering, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 8  # characters of a secret, anywhere, that give it away
PROMPT, ANSWER = "needle-of-the-prompt", "needle-of-the-answer"


def secret(seed: int) -> str:
    """No two of its characters in a row are likely anywhere else."""
    chance = random.Random(seed)
    return "".join(chance.choice("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(40))


BEARER, API_KEY, USER, QUERY = (secret(seed) for seed in range(4))
SECRETS = {"bearer": BEARER, "X-API-Key": API_KEY, "userinfo": USER, "query": QUERY}


def stream_of(engine: str, *, error: str = "") -> bytes:
    """The beginning of a good stream, then an error that quotes."""
    frame = {
        "llamacpp": {"content": ANSWER, "stop": False, "tokens": []},
        "vllm": {"id": "c", "choices": [{"index": 0, "text": ANSWER, "finish_reason": None}]},
        "tgi": {
            "index": 1,
            "token": {"id": 1, "text": ANSWER, "logprob": -1.0, "special": False},
            "generated_text": None,
        },
    }[engine]
    failed = {"error": {"message": error, "type": "server_error", "code": 500}}
    if engine == "tgi":
        failed = {"error": error, "error_type": "generation"}  # type: ignore[dict-item]  # TGI's own shape
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (frame, failed))


def answers(engine: str) -> list[Callable[[str], bytes]]:
    """Each tells a client what it had sent."""
    return [
        lambda s: reply(
            json.dumps({"error": {"message": f"bad key {s}", "type": s, "code": 401}}).encode(), status="401 No"
        ),
        lambda s: reply(f"bad key {s}".encode(), status="400 No", kind="text/plain"),
        lambda s: reply(b"x" * 2030 + s.encode(), status="502 No", kind="text/html"),
        lambda s: reply(f"busy: {s}".encode(), status="429 No", kind="text/plain"),
        lambda s: reply(stream_of(engine, error=f"it was {s}"), kind="text/event-stream"),
        lambda s: reply(f"<html>{s}</html>".encode(), kind="text/html"),
        lambda s: reply(b"", f"Location: http://x/?access_token={QUERY}&q={s}", status="302 Found"),
        lambda s: f"HTTP/1.1 nonsense {s}\r\n\r\n".encode("latin-1"),
        lambda s: reply(json.dumps({"error": f"see http://u:{USER}@h/?api_key={QUERY} {s}"}).encode(), status="500 No"),
    ]


def echoed(request: bytes) -> Iterator[str]:
    """What was sent, as it is, cut in half, and otherwise written."""
    text = request.decode("latin-1")
    sent = re.findall(
        r"(?mi)^(?:authorization: (?:bearer |basic )?|x-api-key: |proxy-authorization: basic )(\S+)", text
    )
    for value in sent:
        yield value
        yield value[: len(value) // 2]
        yield base64.b64encode(value.encode()).decode()


class Shown:
    """All that anybody could read afterwards."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.texts: list[str] = []
        self._caplog = caplog

    def add(self, *things: object) -> None:
        for thing in things:
            self.texts.append(thing.decode("latin-1") if isinstance(thing, bytes) else f"{thing!s} {thing!r}")

    def failed(self, exc: BaseException) -> None:
        self.add(exc, exc.__cause__, exc.__context__, pickle.dumps(exc), "".join(traceback.format_exception(exc)))
        if isinstance(exc, WorkerError):
            self.add(exc.error, pickle.dumps(exc.error))

    def logged(self) -> None:
        lines = JSONFormatter()
        for record in self._caplog.records:
            self.add(record.getMessage(), vars(record), record.exc_info, lines.format(record))

    def check(self) -> None:
        everything = "\n".join(self.texts)
        for name, value in SECRETS.items():
            for form in (value, base64.b64encode(value.encode()).decode(), value.encode().hex()):
                for at in range(len(form) - WINDOW):
                    assert form[at : at + WINDOW] not in everything, (
                        f"{name}: {_around(everything, form[at : at + WINDOW])}"
                    )
        assert PROMPT not in everything
        assert ANSWER not in everything


def _around(text: str, found: str) -> str:
    at = text.index(found)
    return text[max(0, at - 200) : at + 80]


@pytest.mark.req("ADAPT-3004")
@pytest.mark.parametrize("by_proxy", [False, True])
@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "tgi"])
def test_a_faulty_run_shows_none_of_its_secrets(
    engine: str, by_proxy: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.NOTSET + 1, logger="")
    monkeypatch.setenv("THE_KEY", BEARER)
    monkeypatch.setenv("THE_OTHER_KEY", API_KEY)
    shown, turns = Shown(caplog), iter(range(10**6))
    exporter, registry, reader = InMemorySpanExporter(), CollectorRegistry(), InMemoryMetricReader()
    tracer = TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    ways = answers(engine)

    def answer(request: bytes) -> bytes:
        said = [*echoed(request)]
        turn = next(turns)
        return ways[turn % len(ways)](said[turn // len(ways) % len(said)] if said else "")

    with answering(answer) as url:
        known = {
            "credentials": FromEnv("THE_KEY"),
            "headers": {"X-API-Key": FromEnv("THE_OTHER_KEY")},
            "metrics": MetricsOptions(registry=registry),
            "telemetry": TelemetryOptions(tracer_provider=tracer, meter_provider=MeterProvider([reader])),
            "retry": Retry(attempts=2, base=0.0),
        }
        if by_proxy:
            known["proxy"] = url.replace("http://", f"http://me:{USER}@")
        with connect(engine, "http://worker.test:8000" if by_proxy else url, **known) as adapter:
            for turn in range(6 * len(ways)):
                request = GenerateRequest(prompt=PROMPT, max_tokens=4)
                if turn % 3:
                    (*events, last) = getattr(adapter, ("stream", "submit")[turn % 2])(request)
                    shown.add(last, pickle.dumps(last), [event for event in events if event.kind != "token"])
                else:
                    with pytest.raises(WorkerError) as caught:
                        adapter.generate(request)
                    caught.value.partial = None  # which holds text, and is the caller's
                    shown.failed(caught.value)
                if turn % 5 == 0:
                    shown.add(adapter.health(), adapter.engine_version(), dump())
                    with pytest.raises(WorkerError) as caught:
                        adapter.tokenize(PROMPT[:3])
                    shown.failed(caught.value)
            shown.add(adapter, adapter._config)
            try:
                shown.add(pickle.dumps(adapter))
            except TypeError as exc:  # with a password in the proxy's URL
                assert by_proxy
                shown.failed(exc)
        shown.add(generate_latest(registry).decode(), [span.to_json() for span in exporter.get_finished_spans()])
        shown.add(reader.get_metrics_data().to_json())
    for bad in (f"http://me:{USER}@h", f"http://h/?key={QUERY}", f"h?token={QUERY}"):
        with pytest.raises(InvalidRequestError) as refused:
            connect(engine, bad)
        shown.failed(refused.value)
    shown.logged()
    assert len(exporter.get_finished_spans()) > 30
    assert len(caplog.records) > 50
    shown.check()


def test_the_check_is_seen_failing(caplog: pytest.LogCaptureFixture) -> None:
    for leak in (f"key {BEARER[10:18]}", base64.b64encode(API_KEY.encode()), QUERY.encode().hex(), f"a {PROMPT}"):
        shown = Shown(caplog)
        shown.add(leak)
        with pytest.raises(AssertionError):
            shown.check()
