"""`python -m worker_adapters`: the command line."""

from __future__ import annotations

import sys

__all__ = ["start"]


def start() -> int:
    """Whoever types Ctrl-C while the command line is still being loaded gets no traceback, either."""
    try:
        from .cli import main  # noqa: PLC0415  -- see above

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("worker-adapters: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(start())
