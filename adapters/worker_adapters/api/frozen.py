"""What a request holds of its caller's: plain, immutable, hashable. Whatever can't be so is kept, for `submit` to refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

__all__ = ["DEEPEST", "PLAIN", "FrozenDict", "FrozenList", "frozen", "plain"]

DEEPEST = 100  # levels of JSON: what is nested deeper is no request's, and breaks who reads it
PLAIN = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    """A scalar of numpy's as Python's own, which is what engines are sent; anything else as it is."""
    if type(value) in PLAIN:
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
        if type(value).__module__ == "numpy":  # a longdouble stays one
            return float(value)
    return value


_Kind = TypeVar("_Kind", bound=type)


def _no(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise TypeError("the parts of a request are immutable: make another with attrs.evolve()")


def _without(names: str) -> Callable[[_Kind], _Kind]:
    """Take away what would change the object."""

    def taken(kind: _Kind) -> _Kind:
        for name in names.split():
            setattr(kind, name, _no)
        return kind

    return taken


@_without("__setitem__ __delitem__ __ior__ update setdefault pop popitem clear")
class FrozenDict(dict[str, Any]):
    """A dict, for all who read it, that can't be changed."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(frozenset(self.items()))

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, _memo: Any) -> FrozenDict:
        return self


@_without("__setitem__ __delitem__ __iadd__ __imul__ append extend insert pop remove clear reverse sort")
class FrozenList(list[Any]):
    """A list, for all who read it, that can't be changed."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # a list has none
        return hash(tuple(self))

    def __reduce__(self) -> Any:
        return FrozenList, (list(self),)

    def __copy__(self) -> FrozenList:
        return self

    def __deepcopy__(self, _memo: Any) -> FrozenList:
        return self


def frozen(value: Any, depth: int = 0) -> Any:
    """A copy all the way down, of mappings, lists and scalars; what is none of them, or lies too deep, is left alone."""
    kind = type(value)
    if kind in PLAIN or kind is FrozenDict or kind is FrozenList or depth > DEEPEST:
        return value
    value = plain(value)
    if isinstance(value, Mapping):
        return FrozenDict({plain(key): frozen(item, depth + 1) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return FrozenList(frozen(item, depth + 1) for item in value)
    return value
