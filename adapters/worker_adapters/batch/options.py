"""How a batch is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..api import Timeouts
from .pace import LARGEST
from .rows import Template

__all__ = ["Options"]


@attrs.frozen(kw_only=True)
class Options:
    """How a batch is run.

    - `parameters`: fields of GenerateRequest for rows that do not say otherwise.
    - `order`: `input` or `completion`; None takes the input's where that can be read again.
    - `attempts`: how often a row is tried that fails by itself. `retry_errors`: rows that failed before, too.
    - `accept_changes`: go on with a journal of other parameters, models or templates.
    - `window`: rows that a worker is given at first. `yield_to_interactive`: others on the same workers come first.
    - `largest`: rows that a worker is given at most.
    - `requests_per_minute`, `tokens_per_minute`: of each worker, as its gateway counts them.
    - `group_rows`, `group_seconds`: when what was answered is brought to the disk.
    - `patience`: seconds without any answer after which a run gives up; None never does.
    - `timeouts`: of each request. By default the first token has no limit, as that is where rows wait in an engine's queue.
    - `template` renders the messages of rows that have them; `template_digest` tells one from another.
    """

    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    order: str | None = attrs.field(default=None, validator=attrs.validators.in_((None, "input", "completion")))
    attempts: int = 4
    retry_errors: bool = False
    accept_changes: bool = False
    window: int = 8
    largest: int = LARGEST
    yield_to_interactive: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    group_rows: int = 256
    group_seconds: float = 0.5
    patience: float | None = 600.0
    timeouts: Timeouts = attrs.field(factory=lambda: Timeouts(first_token=None))
    template: Template | None = None
    template_digest: str | None = None
