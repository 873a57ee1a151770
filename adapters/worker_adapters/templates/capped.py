"""Operators, methods and filters: what each costs, beside the size of what it is given.

All cost what `SLOW` says for each character, unless they stand here as cheaper, or as giving more than they take.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

from .limits import BUDGET, LITTLE, LOOK, MAX_BITS, PART, Budget, failed, whole_number

__all__ = [
    "COMPARED",
    "CONSTANT",
    "CONSTANT_METHODS",
    "CONSTANT_TESTS",
    "FILTERS",
    "METHODS",
    "OPERATORS",
    "RATES",
    "SLOW",
    "TEXTS",
    "concat",
    "path_of",
]

WIDEST = 10_000  # columns that anything is padded or indented to
PRECISION = 100  # digits after the point
ESCAPED = 6  # characters that one becomes at most, in JSON or HTML
SLOW = 6.0  # units for each character of what a filter is given
EACH = 100  # units for each part of a list that Jinja2 goes through in Python
FORMAT = 500  # units for each field of a format: the sandbox looks each up in Python
LIMB = 8  # bits of an integer that are multiplied for a unit
PATH = 16  # names in the path of an attribute
LONGEST_SLOW = 128  # characters of a sought text from which on a search gets no slower
LEVELS = 100  # of nesting
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
        budget.charge((left.bit_length() + right.bit_length()) / LIMB)
    elif isinstance(left, int) or isinstance(right, int):  # of a string or a list
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(value, float):
            budget.spend(max(0, count) * max(1, budget.extent(value)))
    return budget.made(left * right)


def _power(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and max(1, left.bit_length()) * abs(right) > MAX_BITS:
        whole_number(1 << MAX_BITS)
    budget.charge(MAX_BITS / LIMB)
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


def _other(apply: Callable[[Any, Any], Any]) -> Callable[[Budget, Any, Any], Any]:
    def operate(budget: Budget, left: Any, right: Any) -> Any:
        budget.looked_at(left)
        budget.looked_at(right)
        return budget.made(apply(left, right))

    return operate


def _pay_for_percent(budget: Budget, text: str, values: Any) -> None:
    budget.text(values)
    specs = _spec.findall(text)
    widths = sum(_written(part) for spec in specs for part in spec if part != "*")
    if any("*" in spec for spec in specs):
        widths += sum(_integers(values))
    times = len(specs) if isinstance(values, Mapping) else 1
    budget.spend(len(text) + widths + times * budget.extent(values) * ESCAPED)


OPERATORS: Mapping[str, Callable[[Budget, Any, Any], Any]] = {
    "*": _times,
    "**": _power,
    "+": _plus,
    "%": _percent,
    "-": _other(operator.sub),
    "/": _other(operator.truediv),
    "//": _other(operator.floordiv),
}


def concat(values: list[Any]) -> str:
    """`~`."""
    budget = BUDGET.get()
    budget.spend(sum(map(budget.text, values)))
    return "".join(map(str, values))


def _equal(budget: Budget, left: Any, right: Any) -> None:
    """What is compared is read as far as the shorter one goes."""
    budget.charge(LITTLE + LOOK * min(budget.extent(left), budget.extent(right)))


def _contained(budget: Budget, item: Any, items: Any) -> None:
    if isinstance(items, str):
        _search(budget, items, item)
    elif isinstance(items, Mapping):
        budget.looked_at(item)
    else:
        parts = len(items) if isinstance(items, Sized) else 0
        budget.charge(LITTLE + LOOK * min(budget.extent(items), parts * (PART + budget.extent(item))))


COMPARED: Mapping[str, tuple[Callable[[Any, Any], Any], Callable[[Budget, Any, Any], None]]] = {
    "eq": (operator.eq, _equal),
    "ne": (operator.ne, _equal),
    "lt": (operator.lt, _equal),
    "lteq": (operator.le, _equal),
    "gt": (operator.gt, _equal),
    "gteq": (operator.ge, _equal),
    "in": (lambda item, items: item in items, _contained),
    "notin": (lambda item, items: item not in items, _contained),
}
"""What compares two values, and what is paid for it."""


# --- methods of strings -----------------------------------------------------------------------------------------------


def _search(budget: Budget, text: str, sought: Any = "", *_rest: Any) -> None:
    """The worst of what CPython's search takes, which depends on how long the sought text is."""
    length = min(len(sought), LONGEST_SLOW) if isinstance(sought, str) else 1
    budget.charge(LITTLE + LOOK * len(text) * (1 + length / 4))


def _strip(budget: Budget, text: str, marks: Any = None, *_rest: Any) -> None:
    budget.charge(LITTLE + len(text) * (1 + (len(marks) / 4 if isinstance(marks, str) else 0)))


