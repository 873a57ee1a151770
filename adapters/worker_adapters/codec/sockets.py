"""Reads and writes of a socket that never wait, whatever its mode, in C (`csrc/cpython.h`).

They keep the interpreter lock. Who gives it up for a call that is over in microseconds stands in line for it again, behind
all threads that want it: with sixteen of them that was two fifths of what a short request cost (benchmarks/bench_short.py).
"""

from __future__ import annotations

from collections.abc import Callable

from . import _native

__all__ = ["is_silent", "read_at_most", "receive", "transmit"]

receive: Callable[[int, int], bytes | None] = _native.receive
"""What is there, at most so many bytes, and `WIRE_READ`; empty at the end, None if nothing is yet. Raises OSError."""

transmit: Callable[[int, bytes | memoryview], int] = _native.transmit
"""How much of it the kernel took, 0 if it would block. Raises OSError."""

is_silent: Callable[[int], bool] = _native.is_silent
"""Whether nothing came, be it an end or an error. It stays to be read."""

read_at_most: Callable[[int], None] = _native.read_at_most
"""Have a read of `SSEDecoder.puller` that does not wait take so many bytes at most, from now on. Raises ValueError."""
