"""The last tokens are handed out before anything is waited for that is not theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters import GenerateRequest, Retry, connect
from worker_adapters.testing.server import ReplayServer
from worker_adapters.transport import http

from .subjects import SUBJECTS

if TYPE_CHECKING:
    from .subjects import Subject


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.dialect.name != "mock"], ids=lambda s: s.name)
def test_no_token_waits_for_its_connection_to_be_of_use_again(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole answer comes in one read, or few: the tokens of the last one are out when the rest is waited for."""
    said: list[str] = []
    settle = http._Exchange.settle

    def noted(exchange: Any, seconds: float) -> Any:
        said.append("settle")
        yield from settle(exchange, seconds)

    with monkeypatch.context() as patch, ReplayServer(subject.transcripts) as server:
        patch.setattr(http._Exchange, "settle", noted)
        with connect(subject.dialect, server.url, model=subject.model, retry=Retry(attempts=1)) as adapter:
            for event in adapter.stream(GenerateRequest(prompt="p", max_tokens=512)):
                said.append(event.kind)  # noqa: PERF401  -- between two of which the other list grows
    assert said[-1] == "end"
    assert "token" in said[: said.index("settle")]
    assert "token" not in said[said.index("settle") :]
