"""Resuming a job of very many rows: how long it takes, and how much memory.

    python -m tests.batch.resume --rows 10000000

Writes an input and a journal in which all rows but the last hundred are answered, and then takes the job up.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from worker_adapters import connect
from worker_adapters.batch import Batch
from worker_adapters.batch.disk import DISK
from worker_adapters.batch.header import header_of
from worker_adapters.batch.journal import Journal
from worker_adapters.batch.keys import Keys, digest_of

LEFT = 100
TEXT = "x" * 40


def written(folder: Path, rows: int) -> None:
    journal = Journal(folder / "out.journal", DISK)
    journal.open()
    journal.recover(header_of({}, [], None), Keys())
    with (folder / "in").open("w") as file:
        for n in range(rows):
            file.write(f'{{"id":{n},"prompt":"p{n}"}}\n')
            if n < rows - LEFT:
                journal.add(digest_of(b"i%d" % n), b'{"id":%d,"text":"%s"}' % (n, TEXT.encode()), failed=False)
            if n % 100_000 == 0:
                journal.sync()
        file.flush()
        os.fsync(file.fileno())  # what this has written is no work of the run that is timed
    journal.close()
    DISK.sync_folder(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder, options.rows)
        first: list[tuple[float, float, float]] = []
        behind = queued()
        begun, used = time.monotonic(), time.process_time()

        with connect("mock", "mock://local") as adapter:
            submit = adapter.submit

            def submitted(*args: object, **more: object) -> object:
                if not first:
                    first.append((time.monotonic() - begun, time.process_time() - used, queued() - behind))
                return submit(*args, **more)  # type: ignore[arg-type]  # as they came

            batch = Batch(folder / "in", folder / "out", [Watched(adapter, submitted)])
            report = batch.run()
        whole, memory = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (ready, processor, waited) = first[0]
    sys.stdout.write(
        f"{options.rows} rows, {report.before} of them answered: the first of the rest was sent after {ready:.1f} s "
        f"({processor:.1f} s of processor, {waited:.1f} s others had it), the output "
        f"was there after {whole:.1f} s; {memory:.0f} MiB at most\n"
    )
    assert report.written == options.rows
    assert ready - waited < 60.0 * max(1.0, options.rows / 10_000_000)
    assert memory < 1024


def queued() -> float:
    """Seconds for which this thread could have run, and others did."""
    stat = Path("/proc/thread-self/schedstat")
    return int(stat.read_text().split()[1]) / 1e9 if stat.exists() else 0.0


class Watched:
    """An adapter that tells when it is first asked."""

    def __init__(self, adapter: object, submit: object) -> None:
        self.submit = submit
        self.properties = adapter.properties  # type: ignore[attr-defined]  # an adapter's


if __name__ == "__main__":
    main()
