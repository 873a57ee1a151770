"""Jinja2's sandbox as Hugging Face sets it up for chat templates, with bounds. The only module that imports jinja2.

The bounds are put in where a template is compiled: each loop, literal, comparison, `~` and piece of output goes through a
filter of ours whose name no template can write, and each body (of a loop, a macro, a block) pays for what stands in it
whenever it is run. What is called, a filter, a test, an operator or a function, pays for what it is given. What is random is
not there, nor what differs from one process to the next: a prompt that changes by itself is nobody's prompt.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from typing import Any, TypeAlias

from jinja2 import Template, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .capped import (
    COMPARED,
    CONSTANT,
    CONSTANT_METHODS,
    CONSTANT_TESTS,
    FILTERS,
    METHODS,
    OPERATORS,
    RATES,
    SLOW,
    TEXTS,
    concat,
    path_of,
)
from .limits import BUDGET, CALL, LITTLE, PART, Budget, failed

__all__ = ["Compiled", "Sandbox", "render"]

Compiled: TypeAlias = Template

TURNS, MADE, CONCAT, LOOKED_AT, COMPARE, BODY = (  # names with a space: no template can write them
    " turns",
    " made",
    " concat",
    " looked at",
    " compare",
    " body",
)
WEIGHTS: Mapping[type[nodes.Node], int] = {
    nodes.Getattr: 120,
    nodes.Getitem: 120,
    nodes.Output: LITTLE,
    nodes.Scope: LITTLE,
}
NODE = 12  # units of any other, beside what is paid when it is run
OWN = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)  # whose bodies pay by themselves
RANDOM_FILTERS, RANDOM_GLOBALS = ("random",), ("lipsum",)
OTHER_METHODS = frozenset({"bit_length", "decode", "hex", "is_integer"})  # of numbers and bytes
FRAME = frozenset({"_block_vars", "_loop_vars"})  # what Jinja2 adds to a call inside a loop or a block
SYNONYMS: Mapping[str, str] = {
    "==": "eq",
    "equalto": "eq",
    "!=": "ne",
    "<": "lt",
    "lessthan": "lt",
    "<=": "lteq",
    "le": "lteq",
    ">": "gt",
    "greaterthan": "gt",
    ">=": "gteq",
    "ge": "gteq",
}
LONGEST_FORMAT = 1000  # characters of a date's


class _Names(Namespace):
    """Jinja2's `namespace`, whose contents don't show in its text: it is the one value that may come to hold itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what the model has said, for training; here it is what it holds."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Bounds(NodeTransformer):
    """Puts the bounds into a template's tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        weight = _weight([node.target, *node.body, *([node.test] if node.test is not None else [])])
        over: Any = node.iter  # jinja2 says Node, and parses an expression
        node.iter = _through(TURNS, over, nodes.Const(0 if node.recursive else weight))
        if node.recursive:  # a turn may be of a loop that was called
            node.body = [nodes.ExprStmt(_through(BODY, nodes.Const(weight)), lineno=node.lineno), *node.body]
        return node

    def _paying(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        paid = _through(BODY, nodes.Const(_weight(node.body)))
        node.body = [nodes.ExprStmt(paid, lineno=node.lineno), *node.body]
        return node  # type: ignore[no-any-return]  # one of the three below

    visit_Macro = visit_CallBlock = visit_Block = _paying

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if len(node.ops) == 1:
            (one,) = node.ops
            return _through(COMPARE, node.expr, one.expr, nodes.Const(one.op))
        node.expr = _looked_at(node.expr)
        for operand in node.ops:
            operand.expr = _looked_at(operand.expr)
        return node

    def _literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _through(MADE, node)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _looked_at(node.key)  # it is hashed
        return node

    visit_List = visit_Tuple = visit_Dict = _literal

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _through(MADE, node)
        node.arg = _looked_at(node.arg)  # it is hashed
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # which is counted where it is put out


def _through(name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [*args], [], None, None, lineno=node.lineno)


def _weight(body: Iterable[nodes.Node]) -> int:
    """What it takes to run these once, whatever they are given; bodies that pay by themselves left out."""
    units, rest = 0, [*body]
    while rest:
        node = rest.pop()
        units += WEIGHTS.get(type(node), NODE)
        if not isinstance(node, OWN):
            rest += node.iter_child_nodes()
        elif isinstance(node, nodes.For):
            rest.append(node.iter)
    return units


def _looked_at(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _through(LOOKED_AT, node)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any = "") -> None:
    raise failed(f"the template refuses the messages: {message}")


@pass_context
def _put_out(_context: Context, value: Any) -> Any:
    """Jinja2's `finalize`: of a context, so that nothing is done before there is a budget."""
    budget = BUDGET.get()
    budget.spend(LITTLE + budget.text(value))
    return value


def _body(units: int) -> str:
    BUDGET.get().charge(units)
    return ""


def _compared(left: Any, right: Any, name: str) -> Any:
    compare, pay = COMPARED[name]
    pay(BUDGET.get(), left, right)
    return compare(left, right)


