"""What inputs may look like, and what of it is said before anything is asked."""

from __future__ import annotations

import gzip
import json
import os
import threading

import pytest

from worker_adapters.batch import Batch, Options, Outcome, check
from worker_adapters.batch.source import NOT_YET, opened

from .disks import QUICK
from .test_run import ran, read, rows

pytestmark = pytest.mark.req("ADAPT-3500", socket=True)

ONE, TWO = b'{"id":1,"prompt":"a","max_tokens":2}', b'{"id":2,"prompt":"b","max_tokens":2}'


def lines(path) -> list[bytes]:
    source = opened(str(path))
    return [found[1] for found in source if found is not NOT_YET]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + ONE + b"\n" + TWO + b"\n",
        ONE + b"\r\n\r\n" + TWO + b"\r\n",
        b"\n  \n" + ONE + b"\n\t\n" + TWO,
        gzip.compress(ONE + b"\n" + TWO + b"\n"),
    ],
    ids=["byte order mark", "CRLF", "blank lines, no last newline", "gzip"],
)
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_lines_however_they_are_written(tmp_path, data, through):
    path = tmp_path / "in"
    if through == "file":
        path.write_bytes(data)
        assert [json.loads(line)["id"] for line in lines(path)] == [1, 2]
        assert check(path).is_good
    elif not data.startswith(b"\x1f"):
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        assert [json.loads(line)["id"] for line in lines(path)] == [1, 2]
        writer.join()


def test_a_line_of_a_pipe_that_comes_in_many_pieces(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    line = b'{"id":1,"prompt":"' + b"x" * 20_000_000 + b'"}'
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(line + b"\n" + TWO,))
    writer.start()
    assert lines(tmp_path / "pipe") == [line, TWO]
    writer.join()


def test_what_is_still_being_written_is_the_last_line_and_answered_once_it_is_whole(simulated_worker, tmp_path):
    worker, path = simulated_worker("vllm"), tmp_path / "in"
    path.write_bytes(ONE + b"\n" + TWO[:9])
    reading = opened(str(path))
    found = [next(reading) for _ in range(2)]
    with path.open("ab") as file:
        file.write(TWO[9:] + b"\n")
    assert [line for _, line in [*found, *reading]] == [ONE + b"\n", TWO[:9]], "its rest is no line of its own"
    path.write_bytes(ONE + b"\n" + TWO[:9])
    report = ran(path, tmp_path / "out", [worker])
    (_, torn) = read(tmp_path / "out")
    assert (report.failed, torn["reason"], torn["line"]) == (1, "VALIDATION", 2)
    path.write_bytes(ONE + b"\n" + TWO + b"\n")
    for order in ("input", "completion"):
        report = ran(path, tmp_path / "out", [worker], order=order)
        assert (report.failed, report.written) == (0, 2)
        assert [(row["id"], "code" in row) for row in read(tmp_path / "out")] == [(1, False), (2, False)]
    assert len(worker.generations) == 2


def test_a_broken_last_line_is_the_same_when_a_newline_has_come_behind_it(simulated_worker, tmp_path):
    worker = simulated_worker("vllm")
    for data in (b"{torn", b"{torn\n", b"{torn\r\n" + ONE):
        (tmp_path / "in").write_bytes(data)
        report = ran(tmp_path / "in", tmp_path / "out", [worker])
    assert (report.before, report.failed, report.written) == (1, 1, 2)


def test_an_answer_stays_when_its_row_is_gone(simulated_worker, tmp_path):
    worker = simulated_worker("vllm")
    (tmp_path / "in").write_bytes(ONE + b"\n" + TWO + b"\n")
    ran(tmp_path / "in", tmp_path / "out", [worker])
    (tmp_path / "in").write_bytes(TWO + b"\n")
    for order in ("input", "completion"):
        assert ran(tmp_path / "in", tmp_path / "out", [worker], order=order).written == 2


def test_ids_of_every_kind_are_keys_of_their_own(simulated_worker, tmp_path):
    ids = ["1", "1.0", '"1"', "true", '""', "[1]", '{"b":1,"a":2}', '"\\u00e9"', '"e\\u0301"', "0", "1" * 30, "1" * 31]
    given = "".join(f'{{"id":{one},"prompt":"a","max_tokens":1}}\n' for one in ids)
    (tmp_path / "in").write_text(given)
    report = ran(tmp_path / "in", tmp_path / "out", [simulated_worker("vllm")])
    assert (report.failed, report.duplicates) == (0, 0)
    found = read(tmp_path / "out")
    assert [json.dumps(row["id"]) for row in found] == [json.dumps(json.loads(one)) for one in ids]


