"""What the suites of all dialects here share: the mutants they must kill, and a second suite of the same bytes."""

from __future__ import annotations

from typing import TypeVar

import attrs
import pytest

from worker_adapters.testing import MUTANTS, EngineSuite
from worker_adapters.testing.sockets import OverSockets

__all__ = ["kills", "over_sockets"]

FROM_MEMORY = sorted(name for name in set(dir(EngineSuite)) - set(dir(OverSockets)) if name.startswith("test_"))

Suite = TypeVar("Suite", bound=EngineSuite)


def over_sockets(suite: type[Suite]) -> type[Suite]:
    """Only what goes over sockets: from memory another suite has run the same dialect on the same bytes."""
    for name in FROM_MEMORY:
        setattr(suite, name, None)
    return suite


def kills(suite: type[EngineSuite], name: str) -> None:
    """That the case which passes on the sound dialect, as a test of its own, fails on the mutant."""
    mutant, one = MUTANTS[name], suite()
    sound = attrs.evolve(one.dialect, resolve=None)  # which would put a sound one in the mutant's place
    one.dialect = mutant.mutate(sound)  # type: ignore[misc]  # a class variable, of this instance only
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(one, mutant.killed_by)()
