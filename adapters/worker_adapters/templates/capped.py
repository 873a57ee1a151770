"""Operators, methods and filters whose result may be far larger than what they are given: paid for before they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

from .limits import BUDGET, MAX_BITS, Budget, failed, whole_number

__all__ = ["FILTERS", "METHODS", "OPERATORS", "concat"]

WIDEST = 10_000  # columns that anything is padded or indented to
PRECISION = 100  # digits after the point
ESCAPED = 6  # characters that one becomes at most, in JSON or HTML
_spec = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_field = re.compile(r"\{[^{}]*[{}]")
_link = re.compile(r"[^\s<]+")
_digits = re.compile(r"\d+")


def _width(value: Any) -> int:
    """A width, a count of columns or digits; what is no integer is the function's to refuse."""
    if isinstance(value, int) and value > WIDEST:
        raise failed(f"the template pads, repeats or indents to more than {WIDEST}")
    return max(0, value) if isinstance(value, int) else len(value) if isinstance(value, str) else 0


def _written(digits: str) -> int:
    return _width(int(digits[:9])) if digits else 0


def _integers(values: Any) -> list[int]:
    given = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple) else (values,)
    return [_width(value) for value in given if isinstance(value, int)]


# --- operators --------------------------------------------------------------------------------------------------------


def _times(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            whole_number(1 << MAX_BITS)
    elif isinstance(left, int) or isinstance(right, int):
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(value, float):
            budget.spend(max(0, count) * max(1, budget.extent(value)))
    return budget.made(left * right)


def _power(_budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and max(1, left.bit_length()) * abs(right) > MAX_BITS:
        whole_number(1 << MAX_BITS)
    return left**right


def _plus(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        budget.spend(len(left) + len(right))
    result = left + right
    return whole_number(result) if isinstance(result, int) else budget.made(result)


def _percent(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, str | bytes):
        _pay_for_percent(budget, str(left), right)
    return left % right


def _pay_for_percent(budget: Budget, text: str, values: Any) -> None:
    specs = _spec.findall(text)
    widths = sum(_written(part) for spec in specs for part in spec if part != "*")
    if any("*" in spec for spec in specs):
        widths += sum(_integers(values))
    times = len(specs) if isinstance(values, Mapping) else 1
    budget.spend(len(text) + widths + times * budget.extent(values) * ESCAPED)


OPERATORS: Mapping[str, Callable[[Budget, Any, Any], Any]] = {"*": _times, "**": _power, "+": _plus, "%": _percent}


def concat(values: list[Any]) -> str:
    """`~`."""
    budget = BUDGET.get()
    budget.spend(sum(budget.extent(value) for value in values))
    return "".join(map(str, values))


# --- methods of strings -----------------------------------------------------------------------------------------------


def _pad(budget: Budget, text: str, width: Any = 0, *_rest: Any) -> None:
    budget.spend(len(text) + _width(width))


def _tabs(budget: Budget, text: str, tabsize: Any = 8) -> None:
    budget.spend(len(text) + text.count("\t") * _width(tabsize))


def _replace(budget: Budget, text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    budget.spend(len(text) + text.count(str(old)) * budget.extent(new))


def _join(budget: Budget, text: str, items: Any = ()) -> None:
    if not isinstance(items, str | list | tuple | Mapping):
        raise failed("the template joins what is no list")
    budget.spend(budget.extent(items) + len(items) * len(text))


def _format(budget: Budget, text: str, *values: Any, **named: Any) -> None:
    fields = _field.findall(text)
    widths = sum(_written(digits) for field in fields for digits in _digits.findall(field))
    if any(field.endswith("{") for field in fields):  # a width that is a value
        widths += len(fields) * sum(_integers(values) + _integers(named))
    budget.spend(len(text) + widths + len(fields) * (budget.extent(values) + budget.extent(named)) * ESCAPED)


def _translate(budget: Budget, text: str, table: Any = None) -> None:
    longest = max(map(budget.extent, table.values()), default=1) if isinstance(table, Mapping) else 1
    budget.spend(len(text) * max(1, longest))


METHODS: Mapping[str, Callable[..., None]] = {
    "center": _pad,
    "expandtabs": _tabs,
    "format": _format,
    "format_map": _format,
    "join": _join,
    "ljust": _pad,
    "replace": _replace,
    "rjust": _pad,
    "translate": _translate,
    "zfill": _pad,
}


# --- filters ----------------------------------------------------------------------------------------------------------


def _lines(budget: Budget, text: Any, width: Any = 4, *_rest: Any, **_named: Any) -> None:
    budget.spend(len(str(text)) + (str(text).count("\n") + 1) * _width(width))


def _counted(budget: Budget, _items: Any, count: Any = 0, *_rest: Any, **_named: Any) -> None:
    budget.spend(_width(count))


def _joined(budget: Budget, items: Any, between: Any = "", *_rest: Any, **_named: Any) -> None:
    count = len(items) if isinstance(items, Sized) else 0
    budget.spend(budget.extent(items) + count * budget.extent(between))


def _wrapped(budget: Budget, text: Any, width: Any = 79, long: Any = True, sign: Any = None, *_rest: Any) -> None:
    budget.spend(len(str(text)) * (1 + budget.extent(sign or "")))


def _replaced(budget: Budget, text: Any, old: Any = "", new: Any = "", *_rest: Any, **_named: Any) -> None:
    _replace(budget, str(text), old, str(new))


def _percents(budget: Budget, text: Any, *values: Any, **named: Any) -> None:
    _pay_for_percent(budget, str(text), named or values)


def _rounded(_budget: Budget, _value: Any, precision: Any = 0, *_rest: Any, **_named: Any) -> None:
    if isinstance(precision, int) and precision > PRECISION:
        raise failed(f"the template rounds to more than {PRECISION} digits")


def _summed(_budget: Budget, _items: Any, attribute: Any = None, start: Any = 0, **_named: Any) -> None:
    if not isinstance(start, int | float):
        raise failed("the template sums up what are no numbers")


def _json(
    budget: Budget,
    value: Any,
    _ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_rest: Any,
    **_named: Any,
) -> None:
    between = 1 if separators is None else max(1, budget.extent(separators))
    budget.spend(ESCAPED * budget.extent(value) * (1 + _width(indent)) * between)


def _linked(budget: Budget, text: Any, *given: Any, **named: Any) -> None:
    """`urlize`: a link has at most the address twice, and all that is given; each has some characters."""
    links = len(_link.findall(str(text)))
    budget.spend(3 * ESCAPED * len(str(text)) + links * ESCAPED * (budget.extent(given) + budget.extent(named)))


FILTERS: Mapping[str, Callable[..., None]] = {
    "batch": _counted,
    "center": _lines,
    "format": _percents,
    "indent": _lines,
    "join": _joined,
    "replace": _replaced,
    "round": _rounded,
    "slice": _counted,
    "sum": _summed,
    "tojson": _json,
    "urlize": _linked,
    "wordwrap": _wrapped,
}
"""By their arguments as the filter has them, without the environment. All others give about as much as they take."""
