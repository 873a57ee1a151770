"""The SSE codec: bytes of an event stream to frames, and an event back to bytes. No I/O, no clock, no threads.

The work is done in C (`csrc/`); importing this package loads the compiled extension.
"""

from .sse import EventTooLargeError, Frame, SSEDecoder, encode

__all__ = ["EventTooLargeError", "Frame", "SSEDecoder", "encode"]
