"""A llama-architecture model of 0.6 MB with random weights and a vocabulary of our own: nothing is downloaded.

    python tests/live/tiny_gguf.py [--ctx 65536] [--eos 60] [--invalid] [--seed 2] [--long 4096]    print the file's path

What it says is noise, but noise with the shapes that adapters have to survive: words, single characters, whole
multi-byte characters, and characters that come out byte token by byte token.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import sys
from pathlib import Path

import cache

__all__ = ["Options", "long_token", "model"]

WRITER = Path(__file__).with_name("tiny_gguf_writer.py")
FILE = "tiny.gguf"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What varies between models: each combination is a file of its own, the same bytes every time."""

    ctx: int = 4096  # the length the model claims to be trained for, in tokens
    eos: float = 1.0  # logits taken off the end of text: 1 ends most replies after 30 to 600 tokens, 60 none
    invalid: bool = False  # also emit a stray 0xFF now and then, which is not UTF-8 wherever it stands
    seed: int = 1  # of the weights
    long: int = 0  # characters of one more token, long_token(): a prompt of megabytes is then a few hundred tokens


def model(options: Options | None = None) -> Path:
    """Return the model file, writing it first if the cache lacks it (a second; needs the extra "live")."""
    options = options or Options()

    def make(work: Path, out: Path) -> None:
        # Only the writer imports numpy and gguf: collecting the live tests must work without the extra.
        from tiny_gguf_writer import write  # noqa: PLC0415

        write(out / FILE, options)

    return cache.ensure("tiny-gguf", _parts(options), make) / FILE


def long_token(options: Options) -> str:
    """The token of `options.long` characters; it is recognised in prompts and never generated."""
    return "<" + "long" * (options.long // 4) + ">"


def _parts(options: Options) -> dict[str, str | float | bool]:
    versions = {name: importlib.metadata.version(name) for name in ("gguf", "numpy")}
    return {"writer": hashlib.sha256(WRITER.read_bytes()).hexdigest(), **versions, **dataclasses.asdict(options)}


def main(argv: list[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    default = Options()
    parser = argparse.ArgumentParser(description="Print the path of a tiny random model, making it first if need be.")
    parser.add_argument("--ctx", type=int, default=default.ctx)
    parser.add_argument("--eos", type=float, default=default.eos)
    parser.add_argument("--invalid", action="store_true")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--long", type=int, default=default.long)
    sys.stdout.write(f"{model(Options(**vars(parser.parse_args(argv))))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