def _split(budget: Budget, text: str, sought: Any = None, *_rest: Any, **_named: Any) -> None:
    _search(budget, text, sought)
    budget.charge(PART * (1 + (text.count(sought) if isinstance(sought, str) and sought else len(text) // 2)))


def _split_lines(budget: Budget, text: str, *_rest: Any, **_named: Any) -> None:
    budget.charge(LITTLE + SLOW * len(text))


def _read_through(budget: Budget, text: str, *given: Any, **_named: Any) -> None:
    """Any other method of a string: its result may be three times as long (a sharp s in capitals)."""
    for value in given:
        budget.looked_at(value)
    budget.spend(3 * len(text), LITTLE + 2 * len(text))


def _tags_stripped(budget: Budget, text: str, *_rest: Any, **_named: Any) -> None:
    """Each tag is cut out by copying the rest."""
    budget.charge(LITTLE + SLOW * len(text) + text.count("<") * len(text) / 16)


def _pad(budget: Budget, text: str, width: Any = 0, *_rest: Any) -> None:
    budget.spend(len(text) + _width(width))


def _tabs(budget: Budget, text: str, tabsize: Any = 8) -> None:
    budget.spend(len(text) + text.count("\t") * _width(tabsize))


def _replace(budget: Budget, text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    _search(budget, text, old)
    budget.spend(len(text) + text.count(str(old)) * budget.text(new))


def _join(budget: Budget, text: str, items: Any = ()) -> None:
    if not isinstance(items, str | list | tuple | Mapping):
        raise failed("the template joins what is no list")
    budget.spend(budget.text(items) + len(items) * len(text))


def _format(budget: Budget, text: str, *values: Any, **named: Any) -> None:
    fields = _field.findall(text)
    budget.charge(FORMAT * (2 + len(fields)) + budget.text(values) + budget.text(named))
    widths = sum(_written(digits) for field in fields for digits in _digits.findall(field))
    if any(field.endswith("{") for field in fields):  # a width that is a value
        widths += len(fields) * sum(_integers(values) + _integers(named))
    budget.spend(len(text) + widths + len(fields) * (budget.extent(values) + budget.extent(named)) * ESCAPED)


def _translate(budget: Budget, text: str, table: Any = None) -> None:
    longest = max(map(budget.extent, table.values()), default=1) if isinstance(table, Mapping) else 1
    budget.spend(len(text) * max(1, longest), SLOW * len(text) * max(1, longest))


METHODS: Mapping[str, Callable[..., None]] = {
    "center": _pad,
    "count": _search,
    "expandtabs": _tabs,
    "find": _search,
    "format": _format,
    "format_map": _format,
    "index": _search,
    "join": _join,
    "ljust": _pad,
    "lstrip": _strip,
    "partition": _search,
    "replace": _replace,
    "rfind": _search,
    "rindex": _search,
    "rjust": _pad,
    "rpartition": _search,
    "rsplit": _split,
    "rstrip": _strip,
    "split": _split,
    "splitlines": _split_lines,
    "strip": _strip,
    "striptags": _tags_stripped,
    "translate": _translate,
    "zfill": _pad,
    "": _read_through,
}
"""Of strings, by name; "" is any other."""
CONSTANT_METHODS = frozenset({"get", "items", "keys", "startswith", "endswith", "values"})
"""Whose owner need not be paid for: it is not gone through."""


# --- filters ----------------------------------------------------------------------------------------------------------


def _lines(budget: Budget, text: Any, width: Any = 4, *_rest: Any, **_named: Any) -> None:
    budget.spend(len(str(text)) + (str(text).count("\n") + 1) * _width(width))


def _counted(budget: Budget, _items: Any, count: Any = 0, *_rest: Any, **_named: Any) -> None:
    budget.spend(_width(count))


def _joined(budget: Budget, items: Any, between: Any = "", *_rest: Any, **_named: Any) -> None:
    count = len(items) if isinstance(items, Sized) else 0
    budget.spend(budget.text(items) + count * budget.text(between))


def _wrapped(budget: Budget, text: Any, width: Any = 79, long: Any = True, sign: Any = None, *_rest: Any) -> None:
    given = str(text)
    longest = max(map(len, given.split()), default=0)  # which is cut by copying the rest
    budget.spend(len(given) * (1 + budget.extent(sign or "")), EACH * len(given) + longest * longest / 16)


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


def _printed(budget: Budget, value: Any, *_rest: Any, **_named: Any) -> None:
    """`pprint` writes a value once for each level that it is nested in."""
    budget.charge(LEVELS * budget.extent(value))


def _tags(budget: Budget, text: Any, *_rest: Any, **_named: Any) -> None:
    _tags_stripped(budget, str(text))


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
    "pprint": _printed,
    "replace": _replaced,
    "round": _rounded,
    "slice": _counted,
    "striptags": _tags,
    "sum": _summed,
    "tojson": _json,
    "urlize": _linked,
    "wordwrap": _wrapped,
}
"""By their arguments as the filter has them, without the environment. All others give about as much as they take."""
CONSTANT = frozenset({"attr", "count", "d", "default", "first", "length", "safe"})
"""Filters that look at no more than a place of what they are given, however large it is."""
CONSTANT_TESTS = frozenset(
    {
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "even",
        "false",
        "filter",
        "float",
        "integer",
        "iterable",
        "mapping",
    }
    | {"none", "number", "odd", "sameas", "sequence", "string", "test", "true", "undefined", "escaped"}
)
"""Tests of that kind."""
RATES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("trim", "upper", "lower", "string", "e", "escape", "replace", "join", "tojson"), (1.0, 0.0)),
    **dict.fromkeys(("list", "reverse", "last", "items", "batch", "slice"), (0.0, PART)),
    "groupby": (SLOW, 5 * EACH),
    "urlize": (2 * SLOW, 0.0),
    **dict.fromkeys(("dictsort", "max", "min", "sort", "sum", "unique"), (SLOW, EACH)),
    **dict.fromkeys(("map", "select", "reject", "selectattr", "rejectattr"), (0.0, EACH)),
}
"""Units for each character, and for each part, of the first thing that a filter is given; all others are `SLOW`."""
TEXTS = frozenset(
    {
        "capitalize",
        "center",
        "e",
        "escape",
        "forceescape",
        "format",
        "indent",
        "lower",
        "pprint",
        "replace",
        "string",
        "striptags",
    }
    | {"title", "tojson", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"}
)
"""Filters that make text of whatever they are given."""


def path_of(name: Any) -> None:
    """The path of an attribute that each part of a list is asked for. Raises TemplateError for one without end."""
    if isinstance(name, str) and name.count(".") + name.count(",") >= PATH:
        raise failed(f"the template asks for an attribute of more than {PATH} names")
