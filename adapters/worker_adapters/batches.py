"""From the payloads of one read after another to runs, for a dialect that looks at each payload by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .dialect import Fault, Payload, Run

__all__ = ["runs_of"]


def runs_of(batches: Iterator[Sequence[Payload]], read: Callable[[bytes, Run], bool]) -> Iterator[Run]:
    """A run for each batch, until `read` says that the stream is over. See Decoder for what comes before a Fault.

    `read` adds to the run what a payload with data says.
    """
    for batch in batches:
        run: Run = []
        over = False
        try:
            for payload in batch:
                data = payload if isinstance(payload, bytes) else payload.data
                if data and (over := read(data, run)):
                    break
        except Fault:
            if run:
                yield run
            raise
        yield run
        if over:
            return
