"""A real vLLM server for one test, or for the tests of a module: it takes some 20 seconds to start."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import cache
import tiny_hf
import vllm_install
from server_process import HOST, ServerError, ServerProcess

from worker_adapters.exposition import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MODEL", "VllmServer"]

MODEL = "tiny"  # as the server calls it
READY = 600.0  # seconds; 17 to 30 on two idle cores, four minutes and more on two that are full: a last resort
GRACE = 10.0  # seconds from SIGTERM to SIGKILL: it ends its engine process first


class VllmServer(ServerProcess):
    """Context manager around one vLLM server and its engine process, on a port of its own.

    `ctx` is --max-model-len, `seqs` --max-num-seqs; `extra` goes last on the command line. In fp32 and on one thread, so
    that tokens repeat. With more `threads` than the model has heads (two), the kernels split a request's attention by how
    much there is to do in all: what runs beside it changes it. Installs the engine and writes the model if the cache lacks
    them; raises ServerError, InstallError.
    """

    def __init__(
        self,
        *,
        ctx: int = 2048,
        seqs: int = 8,
        port: int = 0,
        api_key: str | None = None,
        extra: Sequence[str] = (),
        wait: bool = True,
        threads: int = 1,
        model: Path | None = None,
    ) -> None:
        super().__init__(port=port, wait=wait, ready_timeout=READY, grace=GRACE, death=signal.SIGTERM)
        self.api_key = api_key
        self.ctx = ctx
        self._threads = threads
        self._model = model
        self._options = ["--max-num-seqs", str(seqs), *(["--api-key", api_key] if api_key else []), *extra]

    def command(self) -> list[str]:
        """As small and as steady as it gets."""
        program = [str(vllm_install.python()), "-m", "vllm.entrypoints.cli.main", "serve"]
        program.append(str(self._model or tiny_hf.model(self.ctx)))
        where = ["--served-model-name", MODEL, "--host", HOST, "--port", str(self.port)]
        size = [
            "--max-model-len",
            str(self.ctx),
            "--max-num-batched-tokens",
            "4096",
            "--kv-cache-memory-bytes",
            "67108864",
        ]
        steady = ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
        return [*program, *where, *size, *steady, *self._options]

    def environment(self) -> dict[str, str]:
        """Nothing of the caller's about vLLM, no hub, no compiler, no telemetry; caches in our own."""
        caches = str(cache.root() / "vllm-run")
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith("VLLM_") and k != "PYTHONDONTWRITEBYTECODE"
        }
        return {
            **inherited,
            "PYTHONPATH": str(vllm_install.shim(vllm_install.python())),
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            # A worker process of its own would bind itself to the cores, and have as many threads as those.
            **({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if self._threads > 1 else {}),
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": caches,
            "XDG_CACHE_HOME": caches,
        }

    def headers(self) -> dict[str, str]:
        """The API key, if there is one."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def gauge(self, name: str) -> float:
        """One series of /metrics, such as vllm:num_requests_running, summed."""
        status, body = self.get("/metrics")
        found = [sample.value for sample in samples(body, {name})]
        if status != 200 or not found:
            raise ServerError(f"/metrics answered {status}, without {name}")
        return sum(found)

    def running(self) -> int:
        """Requests that the engine works on; some tens of milliseconds old."""
        return int(self.gauge("vllm:num_requests_running"))

    def waiting(self) -> int:
        """Requests in its queue."""
        return int(self.gauge("vllm:num_requests_waiting"))

    def engine_pid(self) -> int:
        """The process that generates: the server's child, by the name it gives itself."""
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            except OSError:  # it has ended
                continue
            if name.startswith("VLLM::EngineCor") and int(rest.split()[1]) == self.pid:
                return int(entry.parent.name)
        raise ServerError("the server has no engine process")

    def signal_engine(self, number: signal.Signals) -> None:
        """SIGKILL, SIGSTOP or SIGCONT, to the engine process alone: the HTTP server goes on."""
        os.kill(self.engine_pid(), number)
