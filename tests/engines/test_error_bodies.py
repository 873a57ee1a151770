"""Error bodies that are nobody's: every dialect makes a fault of them, whatever bytes they hold."""

from __future__ import annotations

import pytest

from worker_adapters import registry
from worker_adapters.dialect import Fault, Reply

BODIES = [
    b"",
    b"null",
    b"\xff",
    b'{"error":"\xff"}',
    b'{"error":{"message":"\xff"}}',
    b'{"object":"error","message":"\xff\xfe"}',
    b'{"detail":"\xff"}',
    b'{"error":7}',
    b'"\\ud800"',
    b"[" * 3000,
]


@pytest.mark.parametrize(
    "engine", [name for name in registry.engine_names() if not name.startswith("openai-completions-")]
)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_any_body_of_an_error_is_a_fault(engine, body, status):
    fault = registry.dialect(engine).parse_error(Reply(status=status, headers={}, body=body))
    assert isinstance(fault, Fault)
    assert fault.upstream is not None
    assert fault.upstream.status == status
