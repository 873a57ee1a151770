"""A real llama-server for one test."""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import TYPE_CHECKING

import llamacpp_build
import tiny_gguf
from server_process import HOST, ServerError, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LlamaServer", "ServerError"]

GRACE = 2.0  # seconds from SIGTERM to SIGKILL; an open stream alone keeps the engine until its next ping, up to 30 s
SLOT_POLL = 2.0  # seconds; looking at /slots more than once a second keeps the engine from noticing that a client left


class LlamaServer(ServerProcess):
    """Context manager around one llama-server process on a port of its own.

    Entering blocks until /health says 200 (`wait=False`: only until the process is started, to see it load). `slots`
    and `ctx` are -np and -c, so a request has ctx/slots tokens; `extra` goes last on the command line and wins. With
    `models_dir` it is a router, which starts a server of its own for each model of that folder when one is asked for.
    Builds the engine and the model if the cache lacks them. Entering raises ServerError or BuildError.
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
        release: llamacpp_build.Release = llamacpp_build.PINNED,
    ) -> None:
        super().__init__(port=port, wait=wait, ready_timeout=ready_timeout, grace=GRACE)
        self.api_key = api_key
        self._model = model
        self._models_dir = models_dir
        self._release = release
        self._options = ["-np", str(slots), "-c", str(ctx), *(["--api-key", api_key] if api_key else []), *extra]

    def command(self) -> list[str]:
        """The pinned threads and routes, and what the test asked for."""
        if self._models_dir:
            model = ["--models-dir", str(self._models_dir)]
        else:
            model = ["-m", str(self._model or tiny_gguf.model())]
        where = [
            str(llamacpp_build.binary(self._release)),
            *model,
            "--host",
            HOST,
            "--port",
            str(self.port),
            "--reuse-port",
        ]
        # -t 1: the number of threads changes the rounding, and with it the tokens (seen with a prompt of 1000 tokens).
        return [*where, "-t", "1", "--slots", "--metrics", "--props", "--no-ui", *self._options]

    def environment(self) -> dict[str, str]:
        """LLAMA_* are options in disguise (LLAMA_ARG_*, LLAMA_API_KEY), AIP_* too: the caller's shell has no say here."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "AIP_"))}

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
