"""The hand-over of runs of events from one thread to another, in C (`csrc/handover.c`).

Each operation is one step: nobody, no signal handler either, finds a run between its queue and the consumer's hand.

- `put(run, released) -> ahead`: the producer's. A run (a list), or an event by itself; how many events the consumer has not
  finished with. What that waits at, if it does, is put into the list, for the caller to release; None: it is released.
- `take(semaphore, seconds) -> hand`: the consumer's. A list's iterator: the rest of the last run if an exception came before
  it was received, else the next one, and the last counts as finished with and is emptied. None: there is none. Waits for
  one at the thread's semaphore, once, if one is given.
- `finished()`: the consumer's. It has what it was given; whether there is more.
- `wake()`: have `take` come back, now or when it would wait next. Any thread.
- `clear()`: take back what is in the consumer's hand. Any thread.
- `parked`: called, on the consumer's thread, whenever it has finished with a run. The producer's.
- `ahead`, `received()`, `queued()`, `len()`: events not finished with, or taken; runs in the queue; how many. Any thread.
"""

from __future__ import annotations

from . import _native

__all__ = ["Handover"]

Handover = _native.Handover
