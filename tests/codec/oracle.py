"""The event stream interpretation of the HTML standard, as naively as it can be said: whole input, lines, fields.

Written from the standard alone and sharing nothing with the codec, so that the two can disagree.
"""

import re
from typing import NamedTuple


class Interpretation(NamedTuple):
    events: list[tuple[bytes, bytes, bytes, int | None]]
    last_event_id: bytes
    retry: int | None
    comments: int
    unknown: list[tuple[bytes, bytes]]
    undispatched: list[tuple[bytes, bytes]]


def interpret(stream: bytes) -> Interpretation:
    *lines, rest = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    events, unknown, block, data = [], [], [], []
    last_id = id_buffer = event = b""
    retry = block_retry = None
    for line in lines:
        if not line:
            last_id = id_buffer
            if data:
                events.append((event or b"message", b"\n".join(data), last_id, block_retry))
            event, data, block, block_retry = b"", [], [], None
        elif not line.startswith(b":"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            block.append((name, value))
            if name == b"event":
                event = value
            elif name == b"data":
                data.append(value)
            elif name == b"id" and b"\0" not in value:
                id_buffer = value
            elif name == b"retry" and re.fullmatch(rb"[0-9]+", value):
                retry = block_retry = min(int(value), 2**64 - 1)
            elif name not in (b"id", b"retry"):
                unknown.append((name, value))
    if rest and not rest.startswith(b":"):
        name, _, value = rest.partition(b":")
        block.append((name, value.removeprefix(b" ")))
    comments = sum(line.startswith(b":") for line in [*lines, rest])
    return Interpretation(events, last_id, retry, comments, unknown, block)
