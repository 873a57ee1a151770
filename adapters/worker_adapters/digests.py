"""Digests of model files, for callers who see them: what `Identity(model_digest=…)` is given."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from pathlib import Path

__all__ = ["digest_file"]

KINDS = ("*.safetensors", "*.gguf")
REMEMBERED = 4096  # files
# Seconds: a file may change again within the same tick of the clock that its mtime is read from. Ticks have some
# milliseconds on a local disk, a second on some network shares, two on FAT.
YOUNG = 2.5

_known: OrderedDict[tuple[int, int, int, int], str] = OrderedDict()


def digest_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a model, in hex: of a file (a GGUF, say), or of a folder of safetensors or GGUF shards.

    A folder's is that of the lines `<sha256>  <name>` of its shards, sorted by name (`sha256sum *.safetensors | sha256sum`
    in the C locale), so that a renamed or missing shard is another model. Give the folder of a GGUF that is split, too: a
    file's digest is of that file. Blocks while it reads: a file is read again only if its inode, mtime or size have changed.
    Raises OSError.
    """
    where = Path(path)
    if not where.is_dir():
        return _of_file(where)
    for kind in KINDS:
        if shards := sorted(where.glob(kind), key=lambda shard: os.fsencode(shard.name)):
            lines = (f"{_of_file(shard)}  {shard.name}\n" for shard in shards)
            return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    raise FileNotFoundError(f"{where} has neither safetensors nor GGUF files")


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        before = _state(file.fileno())
        found = _known.get(before)
        if found is None:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if _state(file.fileno()) == before and time.time_ns() - before[2] > YOUNG * 1e9:
                _known[before] = found
                while len(_known) > REMEMBERED:
                    _known.popitem(last=False)
    return found


def _state(descriptor: int) -> tuple[int, int, int, int]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
