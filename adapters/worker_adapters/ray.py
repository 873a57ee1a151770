"""Ray Data: a callable for `map_batches` whose actors hold a pool, and files that hold each row once.

    ds.map_batches(Generate, fn_constructor_kwargs={"workers": [connect("vllm", url) for url in urls]}, concurrency=2)

Nothing here imports Ray: batches are mappings of columns, and everything is pickled by its configuration.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isnan
from pathlib import Path
from typing import Any

import attrs

from .api import Adapter, Stream, StreamCancelledError, WorkerError
from .batch.rows import Row, Template, identify, row_of
from .pool import Named, Pool
from .runtime import as_completed

__all__ = ["ANSWER", "Generate", "KeyedFiles", "rows_of"]

ANSWER = (
    "id",
    "text",
    "finish_reason",
    "tokens_in",
    "tokens_out",
    "seed",
    "engine",
    "worker",
    "attempts",
    "code",
    "reason",
    "message",
)
"""The columns of an answer; `code`, `reason` and `message` are those of a row that failed."""


class Generate:
    """Answers the rows of a batch: each column of a field of GenerateRequest is that of its rows, `id` is their key.

    `workers`: adapters, a Pool, or Named. `parameters`: fields that rows do not say themselves. `template`: renders a column
    `messages`. `failed_rows`: the share of a batch's rows that may fail before the batch does, which Ray then tries again.
    What else is given goes to `Pool`. All streams of a batch are on the calling thread; call it from several threads for
    several batches at once. A row that fails is a row.
    """

    def __init__(
        self,
        workers: Iterable[Adapter] | Pool | Named,
        *,
        parameters: Mapping[str, Any] | None = None,
        template: Template | None = None,
        failed_rows: float = 1.0,
        **options: Any,
    ) -> None:
        self.pool: Pool = workers if isinstance(workers, Pool) else Pool(workers, **options)
        self._parameters = dict(parameters or {})
        self._template = template
        self._failed_rows = failed_rows

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with the columns of ANSWER, its rows in their order. Blocks; raises WorkerError (see `failed_rows`)."""
        columns = _columns(batch)
        rows = [self._row(number, fields) for number, fields in enumerate(_rows(columns))]
        answers: list[dict[str, Any]] = [{} for _ in rows]
        for number, answer in self._answered(rows):
            answers[number] = answer
        failed = [answer for answer in answers if answer.get("code")]
        if len(failed) > self._failed_rows * len(answers):
            raise RuntimeError(f"{len(failed)} of {len(answers)} rows failed, the first: {failed[0]['message']}")
        return columns | {name: [answer.get(name) for answer in answers] for name in ANSWER}

    def _row(self, number: int, fields: Mapping[str, Any]) -> Row:
        return row_of(number, fields, identify(fields), parameters=self._parameters, template=self._template)

    def _answered(self, rows: Sequence[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
        under_way: dict[Stream, Row] = {}
        refused: list[tuple[int, dict[str, Any]]] = []

        def submitted() -> Iterator[Stream]:
            for row in rows:
                if (stream := self._submitted(row, refused)) is not None:
                    under_way[stream] = row
                    yield stream

        for stream in as_completed(submitted()):
            row = under_way.pop(stream)
            yield row.number, _answer(row, stream)
        yield from refused

    def _submitted(self, row: Row, refused: list[tuple[int, dict[str, Any]]]) -> Stream | None:
        if row.request is None:
            why = {"code": "INVALID_PARAMS", "reason": "VALIDATION", "message": row.refused or ""}
            refused.append((row.number, {"id": row.id, "attempts": 0, **why}))
            return None
        # A name of its own for each time that it is asked for: a batch may hold a row twice, and a retry come early.
        request = attrs.evolve(row.request, task_id=f"{row.request.task_id}-{os.urandom(4).hex()}")
        try:
            return self.pool.submit(request, block=True)
        except WorkerError as error:
            refused.append((row.number, _failed(row, error)))
            return None


def _answer(row: Row, stream: Stream) -> dict[str, Any]:
    try:
        completion = stream.result()
    except WorkerError as error:
        return _failed(row, error)
    except StreamCancelledError:
        return {"id": row.id, "code": "INTERNAL", "reason": "ADAPTER_CLOSED", "message": "the pool was closed"}
    end, started = completion.end, completion.started
    return {
        "id": row.id,
        "text": completion.text,
        "finish_reason": None if completion.finish_reason is None else str(completion.finish_reason),
        "tokens_in": None if end is None else end.tokens_in,
        "tokens_out": completion.tokens_out,
        "seed": completion.seed,
        "engine": None if started is None else started.engine,
        "worker": stream.replica_id,
        "attempts": None if started is None else started.attempt,
    }


def _failed(row: Row, failed: WorkerError) -> dict[str, Any]:
    error = failed.error
    told = {"code": str(error.code), "reason": str(error.reason), "message": error.message}
    return {"id": row.id, "engine": error.engine, "worker": error.replica_id, "attempts": error.attempts, **told}


def _columns(batch: Any) -> dict[str, Any]:
    """Of a mapping of arrays or lists, or of a table of Arrow or Pandas: Ray's three formats of a batch."""
    if isinstance(batch, Mapping):
        return dict(batch)
    return dict(batch.to_pydict() if hasattr(batch, "to_pydict") else batch.to_dict("list"))


def _rows(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    plain = {name: [_plain(value) for value in values] for name, values in columns.items()}
    for values in zip(*plain.values(), strict=True):
        yield {name: value for name, value in zip(plain, values, strict=True) if value is not None}


def _plain(value: Any) -> Any:
    """A number of an array, or an array in one, as Python's own."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and isnan(value) else value  # NaN: what tables have where there is none


class KeyedFiles:
    """A sink that holds each row once, however often it is written: a file of JSON lines for each batch, named by its keys.

    A batch that Ray runs again writes the same file again. Where it has cut the rows into other batches meanwhile,
    `rows_of` reads each key once. Files appear whole. Call it with a batch, as `map_batches` does.
    """

    def __init__(self, folder: str | os.PathLike[str], *, key: str = "id") -> None:
        self.folder: Path = Path(folder)
        self.key = key

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Write it; a row that says where, and how many."""
        rows = list(_rows(_columns(batch)))
        digest = blake2b(digest_size=16)
        for row in rows:
            digest.update(json.dumps(row[self.key], sort_keys=True).encode() + b"\n")
        path = self.folder / f"{digest.hexdigest()}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".part", delete=False, encoding="utf-8") as part:
            try:
                part.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                part.flush()
                os.fsync(part.fileno())
                Path(part.name).replace(path)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        return {"path": [str(path)], "rows": [len(rows)]}


def rows_of(folder: str | os.PathLike[str], *, key: str = "id") -> Iterator[dict[str, Any]]:
    """Each row of these files once, by its key, an answer before a failure. Holds the keys in memory."""
    paths = sorted(Path(folder).glob("*.jsonl"))
    found: dict[str, bool] = {}  # whether it was given as an answer
    for answers in (True, False):
        for path in paths:
            for row in _lines(path):
                name = json.dumps(row[key], sort_keys=True)
                if (row.get("code") is None) is answers and name not in found:
                    found[name] = answers
                    yield row


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        load: Callable[[str], dict[str, Any]] = json.loads
        yield from map(load, file)
