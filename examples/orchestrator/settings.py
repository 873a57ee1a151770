"""What an orchestrator is told by its TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import attrs
import msgspec
from attrs.validators import ge, gt, min_len

from worker_adapters import engine_names

__all__ = ["ReplicaSettings", "Settings"]


@attrs.frozen(kw_only=True)
class ReplicaSettings:
    """One worker. `slots`: how many streams it is given at a time."""

    id: str = attrs.field(validator=min_len(1))
    engine: str = attrs.field()
    url: str = attrs.field(validator=min_len(1))
    pool: str = "default"
    slots: int = attrs.field(default=4, validator=gt(0))
    model: str | None = None

    @engine.validator
    def _there_is_one(self, _attribute: object, engine: str) -> None:
        if engine not in engine_names():
            raise ValueError(f"'engine' must be one of {', '.join(engine_names())}: {engine}")


@attrs.frozen(kw_only=True)
class Settings:
    """Times are seconds. `queue`: how many tasks may wait for a slot. `grace`: how long a task goes on that nobody reads.

    `deadline`: of tasks that ask for none. `window`: bytes that are read ahead of a client, `replay_*`: of the replay log,
    `largest_body`: of a request. `rest`: how long a replica that failed is left alone. `threads`: responses at a time, each
    of which holds one.
    """

    replicas: tuple[ReplicaSettings, ...] = attrs.field(validator=min_len(1))
    queue: int = attrs.field(default=64, validator=ge(0))
    grace: float = attrs.field(default=30.0, validator=gt(0))
    deadline: float = attrs.field(default=600.0, validator=gt(0))
    heartbeat: float = attrs.field(default=15.0, validator=gt(0))
    window: int = attrs.field(default=1 << 15, validator=gt(0))
    replay_bytes: int = attrs.field(default=64 << 20, validator=gt(0))
    replay_age: float = attrs.field(default=300.0, validator=gt(0))
    rest: float = attrs.field(default=2.0, validator=ge(0))
    threads: int = attrs.field(default=64, validator=gt(0))
    largest_body: int = attrs.field(default=8 << 20, validator=gt(0))

    @replicas.validator
    def _each_has_a_name_of_its_own(self, _attribute: object, replicas: tuple[ReplicaSettings, ...]) -> None:
        names = [one.id for one in replicas]
        if len({*names}) < len(names):
            raise ValueError(f"'id' of each replica must be its own: {', '.join(names)}")

    @classmethod
    def of(cls, path: Path) -> Settings:
        """Read from a file. Raises OSError, and ValueError, which says what is wrong with which setting."""
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        _known("a setting", found, [*attrs.fields_dict(cls), "replica"])
        replicas = found["replicas"] = found.pop("replica", [])
        if not replicas:
            raise ValueError("there is no [[replica]]")
        for one in replicas if isinstance(replicas, list) else ():
            _known("a setting of a replica", one, [*attrs.fields_dict(ReplicaSettings)])
        try:
            return msgspec.convert(found, cls)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc).replace("$.", "").replace("replicas", "replica")) from None


def _known(what: str, given: Collection[str], names: Collection[str]) -> None:
    if unknown := sorted({*given} - {*names} | {*given} & {"replicas"}):
        known = [name for name in names if name != "replicas"]
        raise ValueError(f"{unknown[0]!r} is not {what}: those are {', '.join(known)}")
