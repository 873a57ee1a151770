from collections.abc import Callable
from typing import Any

ffi: Any
lib: Any

def take(decoder: int, chunk: bytes, frames: list[Any], /) -> int: ...
def pull(
    wire: int,
    decoder: int,
    descriptor: int,
    wake: int,
    timers: object,
    otherwise: Callable[[int, bytes, list[Any]], Any],
    buffer: int,
    /,
) -> Any: ...
