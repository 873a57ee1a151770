"""A pool in processes that multiprocessing starts, and after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_pool import WORDS, workers_of

pytestmark = pytest.mark.req("ADAPT-3400", socket=True)

# A file of its own: the children of spawn and forkserver import the main module again.
PROGRAM = """
import multiprocessing, os, sys
from worker_adapters import GenerateRequest, Pool, connect, merge


def ask(pool, prompts):
    requests = [GenerateRequest(prompt=prompt, max_tokens=4) for prompt in prompts]
    texts = {}
    for stream, event in merge([pool.submit(request, block=True) for request in requests]):
        if event.kind == "token":
            texts[stream] = texts.get(stream, "") + event.text
    return sorted(texts.values())


if __name__ == "__main__":
    method, *urls = sys.argv[1:]
    with Pool([connect("vllm", url, replica_id=f"r{n}") for n, url in enumerate(urls)]) as pool:
        here = ask(pool, "abc")  # so that there are connections, and threads
        held = pool.submit(GenerateRequest(prompt="on", max_tokens=4))
        if method == "fork":
            child = os.fork()
            if child == 0:
                assert pool.in_flight == 0
                assert ask(pool, "abc") == here
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        else:
            with multiprocessing.get_context(method).Pool(2) as processes:
                assert processes.starmap(ask, [(pool, "abc"), (pool, "def")]) == [here, here]
                processes.close()
                processes.join()
        assert held.result().text
    print("well")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pool_goes_to_other_processes(simulated_worker: Any, tmp_path: Path, method: str) -> None:
    workers = workers_of(simulated_worker, 2, model="m")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, program, method, *(worker.url for worker in workers)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr
    assert sum(len(worker.generations) for worker in workers) == (7 if method == "fork" else 10)
    assert WORDS
