"""Jinja2's sandbox as Hugging Face sets it up for chat templates, with bounds. The only module that imports jinja2.

The bounds are put in where a template is compiled: each loop, literal, `~` and piece of output goes through a filter of ours
whose name no template can write. What is random is not there: a prompt that differs from time to time is nobody's prompt.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, TypeAlias

from jinja2 import Template, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .capped import ESCAPED, FILTERS, METHODS, OPERATORS, concat
from .limits import BUDGET, failed

__all__ = ["Compiled", "Sandbox", "render"]

Compiled: TypeAlias = Template

TURNS, MADE, CONCAT, LOOKED_AT = (
    " turns",
    " made",
    " concat",
    " looked at",
)  # names with a space: no template can write them
RANDOM_FILTERS, RANDOM_GLOBALS = ("random",), ("lipsum",)
OTHER_METHODS = frozenset({"bit_length", "decode", "hex", "is_integer"})  # of numbers and bytes
FRAME = frozenset({"_block_vars", "_loop_vars"})  # what Jinja2 adds to a call inside a loop or a block
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
        node.iter = _through(TURNS, node.iter)  # type: ignore[arg-type]  # jinja2 says Node, and parses an expression
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _looked_at(node.expr)
        for operand in node.ops:
            operand.expr = _looked_at(operand.expr)
        return node

    def _literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _through(MADE, node)

    visit_List = visit_Tuple = visit_Dict = _literal

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        sliced = isinstance(node.arg, nodes.Slice)
        self.generic_visit(node)
        return _through(MADE, node) if sliced else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # which is counted where it is put out


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


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
    budget.spend(budget.extent(value))
    return value


def _paid(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted, and pays for what it makes."""
    pay = FILTERS.get(name)
    passed = hasattr(filter_, "jinja_pass_arg")
    plain = inspect.unwrap(filter_)  # jinja2 wraps some, and passes the wrapper more
    signature, passed_on = inspect.signature(plain), hasattr(plain, "jinja_pass_arg")

    @wraps(filter_)
    def paid(*args: Any, **named: Any) -> Any:
        budget = BUDGET.get()
        budget.step()
        given = args[1:] if passed else args
        if name == "join" and given and isinstance(given[0], Iterator):  # such as map gives
            given = (list(budget.turns(given[0])), *given[1:])
            args = (args[0], *given) if passed else given
        if pay is not None:
            bound = signature.bind(*(args if passed_on else given), **named)
            if named:  # in their places, by whatever names they were given
                bound.apply_defaults()
            pay(budget, *bound.args[passed_on:], **bound.kwargs)
            budget.looked_at(bound.args[passed_on])
        elif given:
            budget.spend(ESCAPED * budget.extent(given[0]))
        result = filter_(*args, **named)
        return budget.turns(result) if isinstance(result, Iterator) else budget.made(result)

    return paid


def _looking(test: Any) -> Any:
    """A test, such as `is in`, that pays for what it looks at."""

    @wraps(test)
    def looking(*args: Any, **named: Any) -> Any:
        budget = BUDGET.get()
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
        self.tests: dict[str, Any] = {name: _looking(test) for name, test in self.tests.items()}
        self.filters[TURNS] = lambda items: BUDGET.get().turns(items)
        self.filters[MADE] = lambda value: BUDGET.get().made(value)
        self.filters[LOOKED_AT] = lambda value: BUDGET.get().looked_at(value)
        self.filters[CONCAT] = concat
        self.globals.update(raise_exception=_raise_exception, strftime_now=_dated(now), namespace=_Names)

    def template(self, text: str) -> Compiled:
        """Compile it. Raises what Jinja2 and Python raise for what is no template."""
        tree: nodes.Template = _Bounds().visit(self.parse(text))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result may be large."""
        return OPERATORS[operator](BUDGET.get(), left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805  -- as Jinja2's
        """A function, a macro or a method."""
        budget = BUDGET.get()
        budget.step()
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and args and isinstance(args[0], Iterator):
                args = (list(budget.turns(args[0])), *args[1:])
            pay = METHODS.get(name)
            if pay is None:
                budget.spend(ESCAPED * len(owner))
            else:
                pay(budget, owner, *args, **{key: value for key, value in named.items() if key not in FRAME})
        elif isinstance(owner, int | float | bytes) and name not in OTHER_METHODS:
            raise failed(f"the template calls {type(owner).__name__}.{name}")
        elif isinstance(__obj, LoopContext) and args:  # a loop that calls itself
            args = (budget.turns(args[0]), *args[1:])
        return budget.made(super().call(__context, __obj, *args, **named))


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
