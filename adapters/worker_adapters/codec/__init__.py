"""The codecs of the hot path: response bodies to content, event streams to frames, an event back to bytes.

No clock and no threads; no I/O but `SSEDecoder.puller` and `sockets`, which use a socket that their caller owns. The work is
done in C (`csrc/`); importing this package loads the compiled extension.
"""

from .build import encode, encode_lines
from .sse import WIRE_BLOCKED, WIRE_MORE, WIRE_TIME, WIRE_WOKEN, EventTooLargeError, Frame, SSEDecoder
from .wire import BodyError, CutOffError, Wire, read_room

__all__ = [
    "WIRE_BLOCKED",
    "WIRE_MORE",
    "WIRE_TIME",
    "WIRE_WOKEN",
    "BodyError",
    "CutOffError",
    "EventTooLargeError",
    "Frame",
    "SSEDecoder",
    "Wire",
    "encode",
    "encode_lines",
    "read_room",
]
