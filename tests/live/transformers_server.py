"""A real `transformers serve` for the tests of a module: Hugging Face's own server before a tiny Llama on the CPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import cache
from locked_venv import TRANSFORMERS
from server_process import HOST, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TransformersServer"]

WRITER = Path(__file__).with_name("tiny_hf_writer.py")
READY = 150.0  # seconds; it imports for 10 to 30


def model(ctx: int = 4096) -> Path:
    """A checkpoint in the cache, written by the interpreter that has the engine."""
    parts = {"writer": hashlib.sha256(WRITER.read_bytes()).hexdigest(), "ctx": ctx, **TRANSFORMERS.parts}

    def make(work: Path, out: Path) -> None:
        subprocess.run([str(TRANSFORMERS.python()), str(WRITER), str(out / "model"), str(ctx)], check=True, cwd=work)

    return cache.ensure("tiny-transformers", parts, make) / "model"


class TransformersServer(ServerProcess):
    """Context manager around one `transformers serve`, pinned to a model. It opens its port when that is loaded."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port, wait=True, ready_timeout=READY)

    def command(self) -> Sequence[str]:
        """One model, on the CPU."""
        where = ["--host", HOST, "--port", str(self.port), "--device", "cpu"]
        return [str(TRANSFORMERS.python()), "-m", "transformers.cli.transformers", "serve", str(model()), *where]

    def environment(self) -> Mapping[str, str]:
        """No hub, and one thread: what is drawn is then the same each time."""
        hub = cache.root() / "transformers-hub"
        hub.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "PYTHONPATH"))}
        return {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(hub), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
