"""`python -m worker_adapters`: the command line."""

from __future__ import annotations

import sys

__all__ = ["start"]

INTERRUPTED = 130
LINE = "worker-adapters: interrupted\n"


def start() -> int:
    """The command line in a process of its own. Whoever types Ctrl-C gets no traceback, however early or late that is."""
    try:
        import signal  # noqa: PLC0415  -- everything is loaded in here: it takes a moment, in which Ctrl-C may come

        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so where a shell has it ignored
        if heard:
            signal.signal(signal.SIGINT, _at_once)
        from .cli import main  # noqa: PLC0415  -- as above

        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = int(main())
        if heard:
            signal.signal(signal.SIGINT, _at_once)  # the interpreter's own end is not to be interrupted
    except KeyboardInterrupt:
        _at_once()
    return status


def _at_once(*_signal: object) -> None:
    """Without an exception, which modules that are half loaded do not bear, those written in C least of all."""
    import os  # noqa: PLC0415  -- as above

    try:
        os.write(2, LINE.encode())
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(start())
