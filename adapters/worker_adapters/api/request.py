"""The request: immutable, hashable, its caller's numbers as Python's own.

What can be judged without I/O is judged by `submit`, not by the constructor; by `from_dict` and `validate` for who has no
adapter yet.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Self

import attrs
import msgspec

from .choices import OnDegraded, Priority
from .errors import InvalidRequestError, invalid
from .events import DeterminismLevel
from .frozen import PLAIN, FrozenDict, frozen, plain
from .judging import wrongs

__all__ = ["GenerateRequest", "OnDegraded", "Priority"]


_DRAWN = 64  # at once: a call of the system for each gives up the interpreter lock, and stands in line for it again
_drawn: list[bytes] = []
os.register_at_fork(after_in_child=_drawn.clear)  # else parent and child would give the same ids


def _new_task_id() -> str:
    """A random UUID (RFC 9562, 5.4)."""
    while True:
        try:
            drawn = _drawn.pop()
        except IndexError:
            fresh = os.urandom(16 * _DRAWN)
            _drawn.extend(fresh[at : at + 16] for at in range(0, len(fresh), 16))
        else:
            break
    digits = drawn.hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[drawn[8] & 3]}{digits[17:20]}-{digits[20:]}"


def _strings(value: str | Sequence[str]) -> tuple[str, ...]:
    given: Any = plain(value)
    if isinstance(given, str):
        return (given,)
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        return given  # type: ignore[return-value]  # for `submit` to refuse
    return tuple(map(plain, given))


def _ids(value: Sequence[int] | None) -> tuple[int, ...] | None:
    given: Any = plain(value)
    if given is None or isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return given  # type: ignore[return-value]  # None, or for `submit` to refuse
    ids = tuple(given)
    return ids if {*map(type, ids)} <= {int} else tuple(map(plain, ids))


def _frozen_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return frozen(value)  # type: ignore[no-any-return]  # what is none is for `submit` to refuse


_NOTHING = FrozenDict()


def _enum(kind: type[StrEnum], value: Any) -> Any:
    """An enum member where there is one; anything else is kept for `submit` to refuse, with the field's name."""
    if type(value) is kind:
        return value
    given = plain(value)
    try:
        return kind(given) if isinstance(given, str) else value  # of anything else the error would hold the repr
    except ValueError:
        return value


def _determinism(value: DeterminismLevel | str) -> DeterminismLevel:
    return _enum(DeterminismLevel, value)  # type: ignore[no-any-return]  # see _enum: validated by submit


def _on_degraded(value: OnDegraded | str) -> OnDegraded:
    return _enum(OnDegraded, value)  # type: ignore[no-any-return]  # see _enum


def _priority(value: Priority | str) -> Priority:
    return _enum(Priority, value)  # type: ignore[no-any-return]  # see _enum


@attrs.frozen(kw_only=True)
class GenerateRequest:
    """One generation: a prompt as text, or as token ids where the engine takes them.

    Unset sampling fields are sent at the neutral value of the sampler profile, never left to the engine's defaults.
    `deadline` is in seconds from submit and spans all attempts; `deadline_at` is a point in Unix time, which stays where it
    is when the request goes to another worker; the sooner one holds. `session_id`, `correlation_id` and `priority` are
    labels and log fields; they are never sent. `engine_options` is read by the dialect alone; unknown keys are refused,
    except under "unchecked", which is sent as it is and degrades determinism. Prompts never appear in the repr.
    """

    prompt: str | None = attrs.field(default=None, repr=False)
    prompt_tokens: tuple[int, ...] | None = attrs.field(default=None, converter=_ids, repr=False)
    max_tokens: int = 256
    task_id: str = attrs.field(factory=_new_task_id)
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = attrs.field(default=(), converter=_strings)
    seed: int | None = None
    determinism: DeterminismLevel = attrs.field(default=DeterminismLevel.BEST_EFFORT, converter=_determinism)
    on_degraded: OnDegraded = attrs.field(default=OnDegraded.TELL, converter=_on_degraded)
    sampler_profile_version: str = "v1"
    ignore_eos: bool = False
    logprobs: int | None = None
    return_token_ids: bool = False
    deadline: float | None = None
    deadline_at: float | None = None
    model: str | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    grammar: str | None = None
    priority: Priority = attrs.field(default=Priority.INTERACTIVE, converter=_priority)
    session_id: str | None = None
    correlation_id: str | None = None
    engine_options: Mapping[str, Any] = attrs.field(default=_NOTHING, converter=_frozen_mapping)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], /, **own: Any) -> Self:
        """The request of a caller's JSON, whose keys are the names of the fields. All of it is judged, without an adapter.

        `own`: fields that are not the caller's to set, such as `task_id=…`: refused where they are given, too. Raises
        InvalidRequestError, whose `fields` says what is wrong with each.
        """
        if not isinstance(given, Mapping):
            raise _invalid({"": f"a request is a JSON object, got a {type(given).__name__}"})
        wrong: dict[str, str] = {}
        for name in given:
            if name not in _NAMES:
                shown = str(name)[:40]
                wrong[shown] = f"{shown!r} is no field of a request"
            elif name in own:
                wrong[name] = f"{name} is not the caller's to set"
        request = cls(**{name: value for name, value in given.items() if name in _NAMES and name not in own}, **own)
        if wrong := {**wrongs(request), **wrong}:
            raise _invalid(wrong)
        return request

    @classmethod
    def from_json(cls, given: bytes | str, /, **own: Any) -> Self:
        """As `from_dict`, of a body. Raises InvalidRequestError for one that is no JSON, too."""
        try:
            values = msgspec.json.decode(given)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise _invalid({"": f"the body is no JSON: {exc}"}) from None
        return cls.from_dict(values, **own)

    def validate(self) -> None:
        """Judge all fields without an adapter, as `submit` will, but for what one engine can't express.

        Raises InvalidRequestError, whose `fields` says what is wrong with each.
        """
        if wrong := wrongs(self):
            raise _invalid(wrong)

    def __attrs_post_init__(self) -> None:
        values = _scalars(self)
        if not {*map(type, values)} <= PLAIN:
            for name, value in zip(_SCALARS, values, strict=True):
                object.__setattr__(self, name, plain(value))
        if self.json_schema.__class__ is not str and self.json_schema is not None:
            object.__setattr__(self, "json_schema", frozen(self.json_schema))


_SCALARS = tuple(
    field.name for field in attrs.fields(GenerateRequest) if not field.converter and field.name != "json_schema"
)
_scalars = operator.attrgetter(*_SCALARS)
_NAMES = frozenset(field.name for field in attrs.fields(GenerateRequest))
_LONGEST = 500  # characters of an error's message


def _invalid(wrong: Mapping[str, str]) -> InvalidRequestError:
    said = "; ".join(dict.fromkeys(wrong.values()))
    error = invalid(said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…")
    error.fields = dict(wrong)
    return error
