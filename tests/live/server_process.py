"""A real engine's server for one test: started, watched, stopped, killed, frozen; it never outlives the test process."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Self

from processes import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["HOST", "ServerError", "ServerProcess", "reserve_port"]

HOST = "127.0.0.1"
LOG_POLL = 0.02  # seconds; reading the log costs the engine nothing

# All servers are forked by this one thread, because PR_SET_PDEATHSIG goes by thread (see guarded) and a test may start
# a server from a thread that ends before it.
_launcher = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-launcher")


class ServerError(Exception):
    """The server exited, or did not do what was waited for in time; the message ends with the end of its log."""


class ServerProcess:
    """Context manager around one server process, with its children, on a port of its own.

    Entering blocks until `health` says 200 (`wait=False`: only until the process is started, to see it load). `port` is
    that of an earlier server, which is gone: to come back where it was; 0 takes a free one. `grace`: seconds from SIGTERM
    to SIGKILL. `death`: what the kernel sends the server when the test process dies; one with children has to end them.
    Methods may be called from any thread, stop() and kill() more than once. Entering raises ServerError, or what
    `command` and `environment` raise.
    """

    health = "/health"

    def __init__(
        self, *, port: int, wait: bool, ready_timeout: float, grace: float = 2.0, death: signal.Signals = signal.SIGKILL
    ) -> None:
        self.port = port
        self._wait = wait
        self._ready_timeout = ready_timeout
        self._grace = grace
        self._death = death
        self._process: subprocess.Popen[bytes] | None = None
        self._port_holder: socket.socket | None = None
        self._log_fd = -1
        self._final_log = ""

    def command(self) -> Sequence[str]:
        """What to run, once `port` is known; the first word is an absolute path."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """The variables the server sees."""
        raise NotImplementedError

    def headers(self) -> dict[str, str]:
        """What a request needs."""
        return {}

    def __enter__(self) -> Self:
        self._port_holder, self.port = reserve_port(self.port)
        # A file without a name: nothing to clean up whatever happens to us.
        with tempfile.TemporaryFile() as log:
            self._log_fd = os.dup(log.fileno())
        try:
            command, environment = guarded(list(self.command()), self._death), self.environment()
            self._process = _launcher.submit(self._start, command, environment).result()
            if self._wait:
                self.wait_ready(self._ready_timeout)
        except BaseException:  # KeyboardInterrupt too: __exit__ is not called when __enter__ fails
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} pid {self._process.pid if self._process else None}>"

    @property
    def url(self) -> str:
        """The root of the server, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self._running().pid

    @property
    def exit_status(self) -> int | None:
        """None while the process runs; negative is the signal that ended it."""
        return self._process.poll() if self._process else None

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Block until `health` says 200; raises ServerError when the process exits or the time is up."""
        deadline = time.monotonic() + timeout
        while not self._healthy():
            if self.exit_status is not None:
                raise ServerError(f"{self!r} exited with status {self.exit_status}\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self!r} was not ready after {timeout:g} s\n{self._log_end()}")
            time.sleep(0.02)

    def wait_exit(self, timeout: float = 30.0) -> None:
        """Block until the process has ended by itself; raises ServerError."""
        try:
            self._running().wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self!r} still runs after {timeout:g} s\n{self._log_end()}") from None

    def stop(self) -> None:
        """End the server: SIGTERM, SIGKILL after a grace. Blocks until it is gone; the log stays readable."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as when a machine runs out of memory: open streams end without their terminator."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nothing answers. Blocks until the process is stopped."""
        self._running().send_signal(signal.SIGSTOP)
        # WNOWAIT leaves an exit for Popen to reap; WEXITED is there so as not to hang on a server that dies first.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Undo pause()."""
        self._running().send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """Everything the server has written so far."""
        if self._log_fd < 0:
            return self._final_log
        # pread: the child shares the position of our descriptor and writes at it.
        return os.pread(self._log_fd, os.fstat(self._log_fd).st_size, 0).decode(errors="replace")

    def wait_for_log(self, pattern: str, timeout: float = 60.0, *, start: int = 0) -> re.Match[str]:
        """Block until the log matches from index `start` on (an earlier len(log_text())); raises ServerError.

        The way to watch an engine closely without disturbing it.
        """
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            ended = self.exit_status is not None  # looked at before the log, so that the last lines are not missed
            if match := expression.search(self.log_text(), start):
                return match
            if ended or time.monotonic() > deadline:
                reason = "the server exited" if ended else f"not within {timeout:g} s"
                raise ServerError(f"no {pattern!r} in the log: {reason}\n{self._log_end()}")
            time.sleep(LOG_POLL)

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """GET on a connection of its own: status and body; raises OSError or http.client.HTTPException."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=self.headers())
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _start(self, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is for pytest, which then stops the server in its turn, and its children with it.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log_fd,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server is not started")
        return self._process

    def _healthy(self) -> bool:
        try:
            return self.get(self.health, timeout=1.0)[0] == http.client.OK
        except (OSError, http.client.HTTPException):  # not listening yet, or stopped in the middle of its answer
            return False

    def _end(self, first: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(first)
            self._process.send_signal(signal.SIGCONT)  # a paused process does not see SIGTERM
            try:
                self._process.wait(0 if first == signal.SIGKILL else self._grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            with contextlib.suppress(ProcessLookupError):  # what it leaves of its session
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._log_fd >= 0:
            self._final_log, fd, self._log_fd = self.log_text(), self._log_fd, -1
            os.close(fd)
        if self._port_holder is not None:
            self._port_holder.close()

    def _log_end(self) -> str:
        return "\n".join(self.log_text().splitlines()[-20:])


def reserve_port(port: int) -> tuple[socket.socket, int]:
    """Bind that port, or a free one (0), and hold it without listening: nobody else is given it until the end.

    The server shares it: llama-server by SO_REUSEPORT, vLLM and Triton by SO_REUSEADDR, which is enough beside one that
    does not listen. A bound socket that does not listen gets no connections: once the server is dead they are refused,
    which is what tests of a dead server expect.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, port))
    return holder, holder.getsockname()[1]
