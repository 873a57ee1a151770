"""A whole faulty run with planted secrets: none of them in a log line, error, repr, traceback, metric, span or pickle."""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import pickle
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

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
    Limits,
    MetricsOptions,
    Pool,
    Retry,
    TelemetryOptions,
    Timeouts,
    WorkerError,
    batch,
    connect,
    dump,
)
from worker_adapters.cli.main import main

from ..faults.hostile import answering
from ..products import product
from .planted import ANSWER, API_KEY, BEARER, PLANTED, PROMPT, QUERY, USER, Planted, Shown, answers, echoed

if TYPE_CHECKING:
    from pathlib import Path

    from ..faults.subjects import Subject

TIMEOUTS = Timeouts(connect=10, first_token=20, idle=20, probe=20)
ONE_OF_EACH = [next(s for s in PLANTED if s.name.startswith(name)) for name in ("llamacpp", "sglang", "trtllm", "tgi")]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Shown:
    """What is read, with every logger on; and the keys where the adapters find them."""
    caplog.set_level(logging.NOTSET + 1, logger="")
    monkeypatch.setenv("THE_KEY", BEARER)
    monkeypatch.setenv("THE_OTHER_KEY", API_KEY)
    return Shown(caplog)


class Told:
    """Where adapters report to."""

    def __init__(self) -> None:
        self.exporter, self.registry, self.reader = InMemorySpanExporter(), CollectorRegistry(), InMemoryMetricReader()
        tracer = TracerProvider()
        tracer.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.options: dict[str, Any] = {
            "metrics": MetricsOptions(registry=self.registry),
            "telemetry": TelemetryOptions(tracer_provider=tracer, meter_provider=MeterProvider([self.reader])),
        }

    def into(self, shown: Shown) -> None:
        shown.add(
            generate_latest(self.registry).decode(), [span.to_json() for span in self.exporter.get_finished_spans()]
        )
        metrics = self.reader.get_metrics_data()
        shown.add("" if metrics is None else metrics.to_json())


def known_of(told: Told, **more: Any) -> dict[str, Any]:
    return {
        "credentials": FromEnv("THE_KEY"),
        "headers": {"X-API-Key": FromEnv("THE_OTHER_KEY")},
        "retry": Retry(attempts=2, base=0.0),
        "timeouts": TIMEOUTS,
        **told.options,
        **more,
    }


def ask(adapter: Any, shown: Shown, turns: int) -> None:
    """In each way, and what each stream came to is read."""
    for turn in range(turns):
        request = GenerateRequest(prompt=PROMPT, max_tokens=4)
        if turn % 3:
            try:
                (*events, last) = getattr(adapter, ("stream", "submit")[turn % 2])(request)
            except WorkerError as refused:  # where all of a pool's workers have been asked too much
                shown.failed(refused)
            else:
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


@pytest.mark.req("ADAPT-3004")
@product("subject, by_proxy", [(subject, by_proxy) for subject in PLANTED for by_proxy in (False, True)])
def test_a_faulty_run_shows_none_of_its_secrets(subject: Subject, by_proxy: bool, shown: Shown) -> None:
    told, planted = Told(), Planted(subject)
    with answering(planted.answer) as url:
        known = known_of(told, model=subject.model)
        if by_proxy:
            known["proxy"] = url.replace("http://", f"http://me:{USER}@")
        with connect(planted.engine, "http://worker.test:8000" if by_proxy else url, **known) as adapter:
            ask(adapter, shown, 4 * len(answers(subject)))
            shown.add(adapter, adapter._config)
            try:
                shown.add(pickle.dumps(adapter))
            except TypeError as exc:  # with a password in the proxy's URL
                assert by_proxy
                shown.failed(exc)
        told.into(shown)
    for bad in (f"http://me:{USER}@h", f"http://h/?key={QUERY}", f"h?token={QUERY}"):
        with pytest.raises(InvalidRequestError) as refused:
            connect(planted.engine, bad)
        shown.failed(refused.value)
    shown.logged()
    assert len(told.exporter.get_finished_spans()) > 30
    assert len(shown.texts) > 100
    shown.check()


@pytest.fixture
def workers():
    """One of each of some dialects, all of them faulty: their URLs by name."""
    with ExitStack() as running:
        yield {
            planted.engine: running.enter_context(answering(planted.answer)) for planted in map(Planted, ONE_OF_EACH)
        }


