"""Pickled adapters: in processes that multiprocessing starts, by each of its methods, and what comes back from there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker_adapters import FromEnv, Retry, connect
from worker_adapters.simulator import Simulator
from worker_adapters.testing.server import nobody_there

from .test_forks import use

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0


# A file of its own: the children of spawn and forkserver import the main module again.
PROGRAM = """
import multiprocessing, pickle, sys, warnings
from worker_adapters import End, FromEnv, GenerateRequest, Retry, Started, WorkerError, connect


def request(**fields):
    return GenerateRequest(**{"prompt": "hello", "max_tokens": 4, **fields})


def generate(adapter, seed):
    return adapter.generate(request(seed=seed)).text


def stream(adapter, way):
    return list(getattr(adapter, way)(request(seed=1)))


def fail(adapter):
    adapter.generate(request(prompt="no " * 9000))


if __name__ == "__main__":
    method, url, dead = sys.argv[1:]
    with connect("llamacpp", url, pool_id="a", replica_id="r0", credentials=FromEnv("A_KEY")) as adapter:
        here = [generate(adapter, seed) for seed in range(4)]  # so that there are connections, a reaper, a version
        held = [way(request(max_tokens=50, ignore_eos=True)) for way in (adapter.submit, adapter.stream)]
        assert all(isinstance(next(one), Started) for one in held)
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.starmap(generate, [(adapter, seed) for seed in range(4)]) == here
            for way in ("stream", "submit"):
                events = pool.apply(stream, (adapter, way))
                assert isinstance(events[0], Started) and isinstance(events[-1], End), events
            try:
                pool.apply(fail, (adapter,))
            except WorkerError as error:
                envelope = error.error
                assert (envelope.code, envelope.reason) == ("INVALID_PARAMS", "CONTEXT_TOO_LONG"), envelope
                assert (envelope.pool_id, envelope.replica_id, error.partial.text) == ("a", "r0", "")
                again = pickle.loads(pickle.dumps(error))
                assert (again.error, again.args, type(again)) == (envelope, error.args, type(error))
            with connect("llamacpp", dead, retry=Retry(attempts=1)) as nobody:
                try:
                    pool.apply(generate, (nobody, 1))
                except WorkerError as error:
                    assert error.error.reason == "CONNECT", error
            pool.close()
            pool.join()
        for one in held:  # the parent's streams went on meanwhile
            last = list(one)[-1]
            assert isinstance(last, End) and last.finish_reason == "length", last
    print("well")
"""


@pytest.fixture(scope="module")
def slow() -> Iterator[Simulator]:
    with Simulator("llamacpp", slots=8, rate=100.0, ctx=8192) as running:
        yield running


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_an_adapter_is_handed_to_processes(method: str, slow: Simulator, tmp_path: Path) -> None:
    """By pickle, with streams in flight in the parent; results, events and errors come back."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    with nobody_there() as dead:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(program), method, slow.url, dead],
            capture_output=True,
            env={**os.environ, "A_KEY": "s3cr3t-0123456789"},
            timeout=PATIENCE,
            check=False,
            text=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def test_an_unpickled_adapter_works(slow: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_WORKERS_KEY", "s3cr3t-0123456789")
    a = connect("llamacpp", slow.url, pool_id="a", replica_id="r0", credentials=FromEnv("A_WORKERS_KEY"), retry=Retry())
    with a:
        use(a)  # what it has learnt and opened stays here
        pickled = pickle.dumps(a)
    assert b"s3cr3t" not in pickled
    with pickle.loads(pickled) as again:
        assert repr(again) == repr(a)
        use(again)


def test_an_adapter_with_a_literal_key_is_not_pickled(slow: Simulator) -> None:
    with (
        connect("llamacpp", slow.url, credentials="s3cr3t-0123456789") as a,
        pytest.raises(Exception, match=r"pickle|provider") as raised,
    ):
        pickle.dumps(a)
    assert "s3cr3t" not in str(raised.value)
