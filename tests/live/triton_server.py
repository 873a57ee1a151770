"""A real Triton for one test, or for the tests of a module, with the stand-in models of triton_repository.py."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import triton_install
import triton_repository
from server_process import HOST, ServerError, ServerProcess, reserve_port

from worker_adapters.exposition import samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["ENSEMBLE", "TritonServer"]

ENSEMBLE = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")
READY = 60.0  # seconds; 2 to 5 on two idle cores
GRACE = 10.0  # seconds from SIGTERM to SIGKILL: it lets its streams end and then its models
SHARED = Path("/dev/shm")
_NONE: Mapping[str, str] = {}


class TritonServer(ServerProcess):
    """Context manager around one Triton and the processes of its models, with HTTP and metrics on ports of their own.

    `models`: those of the repository to load, by their own names; `others`: by names of the test's. gRPC is off. Installs
    the server if the cache lacks it; raises ServerError, InstallError.
    """

    health = "/v2/health/ready"

    def __init__(self, *models: str, others: Mapping[str, str] = _NONE, port: int = 0, wait: bool = True) -> None:
        super().__init__(port=port, wait=wait, ready_timeout=READY, grace=GRACE, death=signal.SIGTERM)
        self.models = {**{name: name for name in models}, **others}
        self.metrics_port = 0
        self._own = contextlib.ExitStack()
        self._repository = ""

    def __enter__(self) -> Self:
        try:
            self._repository = self._own.enter_context(tempfile.TemporaryDirectory(prefix="triton-repository-"))
            triton_repository.write(Path(self._repository), self.models)
            holder, self.metrics_port = reserve_port(0)
            self._own.callback(holder.close)
            return super().__enter__()
        except BaseException:
            self._own.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self._own.close()
        for left in SHARED.glob(f"{self._prefix}*"):  # of models whose process was killed, or whose server was
            left.unlink(missing_ok=True)

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"http://{HOST}:{self.metrics_port}/metrics"

    def metrics(self) -> bytes:
        """What the metrics port answers, head and all; Triton closes that connection when it is asked to."""
        request = f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection((HOST, self.metrics_port), timeout=5) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def pending(self, model: str) -> int:
        """Requests in Triton's own queue of a model."""
        name = "nv_inference_pending_request_count"
        found = [sample.value for sample in samples(self.metrics(), {name}) if sample.labels["model"] == model]
        if not found:
            raise ServerError(f"the metrics have no {name} of {model}")
        return int(found[0])

    def post(self, path: str) -> None:
        """POST without a body; raises ServerError unless it is answered 200."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("POST", path)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.client.OK:
            raise ServerError(f"POST {path} answered {status}")

    @property
    def _prefix(self) -> str:
        return f"worker-adapters-{os.getpid()}-{self.port}-"

    def command(self) -> Sequence[str]:
        """All on this machine only, and nothing beside HTTP and metrics."""
        program = triton_install.server()
        backends = program.parent.parent / "backends"
        ports = [f"--http-address={HOST}", f"--http-port={self.port}", "--allow-grpc=false"]
        ports += [f"--metrics-address={HOST}", f"--metrics-port={self.metrics_port}"]
        models = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in self.models)]
        return [
            str(program),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--disable-auto-complete-config",  # half the processes, half the time to start
            "--exit-on-error=false",
            *ports,
            *models,
        ]

    def environment(self) -> dict[str, str]:
        """The system's own Python, whose library the backend embeds: it would take the one that comes first on PATH."""
        return {"PATH": "/usr/bin:/bin"}

    def model_pid(self, model: str) -> int:
        """The process of a model: its command line names its folder."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            if "triton_python_backend_stub" in words[0] and any(self._is_of(word, model) for word in words[1:]):
                return int(entry.parent.name)
        raise ServerError(f"no process of the model {model}")

    def _is_of(self, word: str, model: str) -> bool:
        return word.startswith(f"{self._repository}/{model}/")

    def begun(self, prompt: str) -> bool:
        """Whether a model has begun with this prompt."""
        return re.search(rf"^standin: \S+ begins {re.escape(repr(prompt))}$", self.log_text(), re.MULTILINE) is not None

    def ended(self, prompt: str) -> str | None:
        """Why the model says that it is through with this prompt (done, cancelled, stopped, failed); None if not yet."""
        found = self._end_of(prompt)
        return found[2] if found else None

    def tokens(self, prompt: str) -> int:
        """How many tokens it made of a prompt that it is through with."""
        found = self._end_of(prompt)
        if found is None:
            raise ServerError(f"no model is through with {prompt!r}")
        return int(found[1])

    def _end_of(self, prompt: str) -> re.Match[str] | None:
        line = rf"^standin: \S+ ends after (\d+) tokens: (\w+) {re.escape(repr(prompt))}$"
        return re.search(line, self.log_text(), re.MULTILINE)
