"""Rows of JSON Lines through Ray Data, answered by a pool of workers, each row once in the output.

    pip install 'worker-adapters[ray]'
    python examples/ray_data.py prompts.jsonl answers --worker vllm=http://10.0.0.7:8000 --worker vllm=http://10.0.0.8:8000

A row is an object with a "prompt", an "id" and any other field of GenerateRequest. Run it again after a crash: rows that
have their answer are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ray

from worker_adapters import Limits, connect
from worker_adapters.ray import Generate, KeyedFiles, rows_of


def main() -> None:
    """Answer what has no answer yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worker", action="append", required=True, metavar="ENGINE=URL")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=64, help="streams on each worker, of each actor")
    parser.add_argument("--batch-size", type=int, default=512)
    asked = parser.parse_args()

    done = {row["id"] for row in rows_of(asked.folder) if row.get("code") is None}
    rows = [row for row in map(json.loads, asked.source.open(encoding="utf-8")) if row["id"] not in done]
    print(f"{len(rows)} rows to do, {len(done)} are done")
    if not rows:
        return

    limits = Limits(max_in_flight=asked.in_flight)
    given = [worker.partition("=") for worker in asked.worker]
    workers = [connect(engine, url, replica_id=url, limits=limits) for engine, _, url in given]
    answers = ray.data.from_items(rows).map_batches(
        Generate,
        fn_constructor_kwargs={"workers": workers, "parameters": {"max_tokens": 64}},
        batch_size=asked.batch_size,
        compute=ray.data.ActorPoolStrategy(size=asked.actors),
        num_cpus=0.1,  # it waits for the network
    )
    written = answers.map_batches(KeyedFiles(asked.folder), batch_size=asked.batch_size).take_all()
    print(f"{sum(file['rows'] for file in written)} rows written to {len(written)} files in {asked.folder}")


if __name__ == "__main__":
    main()
