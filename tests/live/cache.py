"""The folder outside the repository where live tests keep what is slow to make.

An entry is a folder ``<root>/<name>-<key>``, where the key hashes everything that went into it: versions, digests,
flags, sources. Another input is another entry, so nothing here is ever stale; deleting the whole root is always safe.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ENV", "Parts", "command_line", "ensure", "find", "key", "root", "say"]

ENV = "WORKER_ADAPTERS_CACHE"
MANIFEST = "entry.json"

Parts: TypeAlias = "Mapping[str, object]"  # anything JSON can hold


def root() -> Path:
    """Where entries live: $WORKER_ADAPTERS_CACHE or ~/.cache/worker-adapters. Does not create it."""
    moved = os.environ.get(ENV)
    return Path(moved).expanduser().resolve() if moved else Path.home() / ".cache" / "worker-adapters"


def key(parts: Parts) -> str:
    """Hash the inputs of an entry; the order of the names does not matter, the order inside lists does."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(name: str, parts: Parts) -> Path | None:
    """Return the finished entry, or None. Takes no lock and creates nothing."""
    path = root() / f"{name}-{key(parts)}"
    return path if (path / MANIFEST).is_file() else None


def ensure(name: str, parts: Parts, make: Callable[[Path, Path], None]) -> Path:
    """Return the entry, making it first if it is missing.

    Blocks while another process makes the same entry. `make(work, out)` fills `out`; whatever it leaves in `work` is
    there again on the next try if this one fails or is killed, and is removed on success. What `make` raises passes
    through.
    """
    if found := find(name, parts):
        return found
    path = root() / f"{name}-{key(parts)}"
    with _locked(path):
        if found := find(name, parts):  # made by the process we waited for
            return found
        work = path.with_name(path.name + ".partial")
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        make(work, out)
        (out / MANIFEST).write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if path.exists():  # a folder without its manifest: not ours, or damaged by hand
            shutil.rmtree(path)
        out.rename(path)
        shutil.rmtree(work, ignore_errors=True)
    return path


def command_line(
    argv: list[str] | None,
    doing: str,
    *,
    name: str,
    found: Callable[[], Path | None],
    made: Callable[[], Path],
    fails: type[Exception],
) -> int:
    """The command line of what fills an entry: prints its path, made if need be; --check only looks. The exit status."""
    parser = argparse.ArgumentParser(description=f"{doing} and print its path.")
    parser.add_argument("--check", action="store_true", help="only tell (exit 0 or 1) whether the cache holds it")
    if parser.parse_args(argv).check:
        path = found()
        sys.stdout.write(f"{path}\n" if path else "")
        return 0 if path else 1
    try:
        sys.stdout.write(f"{made()}\n")
    except fails as error:
        say(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run goes on from here")
        return 130
    return 0


def say(text: str) -> None:
    """Write one line of progress to stderr: stdout is for results (paths)."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # flock, not a pid file: the kernel lets go of it when the holder dies. The file itself stays behind on purpose:
    # unlinking it would let a third process lock a new file of the same name while the second one holds the old one.
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that is making {path.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
