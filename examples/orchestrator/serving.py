"""The application on waitress, set so that a client that reads slowly, or has gone, is felt."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import prometheus_client
import waitress

from .app import make_app
from .settings import Settings
from .tasks import Tasks

__all__ = ["SEND_BUFFER", "running"]

SEND_BUFFER = 1 << 16  # bytes that the kernel takes for a client that does not read
AHEAD = 1 << 14  # bytes that waitress does
GONE_AFTER = 60_000  # milliseconds until a client that takes nothing at all is given up
LAST_WORDS = 5.0  # seconds for clients to take the ends of their streams when the service is stopped


def listener(host: str, port: int) -> socket.socket:
    """Connections inherit what is set here."""
    found = socket.create_server((host, port), backlog=1024)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER)
    return found


@contextmanager
def running(settings: Settings, host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, Tasks]]:
    """Serve on a thread; gives the URL, and the tasks."""
    registry = prometheus_client.CollectorRegistry()
    with Tasks(settings, registry) as tasks, listener(host, port) as sock:
        server = waitress.create_server(
            make_app(tasks, registry),
            sockets=[sock],
            threads=settings.threads,
            outbuf_high_watermark=AHEAD,  # 16 MiB are the default: megabytes would be read ahead
            channel_request_lookahead=1,  # with 0 a connection is not looked at while its request is served
            connection_limit=4096,
            max_request_body_size=settings.largest_body,  # 1 GiB is the default
            log_socket_errors=False,  # clients that have gone are no errors
            asyncore_use_poll=True,
        )
        thread = threading.Thread(target=server.run, name="waitress", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{sock.getsockname()[1]}", tasks
        finally:
            tasks.close()
            _finish(server)
            thread.join(5.0)


def _finish(server: Any) -> None:
    """Responses go out to their ends, which `tasks.close()` made; who doesn't take them in time is hung up on."""
    give_up = time.monotonic() + LAST_WORDS
    while time.monotonic() < give_up and any(map(_is_busy, list(server.active_channels.values()))):
        time.sleep(0.02)
    server.trigger.pull_trigger(lambda: _hang_up(server))
    server.task_dispatcher.shutdown()
    with suppress(OSError):  # a byte that was there before may have woken it already, and it has closed what wakes it
        server.trigger.pull_trigger(server.close)


def _is_busy(channel: Any) -> bool:
    return bool(channel.requests or channel.total_outbufs_len)


def _hang_up(server: Any) -> None:
    """On waitress's own thread, which ends when it has no connection left and no listener."""
    for channel in list(server.active_channels.values()):
        channel.handle_close()
