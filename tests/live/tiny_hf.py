"""A Llama checkpoint of 1.7 MB with random weights and a tokenizer of our own: nothing is downloaded.

python tests/live/tiny_hf.py [--ctx 8192]    print the folder's path
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import cache
import vllm_install

__all__ = ["model"]

WRITER = Path(__file__).with_name("tiny_hf_writer.py")


def model(ctx: int = 2048) -> Path:
    """Return the checkpoint's folder, writing it first if the cache lacks it. Installs the engine, which writes it."""
    parts = {"writer": hashlib.sha256(WRITER.read_bytes()).hexdigest(), "ctx": ctx, "engine": vllm_install.VERSION}

    def make(work: Path, out: Path) -> None:
        subprocess.run([str(vllm_install.python()), str(WRITER), str(out / "model"), str(ctx)], check=True, cwd=work)

    return cache.ensure("tiny-hf", parts, make) / "model"


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Print the folder of a tiny random checkpoint, making it if need be.")
    parser.add_argument("--ctx", type=int, default=2048)
    sys.stdout.write(f"{model(parser.parse_args(argv).ctx)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
