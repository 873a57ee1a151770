"""One module per engine, isolated from the others: pure functions, then `DIALECT = Dialect(...)`."""

from __future__ import annotations

__all__: list[str] = []
