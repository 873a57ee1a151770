"""Instructions of a burst with metrics and logs on, beside one without: a count, so no machine is too noisy for it.

    python benchmarks/observed_instructions.py      exit 1 if there are more than 3 % more

A client's process under valgrind's callgrind, all its threads included; what one burst costs is what more of them cost, so
that neither the interpreter's start nor imports count. The logs are written, in DEBUG. The counters are brought up to date
with the first read and at the end: in the 10 ms of a burst the clock has that done no more often, but under valgrind it
takes a minute. Each count is the least of several: what comes in one read differs, and what differs is more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from contest import server

TOKENS = 20_000
FEW, MANY = 1, 2  # bursts
ROUNDS = 2
MORE = 1.03
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  -- a folder's name is all
RUN = """
import sys
from clients import CLIENTS
from worker_adapters.runtime import report
report.PROGRESS_SECONDS = 3600.0
_, name, wire, port, bursts = sys.argv
with CLIENTS[name](wire, int(port)) as client:
    for _ in range(int(bursts)):
        assert client.count({tokens}) == {tokens}
"""


def counted(name: str, wire: str, port: int, bursts: int) -> int:
    """Instructions of a process that reads so many bursts."""
    run = [sys.executable, "-c", RUN.format(tokens=TOKENS), name, wire, str(port), str(bursts)]
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *run]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"callgrind counted nothing: {done.stderr.strip()[-1000:]}")
    return int(found[1])


def burst(name: str, wire: str, port: int) -> float:
    """Instructions of one burst."""
    most, least = (min(counted(name, wire, port, bursts) for _ in range(ROUNDS)) for bursts in (MANY, FEW))
    return (most - least) / (MANY - FEW)


def main() -> int:
    """See the module's docstring."""
    if shutil.which("valgrind") is None:
        print("instructions not counted: valgrind is not installed")
        return 0
    worst = 0.0
    for wire in sys.argv[1:] or ("vllm", "llamacpp"):
        with server(wire) as port:
            plain, observed = (burst(name, wire, port) for name in ("stream", "stream, observed"))
        worst = max(worst, observed / plain)
        shown = f"{plain / TOKENS:,.0f} instructions a token, observed {observed / TOKENS:,.0f}"
        print(f"{wire}: {shown}: {observed / plain - 1:+.2%}", flush=True)
    return worst > MORE


if __name__ == "__main__":
    sys.exit(main())
