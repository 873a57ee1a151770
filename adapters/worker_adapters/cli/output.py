"""What the command line shows. Data go to standard output, everything else to standard error.

Tables are drawn by rich on a terminal (`pip install worker-adapters[cli]`), and are plain columns without one or without
rich; rich heeds NO_COLOR. An output that is full, closed or short of characters never ends in a traceback.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import stat
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

FEW = 3  # columns
PAGE = 4096  # bytes, of which a pipe takes one at least once it says that it takes something
PATIENCE = 1.0  # seconds that what is for people waits for somebody to read
GAP = 2  # between two columns

# What moves, colours or turns round what a terminal shows: controls, and the marks of bidirectional text.
_obeyed = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]").sub

__all__ = [
    "complain",
    "emit",
    "emit_json",
    "emit_record",
    "emit_table",
    "fits",
    "flush",
    "give_up_output",
    "is_unicode",
    "note",
    "note_record",
    "prepare_console",
    "read_input",
    "takes",
    "terminal",
    "worded",
]


def prepare_console() -> None:
    """What a console has no characters for is shown as ?, and never raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_unicode() -> bool:
    """Whether standard output can show every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def terminal(*, error: bool = False) -> Console | None:
    """rich's console for standard output (or error), where that is a terminal and rich is installed; else None."""
    stream = sys.stderr if error else sys.stdout
    try:
        if stream is None or not stream.isatty():
            return None
        from rich.console import Console
    except (ImportError, ValueError):  # ValueError: it is closed
        return None
    return Console(file=stream, highlight=False)


def read_input() -> str:
    """Standard input, whole; bytes that are no text become U+FFFD."""
    if sys.stdin is None:
        return ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin.read()


def emit(text: str) -> None:
    """Data to standard output, as they are and at once. Raises OSError where it takes nothing."""
    if sys.stdout is None:  # it was closed before we began (>&-)
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """One line of JSON to standard output, in ASCII where that has no Unicode; what JSON has no word for, as text."""
    emit(json.dumps(value, ensure_ascii=not is_unicode(), default=str) + "\n")


def emit_record(rows: Mapping[str, Any], *, as_json: bool = False, times: Sequence[str] = ()) -> None:
    """What is known of one thing, name by name: two columns, or an object of JSON. None shows as -.

    `times`: which of them are Unix time; people are shown the hour.
    """
    if as_json:
        emit_json(rows)
        return
    rows = {name: _hour(value) if name in times else value for name, value in rows.items()}
    if (console := terminal()) is not None:
        _draw(console, (), [(name, _shown(value)) for name, value in rows.items()])
    else:
        emit(_two_columns(rows))


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json: bool = False) -> None:
    """Several things of a kind: a table, or an object of JSON for each, a line apiece."""
    if as_json:
        for row in rows:
            emit_json(dict(zip(columns, row, strict=True)))
        return
    texts = [[_shown(value) for value in row] for row in rows]
    lines = [list(columns), *texts]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if (console := terminal()) is not None:
        _draw_table(console, columns, texts, widths)
        return
    emit("".join(_line(line, widths) for line in lines))


def note(text: str) -> None:
    """A line for people, on standard error; where that takes nothing, nobody reads."""
    complaint = f"{text}\n"
    try:
        if sys.stderr is not None and takes(sys.stderr, len(complaint), PATIENCE):
            sys.stderr.write(complaint)
            sys.stderr.flush()
    except (OSError, ValueError):  # full, or closed
        return


def takes(stream: TextIO, size: int, seconds: float = 0.0) -> bool:
    """Whether a stream takes so much at once, or will within so many seconds. Not so: a pipe that nobody reads, a terminal
    that is held. Where it can't be told, the write will tell.
    """
    try:
        descriptor = stream.fileno()
        looks = select.poll()
        looks.register(descriptor, select.POLLOUT)
        if not looks.poll(1000 * seconds):
            return False
        return size <= PAGE or not stat.S_ISFIFO(os.fstat(descriptor).st_mode) or _has_room(descriptor, size)
    except (AttributeError, OSError, ValueError):
        return True


def _has_room(pipe: int, size: int) -> bool:
    """Whether more than a page fits for sure: those that it holds may be half empty. Raises AttributeError but on Linux."""
    import fcntl
    import termios

    held = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
    return 2 * held + size + 2 * PAGE <= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def note_record(rows: Mapping[str, Any]) -> None:
    """Two columns for people, on standard error."""
    if (console := terminal(error=True)) is not None:
        _draw(console, (), [(name, _shown(value)) for name, value in rows.items()])
    else:
        note(_two_columns(rows).rstrip("\n"))


def complain(text: str) -> None:
    """What went wrong and what to do: one line on standard error, in the name of the program.

    It may name what was typed, or a file: what a terminal would obey is spelt out.
    """
    note(f"worker-adapters: {_obeyed(lambda found: ascii(found[0])[1:-1], text)}")


def worded(error: OSError) -> str:
    """What the system said, with the file that it said it of."""
    named = "" if error.filename is None else f"{error.filename}: "
    return f"{named}{error.strerror or error}"


def flush() -> None:
    """Raise now what the interpreter would only complain of at its exit."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_output() -> None:
    """Nothing more goes to standard output: the interpreter must not complain of it at its exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # there is none
        return


def _hour(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _two_columns(rows: Mapping[str, Any]) -> str:
    width = max(map(len, rows), default=0)
    return "".join(f"  {name:<{width}}  {_shown(value)}\n" for name, value in rows.items())


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"


def _draw_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    """Side by side where there is room for it, else one below the other; of few columns the last one is prose, and wraps."""
    if fits(console, widths) or len(columns) <= FEW:
        _draw(console, columns, rows)
        return
    for place, row in enumerate(rows):
        if place:
            emit("\n")
        _draw(console, (), list(zip(columns, row, strict=True)))


def fits(console: Console, widths: Sequence[int]) -> bool:
    """Whether columns of these widths have room beside each other."""
    return sum(widths) + GAP * (len(widths) - 1) <= console.width


def _draw(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, show_header=bool(columns), box=None, pad_edge=False, padding=(0, 1))
    if not columns:
        table.add_column(style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets of a worker's are no markup
    console.print(table)
