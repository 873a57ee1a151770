"""What an orchestrator is told by its TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs

__all__ = ["ReplicaSettings", "Settings"]


@attrs.frozen(kw_only=True)
class ReplicaSettings:
    """One worker. `slots`: how many streams it is given at a time."""

    id: str
    engine: str
    url: str
    pool: str = "default"
    slots: int = 4
    model: str | None = None


@attrs.frozen(kw_only=True)
class Settings:
    """Times are seconds. `queue`: how many tasks may wait for a slot. `grace`: how long a task goes on that nobody reads.

    `deadline`: of tasks that ask for none. `window`: bytes that are read ahead of a client, `replay_*`: of the replay log.
    `rest`: how long a replica that failed is left alone. `threads`: responses at a time, each of which holds one.
    """

    replicas: tuple[ReplicaSettings, ...]
    queue: int = 64
    grace: float = 30.0
    deadline: float = 600.0
    heartbeat: float = 15.0
    window: int = 1 << 15
    replay_bytes: int = 64 << 20
    replay_age: float = 300.0
    rest: float = 2.0
    threads: int = 64

    @classmethod
    def of(cls, path: Path) -> Settings:
        """Read from a file. Raises OSError, TypeError for an unknown key, ValueError for what is no TOML."""
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(replicas=tuple(ReplicaSettings(**one) for one in found.pop("replica")), **found)
