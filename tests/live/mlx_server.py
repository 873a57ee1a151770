"""A real mlx-lm server for the tests of a module: Python's own HTTP server before a tiny Llama on the CPU."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import cache
from locked_venv import MLX
from server_process import HOST, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MlxServer"]

WRITER = Path(__file__).with_name("tiny_hf_writer.py")
READY = 120.0  # seconds; 5 to 20 on two idle cores
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"  # it asks for one, and never uses it here
)


def model(ctx: int = 4096) -> Path:
    """A checkpoint in the cache, written by the interpreter that has the engine."""
    parts = {"writer": hashlib.sha256(WRITER.read_bytes()).hexdigest(), "ctx": ctx, "template": TEMPLATE, **MLX.parts}

    def make(work: Path, out: Path) -> None:
        folder = out / "model"
        subprocess.run([str(MLX.python()), str(WRITER), str(folder), str(ctx)], check=True, cwd=work)
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": TEMPLATE}))

    return cache.ensure("tiny-mlx", parts, make) / "model"


class MlxServer(ServerProcess):
    """Context manager around one `mlx_lm.server`. Its first request compiles for as long as a minute: `warm` makes it."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port, wait=True, ready_timeout=READY)

    def command(self) -> Sequence[str]:
        """One model, and nothing of a hub."""
        where = ["--host", HOST, "--port", str(self.port)]
        return [str(MLX.python()), "-m", "mlx_lm.server", "--model", str(model()), *where]

    def environment(self) -> Mapping[str, str]:
        """No hub, and a cache of it that is there: without one /v1/models breaks off."""
        hub = cache.root() / "mlx-hub"
        (hub / "hub").mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MLX_", "PYTHONPATH"))}
        return {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(hub), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}

    def log_of_prompts(self) -> int:
        """How many prompts it has begun to read so far."""
        return self.log_text().count("Prompt processing progress: 0/")
