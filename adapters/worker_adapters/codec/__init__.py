"""The codecs of the hot path: chunked bodies to bytes, event streams to frames, an event back to bytes.

No I/O, no clock, no threads. The work is done in C (`csrc/`); importing this package loads the compiled extension.
"""

from .chunked import ChunkedDecoder, ChunkedError
from .sse import EventTooLargeError, Frame, SSEDecoder, encode

__all__ = ["ChunkedDecoder", "ChunkedError", "EventTooLargeError", "Frame", "SSEDecoder", "encode"]
