"""What goes on beside a test: a thread, a consumer, a forked child."""

from __future__ import annotations

import faulthandler
import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "Consumer", "in_child", "in_thread"]

PATIENCE = 60.0  # seconds until what should have ended long ago is given up


def in_thread(work: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


class Consumer:
    """Iterates a stream on a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self.events: list[Any] = []
        self.thread = in_thread(lambda: self.events.extend(stream))

    def join(self) -> list[Any]:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.events


def in_child(work: Callable[[], None]) -> None:
    """Fork, run it there; raises what it raised. The child leaves without pytest's own end."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  -- told to the parent
            os.write(write, traceback.format_exc().encode()[-4000:])
            faulthandler.dump_traceback(write)  # and where its threads are, if they were waited for
        finally:
            os._exit(code)
    os.close(write)
    killer = threading.Timer(PATIENCE, os.kill, (child, 9))
    killer.start()
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    killer.join()
    assert os.waitstatus_to_exitcode(status) == 0, told or "the child hung"
