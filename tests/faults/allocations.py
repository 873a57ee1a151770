"""From the n-th allocation of a process on, so many fail: CPython's own injector, which counts. No stream may be left.

    python -m tests.faults.allocations --most 400 --step 1        make allocations

Each n, in each way to run a stream, is a forked child that goes on afterwards: its streams are over and let go of, the next
ones are whole, and closing takes no time. Prints what was left where; exits with 1 if there was anything. A child that is
ended by a signal is counted and is none of ours: C code of others does not look whether it was given memory.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from typing import Any

from worker_adapters import StreamCancelledError, WorkerError, dump, merge
from worker_adapters.transport.scripted import Script

from ..runtime.dialects import adapter, frames, request, texts

__all__ = ["WAYS", "main"]

PATIENCE = 60.0  # seconds: a child takes some hundredths of one
WIDTHS = (1, 2, 3, 5, 12, 40)


def _close(a: Any) -> None:
    stream = a.submit(request())
    a.close()
    list(stream)


WAYS = {
    "submit": lambda a: list(a.submit(request())),
    "stream": lambda a: list(a.stream(request())),
    "collect": lambda a: a.submit(request(), collect=True).result(),
    "generate": lambda a: a.generate(request()),
    "merge": lambda a: list(merge([a.submit(request())])),
    "cancel": lambda a: a.submit(request()).cancel(),
    "drop": lambda a: a.submit(request()) and None,
    "dropped half read": lambda a: next(a.stream(request())) and None,
    "close": _close,
}


def tried(way: str, n: int, width: int) -> None:
    """In a child. Raises AssertionError for what is left."""
    logging.disable()
    threading.excepthook = sys.unraisablehook = lambda _args: None
    a = adapter(*[Script(steps=[frames("ta"), frames("tb"), frames(".")])] * 6)
    for warm in (a.submit, a.stream):
        list(warm(request()))
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    injector = importlib.import_module("_testcapi")
    try:
        injector.set_nomemory(n, n + width)
        WAYS[way](a)
    except (
        MemoryError,
        RuntimeError,
        SystemError,
        WorkerError,
        StreamCancelledError,
    ):  # SystemError: of CPython itself
        pass
    finally:
        injector.remove_mem_hooks()
    gc.collect()
    assert a.drain(PATIENCE / 4), f"not over: {dump()}{list(a.places.driven)}"
    if way != "close":
        assert texts(a.submit(request())) == a.generate(request()).text == "ab"
    began = time.monotonic()
    a.close()
    assert time.monotonic() - began < 1.5, "closing waited"  # 2 s, where anything is left


def in_child(way: str, n: int, width: int) -> int:
    """What it exits with; a negative signal."""
    child = os.fork()
    if not child:
        code = 1
        try:
            tried(way, n, width)
            code = 0
        except BaseException:  # noqa: BLE001  -- told
            with contextlib.suppress(BaseException):
                sys.stdout.write(f"{way}, from {n} on, {width} of them:\n{traceback.format_exc()}\n")
                sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--width", type=int, choices=WIDTHS, action="append")
    args = parser.parse_args()
    ended: Counter[str] = Counter()
    for way in args.way or WAYS:
        for width in args.width or WIDTHS:
            for n in range(width % args.step, args.most, args.step):
                code = in_child(way, n, width)
                ended["left something" if code > 0 else "by a signal" if code else "well"] += 1
    sys.stdout.write(f"{dict(ended)}\n")
    return 1 if ended["left something"] else 0


if __name__ == "__main__":
    sys.exit(main())
