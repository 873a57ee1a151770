"""A suite on one real server, which the module's fixture `server` has running for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from worker_adapters.testing import EngineSuite

__all__ = ["OnOneServer"]


class OnOneServer(EngineSuite):
    """Subclass it in place of EngineSuite."""

    server: Any

    @pytest.fixture(autouse=True)
    def _one_server(self, server: Any) -> None:
        self.server = server

    @contextmanager
    def worker(self) -> Iterator[str]:
        yield self.server.url