def _paid(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted, and pays for what it makes."""
    pay = FILTERS.get(name)
    passed = hasattr(filter_, "jinja_pass_arg")
    plain = inspect.unwrap(filter_)  # jinja2 wraps some, and passes the wrapper more
    signature, passed_on = inspect.signature(plain), hasattr(plain, "jinja_pass_arg")

    @wraps(filter_)
    def paid(*args: Any, **named: Any) -> Any:
        budget = BUDGET.get()
        budget.step(2 * CALL)
        given = args[1:] if passed else args
        if name == "join" and given and isinstance(given[0], Iterator):  # such as map gives
            given = (list(budget.turns(given[0])), *given[1:])
            args = (args[0], *given) if passed else given
        for value in (*given[1:], *named.values()):
            budget.looked_at(value)
            path_of(value)
        if pay is not None:
            bound = signature.bind(*(args if passed_on else given), **named)
            if named:  # in their places, by whatever names they were given
                bound.apply_defaults()
            pay(budget, *bound.args[passed_on:], **bound.kwargs)
            _read(budget, name, bound.args[passed_on])
        elif given:
            _read(budget, name, given[0])
        result = filter_(*args, **named)
        if isinstance(result, Iterator):
            return budget.turns(result)
        return result if name in CONSTANT else budget.made(result)

    return paid


def _read(budget: Budget, name: str, value: Any) -> None:
    """A filter goes through what it is given."""
    if name in CONSTANT:
        return
    each, part = RATES.get(name, (SLOW, 0.0))
    extent = budget.text(value) if name in TEXTS else budget.extent(value) if each else 0
    parts = len(value) if part and isinstance(value, Sized) else 0
    budget.spend(extent, each * extent + part * parts)


def _looking(name: str, test: Any) -> Any:
    """A test, such as `is in`, that pays for what it looks at."""
    pay = COMPARED[SYNONYMS.get(name, name)][1] if SYNONYMS.get(name, name) in COMPARED else None

    @wraps(test)
    def looking(*args: Any, **named: Any) -> Any:
        budget = BUDGET.get()
        budget.step(LITTLE)
        if pay is not None and len(args) == 2:
            pay(budget, *args)
        elif name not in CONSTANT_TESTS:
            for value in (*args, *named.values()):
                budget.looked_at(value)
        return test(*args, **named)

    return looking


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are compiled and rendered in. Raises TemplateError for what goes too far."""

    intercepted_binops: frozenset[str] = frozenset(OPERATORS)

    def __init__(self, now: Callable[[str], str]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # which would work out constants before there is a budget
            finalize=_put_out,
        )
        self.filters["tojson"] = _to_json
        for name in RANDOM_FILTERS:
            del self.filters[name]
        for name in RANDOM_GLOBALS:
            del self.globals[name]
        self.filters: dict[str, Callable[..., Any]] = {
            name: _paid(name, filter_) for name, filter_ in self.filters.items()
        }
        self.tests: dict[str, Any] = {name: _looking(name, test) for name, test in self.tests.items()}
        self.filters[TURNS] = lambda items, body: BUDGET.get().turns(items, body)
        self.filters[BODY] = _body
        self.filters[COMPARE] = _compared
        self.filters[MADE] = lambda value: BUDGET.get().made(value)
        self.filters[LOOKED_AT] = lambda value: BUDGET.get().looked_at(value)
        self.filters[CONCAT] = concat
        self.globals.update(raise_exception=_raise_exception, strftime_now=_dated(now), namespace=_Names)

    def template(self, text: str) -> Compiled:
        """Compile it. Raises what Jinja2 and Python raise for what is no template."""
        tree: nodes.Template = _Bounds().visit(self.parse(text))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result may be large, or which takes long."""
        budget = BUDGET.get()
        budget.charge(LITTLE)
        return OPERATORS[operator](budget, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805  -- as Jinja2's
        """A function, a macro or a method."""
        budget = BUDGET.get()
        budget.step()
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        given = [*args, *(value for key, value in named.items() if key not in FRAME)]
        budget.charge(4 * PART * len(args) + 16 * PART * len(named))
        if isinstance(owner, str):
            if name == "join" and args and isinstance(args[0], Iterator):
                args = (list(budget.turns(args[0])), *args[1:])
            for value in args:
                budget.looked_at(value)
            if name not in CONSTANT_METHODS:
                pay = METHODS.get(name, METHODS[""])
                pay(budget, owner, *args, **{key: value for key, value in named.items() if key not in FRAME})
        elif isinstance(owner, int | float | bytes) and name not in OTHER_METHODS:
            raise failed(f"the template calls {type(owner).__name__}.{name}")
        elif isinstance(__obj, LoopContext) and args:  # a loop that calls itself
            args = (budget.turns(args[0]), *args[1:])
        elif not isinstance(__obj, Macro):  # which passes on what it is given
            for value in given if name in CONSTANT_METHODS else (*given, owner):
                budget.looked_at(value)
                budget.charge(SLOW * len(value) if isinstance(value, str) else 0)
        result = super().call(__context, __obj, *args, **named)
        return result if name in CONSTANT_METHODS else budget.made(result)


def _dated(now: Callable[[str], str]) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if len(form) > LONGEST_FORMAT:
            raise failed(f"the format of a date has more than {LONGEST_FORMAT} characters")
        return now(form)

    return strftime_now


def render(template: Compiled, variables: Mapping[str, Any], most: int) -> str:
    """The template's text. Raises TemplateError, and what rendering raises."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(template, variables):
        size += len(piece)
        if size > most:
            raise failed(f"the prompt has more than {most} characters")
        pieces.append(piece)
    return "".join(pieces)


def _pieces(template: Compiled, variables: Mapping[str, Any]) -> Iterable[str]:
    return template.root_render_func(template.new_context(dict(variables)))
