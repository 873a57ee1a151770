"""A real llama-server for one test: started, watched, stopped, killed, frozen; it never outlives the test process."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Self

import llamacpp_build
import tiny_gguf
from processes import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["LlamaServer", "ServerError"]

HOST = "127.0.0.1"
GRACE = 2.0  # seconds from SIGTERM to SIGKILL; an open stream alone keeps the engine until its next ping, up to 30 s
SLOT_POLL = 2.0  # seconds; looking at /slots more than once a second keeps the engine from noticing that a client left
LOG_POLL = 0.02  # seconds; reading the log costs the engine nothing

# All servers are forked by this one thread, because PR_SET_PDEATHSIG goes by thread (see guarded) and a test may start
# a server from a thread that ends before it.
_launcher = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama-server-launcher")


class ServerError(Exception):
    """The server exited, or did not do what was waited for in time; the message ends with the end of its log."""


class LlamaServer:
    """Context manager around one llama-server process on a port of its own.

    Entering blocks until /health says 200 (`wait=False`: only until the process is started, to see it load). `slots`
    and `ctx` are -np and -c, so a request has ctx/slots tokens; `extra` goes last on the command line and wins. With
    `models_dir` it is a router, which starts a server of its own for each model of that folder when one is asked for.
    `port` is that of an earlier server, which is gone: to come back where it was. Builds the engine and the model if the
    cache lacks them. Methods may be called from any thread, stop() and kill() more than once. Entering raises
    ServerError or BuildError.
    """

    def __init__(
        self,
        *,
        model: Path | None = None,
        models_dir: Path | None = None,
        port: int = 0,
        slots: int = 2,
        ctx: int = 8192,
        extra: Sequence[str] = (),
        api_key: str | None = None,
        wait: bool = True,
        ready_timeout: float = 30.0,
    ) -> None:
        self.api_key = api_key
        self.port = port
        self._model = model
        self._models_dir = models_dir
        self._options = ["-np", str(slots), "-c", str(ctx), *(["--api-key", api_key] if api_key else []), *extra]
        self._wait = wait
        self._ready_timeout = ready_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._port_holder: socket.socket | None = None
        self._log_fd = -1
        self._final_log = ""

    def __enter__(self) -> Self:
        binary = llamacpp_build.binary()
        if self._models_dir:
            model = ["--models-dir", str(self._models_dir)]
        else:
            model = ["-m", str(self._model or tiny_gguf.model())]
        self._port_holder, self.port = _reserve_port(self.port)
        # A file without a name: nothing to clean up whatever happens to us.
        with tempfile.TemporaryFile() as log:
            self._log_fd = os.dup(log.fileno())
        try:
            self._process = _launcher.submit(self._start, self._command(binary, model)).result()
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
        return f"<LlamaServer {self.url} pid {self._process.pid if self._process else None}>"

    @property
    def url(self) -> str:
        """The root of the server, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the engine itself."""
        return self._running().pid

    @property
    def exit_status(self) -> int | None:
        """None while the process runs; negative is the signal that ended it."""
        return self._process.poll() if self._process else None

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Block until /health says 200; raises ServerError when the process exits or the time is up."""
        deadline = time.monotonic() + timeout
        while not self._healthy():
            if self.exit_status is not None:
                raise ServerError(f"llama-server exited with status {self.exit_status}\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(f"llama-server was not ready after {timeout:g} s\n{self._log_end()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server: SIGTERM, SIGKILL two seconds later. Blocks until it is gone; the log stays readable."""
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

    def wait_for_log(self, pattern: str, timeout: float = 10.0, *, start: int = 0) -> re.Match[str]:
        """Block until the log matches from index `start` on (an earlier len(log_text())); raises ServerError.

        The way to watch the engine closely: unlike requests, it does not disturb how it notices lost clients.
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

    def headers(self) -> dict[str, str]:
        """What a request needs: the API key, if there is one."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def slots(self) -> list[dict[str, object]]:
        """One GET /slots. Not to be called in a fast loop (see SLOT_POLL): use idle_slots or wait_for_log."""
        status, body = self.get("/slots")
        if status != http.client.OK:
            raise ServerError(f"GET /slots: {status} {body[:200]!r}")
        found: list[dict[str, object]] = json.loads(body)
        return found

    def props(self) -> dict[str, object]:
        """One GET /props; "build_info" is the version of the engine."""
        status, body = self.get("/props")
        if status != http.client.OK:
            raise ServerError(f"GET /props: {status} {body[:200]!r}")
        found: dict[str, object] = json.loads(body)
        return found

    def idle_slots(self, timeout: float = 30.0) -> float:
        """Block until no slot is processing, looking every two seconds; return the seconds it took, or ServerError."""
        began = time.monotonic()
        while any(slot["is_processing"] for slot in self.slots()):
            if time.monotonic() - began + SLOT_POLL > timeout:
                raise ServerError(f"a slot was still processing after {timeout:g} s\n{self._log_end()}")
            time.sleep(SLOT_POLL)
        return time.monotonic() - began

    def _command(self, binary: Path, model: Sequence[str]) -> list[str]:
        where = [*model, "--host", HOST, "--port", str(self.port), "--reuse-port"]
        # -t 1: the number of threads changes the rounding, and with it the tokens (seen with a prompt of 1000 tokens).
        return guarded([str(binary), *where, "-t", "1", "--slots", "--metrics", "--props", "--no-ui", *self._options])

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        # LLAMA_* are options in disguise (LLAMA_ARG_*, LLAMA_API_KEY), AIP_* too: the caller's shell has no say here.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "AIP_"))}
        # A session of its own: Ctrl-C is for pytest, which then stops the server in its turn.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log_fd,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server is not started")
        return self._process

    def _healthy(self) -> bool:
        try:
            return self.get("/health", timeout=1.0)[0] == http.client.OK
        except (OSError, http.client.HTTPException):  # not listening yet, or stopped in the middle of its answer
            return False

    def _end(self, first: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(first)
            self._process.send_signal(signal.SIGCONT)  # a paused process does not see SIGTERM
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log_fd >= 0:
            self._final_log, fd, self._log_fd = self.log_text(), self._log_fd, -1
            os.close(fd)
        if self._port_holder is not None:
            self._port_holder.close()

    def _log_end(self) -> str:
        return "\n".join(self.log_text().splitlines()[-20:])


def _reserve_port(port: int) -> tuple[socket.socket, int]:
    """Bind that port, or a free one (0), and hold it without listening: nobody else is given it until the end.

    The server shares it (--reuse-port on its side). A bound socket that does not listen gets no connections: once the
    server is dead they are refused, which is what tests of a dead server expect.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((HOST, port))
    return holder, holder.getsockname()[1]
