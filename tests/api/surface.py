"""The public API as text, a name a line: what a change of it must touch, so that it is seen in the change.

    python -m tests.api.surface        # writes tests/api/surface.txt

Public is what the packages in PUBLIC export, and what their classes show without an underscore.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "surface.txt"
PUBLIC = (
    "worker_adapters",
    "worker_adapters.batch",
    "worker_adapters.dialect",
    "worker_adapters.pool",
    "worker_adapters.ray",
    "worker_adapters.serving",
    "worker_adapters.simulator",
    "worker_adapters.testing",
    "worker_adapters.verify",
)
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def surface() -> list[str]:
    """The lines, sorted."""
    return sorted(line for module in PUBLIC for line in _of_module(module))


def _of_module(name: str) -> Iterator[str]:
    module = import_module(name)
    for exported in module.__all__:
        value = getattr(module, exported)
        path = f"{name}.{exported}"
        if inspect.isclass(value):
            yield from _of_class(path, value)
        elif callable(value) and hasattr(value, "__name__"):
            yield f"{path}{_signature(value)}"
        else:
            yield f"{path}: {type(value).__name__}"


def _of_class(path: str, kind: type[Any]) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    if issubclass(kind, enum.Enum):
        yield f"{path}({bases})"
        yield from (f"{path}.{member.name} = {member.value!r}" for member in kind)
        return
    shown = "" if getattr(kind, "_is_protocol", False) else _signature(kind)
    yield f"{path}({bases}){shown}"
    for name in dir(kind):
        if name.startswith("_") or not _is_ours(kind, name):
            continue
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            yield f"{path}.{name}: {inspect.signature(value.fget).return_annotation if value.fget else '?'}"
        elif callable(value) or isinstance(value, classmethod | staticmethod):
            yield f"{path}.{name}{_signature(getattr(kind, name))}"
        else:
            yield f"{path}.{name}"


def _is_ours(kind: type[Any], name: str) -> bool:
    owner = next((base for base in kind.__mro__ if name in vars(base)), kind)
    return owner.__module__.partition(".")[0] == "worker_adapters"


def _signature(value: Any) -> str:
    try:
        return ADDRESS.sub("", str(inspect.signature(value)))
    except (TypeError, ValueError):
        return "(…)"


if __name__ == "__main__":
    RECORD.write_text("\n".join(surface()) + "\n", encoding="utf-8")
