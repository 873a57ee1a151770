"""What Ray Data is given, without Ray: a batch in, the batch with its answers out; and a sink that may be written twice."""

from __future__ import annotations

import pickle
from typing import Any

import numpy
import pyarrow
import pytest

from worker_adapters import FromEnv, Retry, connect
from worker_adapters.pool import Pool
from worker_adapters.ray import ANSWER, Generate, KeyedFiles, rows_of
from worker_adapters.testing.server import nobody_there

from .test_pool import WORDS, adapter_for, workers_of

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)
TEXT = "".join(WORDS)


@pytest.fixture
def generate(simulated_worker: Any) -> Any:
    made: list[Generate] = []

    def make(count: int = 2, **options: Any) -> Generate:
        workers = [adapter_for(worker, f"r{n}") for n, worker in enumerate(workers_of(simulated_worker, count))]
        made.append(Generate(workers, **options))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()


def test_a_batch_of_columns(generate: Any) -> None:
    batch = {
        "id": numpy.arange(20),
        "prompt": numpy.array([f"row {n}" for n in range(20)], dtype=object),
        "temperature": numpy.array([0.5, float("nan")] * 10),
        "mine": numpy.array(["x"] * 20, dtype=object),
    }
    found = generate(parameters={"max_tokens": 4})(batch)
    assert set(found) == {*batch, *ANSWER}
    assert found["id"] == list(range(20))
    assert found["text"] == [TEXT] * 20
    assert list(found["mine"]) == ["x"] * 20
    assert set(found["worker"]) == {"r0", "r1"}
    assert set(found["code"]) == {None}
    assert found["attempts"] == [1] * 20


def test_tables(generate: Any) -> None:
    one = generate()
    table = pyarrow.table({"id": ["a", "b"], "prompt": ["1", "2"], "max_tokens": [1, None]})
    found = one(table)
    assert found["text"] == [WORDS[0], TEXT]
    assert found["seed"] == one(table)["seed"], "a row has the same seed each time that it is asked for"


def test_a_row_that_fails_is_a_row(generate: Any) -> None:
    one = generate()
    found = one({"id": [1, 2, 3, 1], "prompt": ["a", None, "c", "a"], "max_tokens": [4, 4, 0, 4]})
    assert found["code"] == [None, "INVALID_PARAMS", "INVALID_PARAMS", None]
    assert "no prompt" in found["message"][1]
    assert "max_tokens" in found["message"][2]
    assert found["text"] == [TEXT, None, None, TEXT]


def test_a_batch_may_fail_for_its_rows() -> None:
    with nobody_there() as nobody:
        pool = Pool([connect("vllm", nobody)], retry=Retry(attempts=2, base=0.0, cap=0.0))
        found = Generate(pool)({"prompt": ["a", "b"]})
        assert found["code"] == ["REPLICA_EXHAUSTED"] * 2
        with pytest.raises(RuntimeError, match="2 of 2 rows failed"):
            Generate(pool, failed_rows=0.5)({"prompt": ["a", "b"]})
        pool.close()


def test_it_goes_to_its_actors_by_configuration() -> None:
    workers = [connect("vllm", "http://x.test", credentials=FromEnv("A_KEY"))]
    data = pickle.dumps({"workers": workers})
    assert b"A_KEY" in data
    again = Generate(**pickle.loads(data))
    assert [state.url for state in again.pool.workers] == ["http://x.test"]
    again.pool.close()
    workers[0].close()


def test_what_is_written_twice_is_there_once(tmp_path: Any) -> None:
    write = pickle.loads(pickle.dumps(KeyedFiles(tmp_path / "out")))
    batch = {"id": [1, 2], "text": ["a", None], "code": [None, "WORKER_RESET"]}
    assert write(batch) == write(batch)
    assert len(list((tmp_path / "out").iterdir())) == 1
    write({"id": numpy.array([2, 3]), "text": ["b", "c"], "code": [None, None]})  # cut otherwise, and asked again
    assert {row["id"]: row["text"] for row in rows_of(tmp_path / "out")} == {1: "a", 2: "b", 3: "c"}
    assert sum(1 for _ in rows_of(tmp_path / "out")) == 3