@pytest.mark.req("ADAPT-3004")
def test_a_pool_of_faulty_workers_shows_none(workers: dict[str, str], shown: Shown) -> None:
    told = Told()
    known = known_of(told, limits=Limits(max_in_flight=4), retry=Retry(attempts=2, base=0.0, cap=0.05))
    mixed = [connect(engine, url, replica_id=engine, **known) for engine, url in workers.items()]
    alike = [connect("sglang", workers["sglang"], replica_id=f"r{n}", **known) for n in range(3)]
    for adapters, more in ((mixed, {"mixed": True}), (alike, {"resume": "continue"})):
        with Pool(adapters, **more) as pool:
            ask(pool, shown, 20)
            shown.add(pool, vars(pool), dump(), pickle.dumps(pool), pool.health(), adapters)
    told.into(shown)
    shown.logged()
    shown.check()


@pytest.mark.req("ADAPT-3004")
def test_a_batch_whose_rows_all_fail_shows_none(shown: Shown, tmp_path: Path) -> None:
    """Each row is refused in words that quote what it was sent with, whole or cut."""
    told, ticks, subject = Told(), [], ONE_OF_EACH[0]
    turns = itertools.count()

    def answer(request: bytes) -> bytes:
        said = [*echoed(request)]
        return answers(subject)[1](said[next(turns) % len(said)])

    rows = [{"id": str(n), "prompt": PROMPT} for n in range(24)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with answering(answer) as url, connect(subject.dialect.name, url, replica_id="r0", **known_of(told)) as adapter:
        report = batch.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", [adapter], on_tick=ticks.append, attempts=1)
    shown.add(report, ticks, dump())
    for path in tmp_path.iterdir():
        if path.name != "in.jsonl":
            shown.add(path.read_bytes())
    told.into(shown)
    shown.logged()
    assert report.failed == len(rows)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("****") >= len(rows)
    shown.check()


def console(*words: str) -> str:
    """What a command writes, all of it."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        main([*words])
    return said.getvalue()


@pytest.mark.req("ADAPT-3004")
def test_the_command_line_shows_none(workers: dict[str, str], shown: Shown, tmp_path: Path) -> None:
    keys = ["--credentials-env", "THE_KEY", "--header", "X-API-Key=THE_OTHER_KEY", "--log-json", "--log-level", "debug"]
    before = logging.getLogger("worker_adapters").handlers[:]
    try:
        for engine in ("llamacpp", "tgi"):
            worker = ["--engine", engine, "--url", workers[engine], *keys]
            for way in ((), ("--json",)) * 3:
                shown.add(console("run", "--prompt", PROMPT, *worker, *way).replace(ANSWER, ""))  # what it is for
                shown.add(console("health", *worker, *way), console("properties", *worker, *way))
        urls = [*workers.values(), f"{workers['tgi']}/metrics"]
        for way in ((), ("--json",), ("--engine", "llamacpp", "--prompt", PROMPT)):
            shown.add(console("watch", *urls, "--count", "2", "--every", "0.01", *keys, *way))
        pages = (
            f"http://me:{USER}@127.0.0.1:9/metrics",
            f"http://127.0.0.1:9/metrics?x={QUERY}",
        )
        shown.add(console("watch", *pages, "--count", "1"), console("watch", *pages, "--count", "1", "--json"))
        shown.add(console("watch", f"http://me:{USER}@127.0.0.1:9", "--count", "1"))
        (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n", encoding="utf-8")
        named = [word for engine, url in workers.items() for word in ("--worker", f"{engine}={url}")]
        files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
        shown.add(console("batch", *files, *named, *keys, "--json", "--attempts", "2"))
        proxied = ["--proxy", f"http://me:{USER}@127.0.0.1:9", "--engine", "vllm", "--url", "http://worker.test"]
        shown.add(console("health", *proxied), console("run", "--prompt", "p", *proxied, "--json", "--attempts", "1"))
        shown.add(console("health", "--engine", "vllm", "--url", f"http://me:{USER}@h/?key={QUERY}"))
    finally:
        logging.getLogger("worker_adapters").handlers[:] = before
    shown.logged()
    assert "****" in "\n".join(shown.texts)
    shown.check()


def test_the_check_is_seen_failing(caplog: pytest.LogCaptureFixture) -> None:
    for leak in (f"key {BEARER[10:18]}", base64.b64encode(API_KEY.encode()), QUERY.encode().hex(), f"a {PROMPT}"):
        shown = Shown(caplog)
        shown.add(leak)
        with pytest.raises(AssertionError):
            shown.check()
