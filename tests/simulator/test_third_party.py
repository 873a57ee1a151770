"""A simulator of a third party's engine: what ARCHITECTURE.md, "Add an engine", promises, for the dialect of ../engines."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from worker_adapters import GenerateRequest, connect
from worker_adapters.simulator import Simulator, engine_names
from worker_adapters.simulator.seam import Job, RefusedError, Reply, Step, Task, Wire, Wording
from worker_adapters.simulator.source import Ask
from worker_adapters.testing import EngineSuite, Transcripts

from ..engines.test_third_party import DIALECT

ROOT = Path(__file__).parents[2]
JSON = (("Content-Type", "application/json"),)
SSE = (("Content-Type", "text/event-stream"),)


def error(status, kind, text):
    return Reply(status=status, headers=JSON, body=json.dumps({"error": {"kind": kind, "text": text}}).encode())


def event(**fields):
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def failure(text):
    told = {"kind": "boom", "text": text}
    return RefusedError(error(500, **told), event(error=told))


def steps(source, body, run):
    yield Step()  # in its slot
    for token in source.generate(Ask(prompt=run.task.prompt, seed=body["seed"], temperature=body.get("temp", 1.0))):
        run.decoded += 1
        why = "stop" if token.id in source.vocabulary.end_of_generation else None
        why = why or ("length" if run.decoded == body["max_new"] else None)
        said = {"piece": token.piece.decode("utf-8", "replace"), "count": run.decoded}
        yield Step(events=(event(**said, **({"why": why} if why else {})),), last=why is not None)
        if why:
            return


def answer(setup, version, request, slots):
    if slots.loading:
        return error(503, "busy", "loading")
    if request.path == "/about":
        return Reply(status=200, headers=JSON, body=json.dumps({"version": version}).encode())
    if request.path != "/stream":
        return error(404, "bad", "no such page")
    body = json.loads(request.body)
    prompt = tuple(setup.source.vocabulary.encode(body["input"]))
    task = Task(prompt=prompt, steps=partial(steps, setup.source, body))
    return Job(
        groups=((task,),), head=Reply(status=200, headers=SSE), collect=lambda _: error(400, "bad", "it streams")
    )


def build(setup, *, version="m1"):
    return Wire(
        answer=partial(answer, setup, version),
        bad_request=lambda status: error(status, "bad", "no request"),
        exhausted=lambda: failure("no room"),
        wording=Wording(
            generates=lambda request: request.path == "/stream",
            loading=error(503, "busy", "loading"),
            overloaded=error(429, "busy", "later"),
            failure=failure,
            broken="boom",
        ),
    )


class TestMine(EngineSuite):
    dialect = DIALECT
    transcripts = Transcripts(ROOT / "tests" / "engines" / "transcripts" / "mine" / "1")
    simulator = partial(Simulator, build)


def test_the_worked_example_is_as_short_as_promised():
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(source[source.index("JSON =") : source.index("class TestMine")].splitlines()) < 60


@pytest.fixture
def installed(tmp_path):
    """A folder to put on the path: the metadata of a distribution that registers both, as pip would have written it."""
    folder = tmp_path / "mine-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(
        "[worker_adapters.dialects]\nmine = tests.engines.test_third_party:DIALECT\n"
        f"[worker_adapters.simulators]\nmine = {__name__}:build\nvllm = nowhere:build\nbroken = json:__name__\n"
    )
    return tmp_path


def test_an_entry_point_registers_it_under_its_name(installed, monkeypatch):
    assert "mine" not in engine_names()
    monkeypatch.syspath_prepend(installed)
    assert engine_names()[-2:] == ("broken", "mine")
    assert engine_names().count("vllm") == 1  # ours: nobody takes its place
    with Simulator("mine", version="m2") as simulator, connect("mine", simulator.url) as adapter:
        assert adapter.generate(GenerateRequest(prompt="hello", max_tokens=3, seed=1)).tokens_out == 3
        assert adapter.engine_version() == "m2"
        assert simulator.state.served == 1


def test_the_command_line_knows_it(installed):
    done = subprocess.run(
        [sys.executable, "-m", "worker_adapters.cli", "demo", "--engine", "mine", "--max-tokens", "3"],
        env={"PYTHONPATH": f"{installed}:{ROOT}:{ROOT / 'adapters'}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "An embedded, simulated mine listens" in done.stdout


def test_what_is_no_simulator_says_so(installed, monkeypatch):
    with pytest.raises(
        ValueError, match=r"there is no engine 'nobody'; there are llamacpp, .*vllm, .*; a build function"
    ):
        Simulator("nobody")
    with pytest.raises(TypeError, match="made no Wire but a dict"):
        Simulator(lambda setup: {})
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(TypeError, match="'str' object is not callable"):
        Simulator("broken")