def test_a_row_of_fifty_megabytes(simulated_worker, tmp_path):
    (tmp_path / "in").write_text(json.dumps({"id": 1, "prompt": "a", "mine": "x" * 50_000_000}) + "\n" + TWO.decode())
    worker = simulated_worker("vllm")
    for _ in range(2):
        assert ran(tmp_path / "in", tmp_path / "out", [worker], parameters={"max_tokens": 1}).failed == 0
    assert [len(row.get("extra", {}).get("mine", "")) for row in read(tmp_path / "out")] == [50_000_000, 0]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("in", b"\x28\xb5\x2f\xfd....", "zstd"),
        ("in", ONE.decode().encode("utf-16"), "UTF-16"),
        ("in", b"PK\x03\x04", "zip"),
        ("in", b"PAR1....", r"end in \.parquet"),
        ("out", ONE, "is the input"),
        ("rows", ONE, r"can't be called \.gz"),
    ],
)
def test_what_can_t_be_read_or_written_is_said_at_once(tmp_path, name, data, says, simulated_worker):
    (tmp_path / name).write_bytes(data)
    output = tmp_path / ("out.gz" if name == "rows" else "out")
    with pytest.raises(ValueError, match=says):
        ran(tmp_path / name, output, [simulated_worker("vllm")])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folders_are_no_files(tmp_path, simulated_worker):
    rows(tmp_path / "in", 1)
    (tmp_path / "folder").mkdir()
    for source, output in [("folder", "out"), ("in", "folder")]:
        with pytest.raises(IsADirectoryError):
            ran(tmp_path / source, tmp_path / output, [simulated_worker("vllm")])
    with pytest.raises(FileNotFoundError):
        ran(tmp_path / "in", tmp_path / "nothing" / "out", [simulated_worker("vllm")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "in"]


def test_gzip_that_is_cut_off_ends_the_run_which_keeps_what_it_has(simulated_worker, tmp_path):
    packed = gzip.compress("".join(f'{{"id":{n},"prompt":"{n:064x}","max_tokens":1}}\n' for n in range(9)).encode(), 0)
    (tmp_path / "in.gz").write_bytes(packed[:-200])
    worker = simulated_worker("vllm")
    with pytest.raises(OSError, match="gzip can't be read"):
        ran(tmp_path / "in.gz", tmp_path / "out", [worker])
    (tmp_path / "in.gz").write_bytes(packed)
    assert ran(tmp_path / "in.gz", tmp_path / "out", [worker]).written == 9


def test_openai_lines_of_other_routes_are_failed_rows(simulated_worker, tmp_path):
    given = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "max_tokens": 1}},
        {"custom_id": "b", "method": "POST", "url": "/v1/embeddings", "body": {"prompt": "x"}},
        {"custom_id": "c", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}},
        {"custom_id": "d", "id": 7, "prompt": "x", "max_tokens": 1},
    ]
    (tmp_path / "in").write_text("".join(json.dumps(one) + "\n" for one in given))
    worker = simulated_worker("vllm")
    ran(tmp_path / "in", tmp_path / "out", [worker])
    found = read(tmp_path / "out")
    assert [(row["id"], row.get("reason")) for row in found] == [
        ("a", None),
        ("b", "VALIDATION"),
        ("c", "VALIDATION"),
        ("d", None),
    ]
    assert found[3]["extra"] == {"id": 7}, "the key is one, the other its caller's own"
    assert len(worker.generations) == 2


@pytest.mark.parametrize("at", ["the journal", "the output"])
def test_a_stop_is_heard_while_much_is_read(simulated_worker, tmp_path, at):
    worker = simulated_worker("vllm", slots=8)
    rows(tmp_path / "in", 20)
    if at == "the journal":
        ran(tmp_path / "in", tmp_path / "out", [worker])
        (tmp_path / "out").unlink()
    with worker.connect() as adapter:
        job = Batch(tmp_path / "in", tmp_path / "out", [adapter], options=Options(order="completion"), disk=QUICK)
        if at == "the journal":
            job.stop()  # a signal that comes before its run has begun counts, too
        else:
            answer = job._answer

            def answered(*given):
                outcome = answer(*given)
                job.stop()
                return outcome

            job._answer = answered
        report = job.run()
    assert (report.outcome, report.written) == (Outcome.INTERRUPTED, None)
    assert not (tmp_path / "out").exists()
    assert ran(tmp_path / "in", tmp_path / "out", [worker]).written == 20
    assert len(worker.generations) == 20


def test_parquet_with_nulls_nested_columns_and_large_strings(simulated_worker, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "id": pyarrow.array([1, None, 3, 4], pyarrow.int64()),
            "prompt": pyarrow.array(["a", "b", None, "d"], pyarrow.large_string()),
            "stop": pyarrow.array([["x", "y"], None, [], None]),
            "mine": pyarrow.array([{"a": [1, None]}, None, {"a": []}, {"a": [2]}]),
            "when": pyarrow.array([1, None, 2, 3], pyarrow.timestamp("us")),
            "bytes": pyarrow.array([b"\xff", None, b"", b"x"]),
            "temperature": pyarrow.array([0.5, 1.0, None, float("nan")]),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    report = ran(tmp_path / "in.parquet", tmp_path / "out", [simulated_worker("vllm")], parameters={"max_tokens": 1})
    found = read(tmp_path / "out")
    assert [row.get("message") for row in found][:3] == [None, None, "the row has no prompt"]
    assert "temperature" in found[3]["message"]
    assert (found[0]["extra"]["mine"], len(found[1]["id"])) == ({"a": [1, None]}, 20)
    assert (report.failed, report.written) == (2, 4)
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"Parquet|parquet"):
        ran(tmp_path / "in.parquet", tmp_path / "out2", [simulated_worker("vllm")])
