"""determinism."""

__all__: list[str] = []
