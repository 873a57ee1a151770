"""NVIDIA Dynamo's frontend, the real Rust one, before its mocker: a simulated engine whose words are drawn at random."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import cache
from locked_venv import DYNAMO
from server_process import HOST, ServerError, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

__all__ = ["MODEL", "DynamoServer"]

MODEL = "words"
WRITER = Path(__file__).with_name("dynamo_words_writer.py")
READY = 90.0  # seconds; 10 on two idle cores


def model() -> Path:
    """The folder in the cache that the mocker takes for a model."""
    parts = {"writer": hashlib.sha256(WRITER.read_bytes()).hexdigest(), **DYNAMO.parts}

    def make(work: Path, out: Path) -> None:
        subprocess.run([str(DYNAMO.python()), str(WRITER), str(out / "model")], check=True, cwd=work)

    return cache.ensure("dynamo-words", parts, make) / "model"


def environment(folder: str) -> Mapping[str, str]:
    """Nobody listens but on this machine, and the two find each other by files."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DYN_", "HF_", "PYTHONPATH"))}
    local = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
    return {
        **kept,
        **dict.fromkeys(local, HOST),
        "DYN_FILE_KV": folder,
        "DYN_SGLANG_ENABLE_GENERATE": "1",
        "HF_HUB_OFFLINE": "1",
    }


class _Mocker(ServerProcess):
    """The worker. It has no port of its own that matters: that it is there shows at the frontend."""

    def __init__(self, folder: str, speed: float) -> None:
        super().__init__(port=0, wait=False, ready_timeout=READY)
        self._folder = folder
        self._speed = speed

    def command(self) -> Sequence[str]:
        """Of `speed` tokens for one of a real engine."""
        asked = ["--model-path", str(model()), "--model-name", MODEL, "--speedup-ratio", str(self._speed)]
        kind = ["--discovery-backend", "file", "--engine-type", "sglang", "--sglang-generate"]
        return [str(DYNAMO.python()), "-m", "dynamo.mocker", *asked, *kind]

    def environment(self) -> Mapping[str, str]:
        """See the function."""
        return environment(self._folder)


class DynamoServer(ServerProcess):
    """Context manager around a frontend and one mocker, which may be killed and started again."""

    def __init__(self, *, speed: float = 1.0) -> None:
        super().__init__(port=0, wait=False, ready_timeout=READY)
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo")
        self._speed = speed
        self.mocker = _Mocker(self._folder.name, speed)

    def command(self) -> Sequence[str]:
        """The frontend."""
        where = ["--http-host", HOST, "--http-port", str(self.port), "--discovery-backend", "file"]
        return [str(DYNAMO.python()), "-m", "dynamo.frontend", *where]

    def environment(self) -> Mapping[str, str]:
        """See the function."""
        return environment(self._folder.name)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.start_mocker()
        except BaseException:
            self.mocker.stop()
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mocker.stop()
        super().__exit__(kind, value, trace)
        self._folder.cleanup()

    def start_mocker(self) -> None:
        """Another worker; blocks until the frontend serves with it: a while it still asks the one that is gone."""
        self.mocker = _Mocker(self._folder.name, self._speed)
        self.mocker.__enter__()
        self.wait_models(1)
        self._wait_for(lambda: self._answers() and self._answers(), "an answer", READY)

    def wait_models(self, number: int, timeout: float = READY) -> None:
        """Block until so many models are served; raises ServerError."""
        self._wait_for(lambda: self._models() == number, f"{number} models", timeout)

    def _wait_for(self, reached: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > deadline or self.exit_status is not None:
                raise ServerError(f"not {what} after {timeout:g} s\n{self._log_end()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5.0)
        try:
            asked = json.dumps({"model": MODEL, "prompt": "p", "max_tokens": 1})
            connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _models(self) -> int:
        try:
            status, body = self.get("/v1/models")
            return len(json.loads(body)["data"]) if status == 200 else -1
        except (OSError, ValueError):
            return -1
