"""`ChatTemplate`: a model's chat template, from its files to a prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..api import Features
from .limits import BUDGET, Budget, TemplateError, TemplateLimits, failed

if TYPE_CHECKING:
    from .sandbox import Compiled

__all__ = ["ChatTemplate"]

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
DEFAULT = "default"
MISSING = "chat templates need Jinja2: pip install 'worker-adapters[templates]'"


def _local_now() -> datetime:
    return datetime.now()  # noqa: DTZ005  -- the date where the caller is, as everybody renders it


class ChatTemplate:
    """A chat template as Hugging Face's tokenizers have them, in Jinja2's sandbox. Immutable, safe to share.

    `text`: the template itself; `digest` is the sha256 of it. `special_tokens`: variables such as bos_token. `adds_bos`:
    False for a tokenizer known not to put BOS before a text. `clock`: what `strftime_now` tells; give a fixed one, or the
    prompt changes with the day. Raises TemplateError for what is no template, ImportError without Jinja2.
    """

    def __init__(
        self,
        text: str,
        *,
        special_tokens: Mapping[str, Any] | None = None,
        adds_bos: bool | None = None,
        clock: Callable[[], datetime] = _local_now,
        limits: TemplateLimits | None = None,
    ) -> None:
        if not isinstance(text, str):
            raise failed(f"a template is a string, not {type(text).__name__}")
        self.text = text
        self.special_tokens: Mapping[str, Any] = dict(special_tokens or {})
        self.adds_bos = adds_bos
        self._clock = clock
        self._limits = limits or TemplateLimits()
        _ = self._compiled

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        special_tokens: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = _local_now,
        limits: TemplateLimits | None = None,
    ) -> Self:
        """From a `tokenizer_config.json`, a `chat_template.jinja`, or the folder that has them.

        `name`: which one of several ("default" otherwise). Special tokens are the config's, also of one that lies beside a
        Jinja file, overlaid with those given. Raises TemplateError; OSError for a file that can't be read.
        """
        text, config = _found(Path(path), name)
        adds = config.get("add_bos_token")
        return cls(
            text,
            special_tokens={**_special_tokens(config), **(special_tokens or {})},
            adds_bos=adds if isinstance(adds, bool) else None,
            clock=clock,
            limits=limits,
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of the template's text, in hex."""
        return sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        features: Features | None = None,
        **variables: Any,
    ) -> str:
        """The prompt. Other variables of the template are given by name. Does no I/O. Raises TemplateError.

        `features`: of the adapter that the prompt is for: where its server puts BOS before a text, the prompt has none.
        """
        from .sandbox import render  # noqa: PLC0415  -- Jinja2 is an extra

        given = {
            **self.special_tokens,
            "messages": list(messages),
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        token = BUDGET.set(Budget(self._limits))
        try:
            prompt = render(self._compiled, given, self._limits.characters)
        except TemplateError:
            raise
        except RecursionError:
            raise failed("the template calls itself without end, or what it is given is nested too deep") from None
        except Exception as exc:  # whatever a template does wrong with what it is given
            raise failed(f"the template failed: {type(exc).__name__}: {exc}") from exc
        finally:
            BUDGET.reset(token)
        return self._without_bos(prompt) if features is not None and features.adds_bos else prompt

    def _without_bos(self, prompt: str) -> str:
        bos = self.special_tokens.get("bos_token")
        if self.adds_bos is False or not isinstance(bos, str) or not bos:
            return prompt
        return prompt.removeprefix(bos)

    @cached_property
    def _compiled(self) -> Compiled:
        try:
            from .sandbox import Sandbox  # noqa: PLC0415  -- Jinja2 is an extra
        except ImportError as exc:
            raise ImportError(MISSING) from exc
        try:
            return Sandbox(self._now).template(self.text)
        except RecursionError:
            raise failed("the template is nested too deep") from None
        except Exception as exc:  # a template's syntax error, or Python's for what it compiles to
            line = getattr(exc, "lineno", None)
            where = "" if line is None else f", line {line}"
            raise failed(f"this is no template{where}: {exc}") from exc

    def _now(self, form: str) -> str:
        return self._clock().strftime(form)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_compiled"}

    def __repr__(self) -> str:
        return f"ChatTemplate(digest={self.digest[:12]}…, {len(self.text)} characters)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChatTemplate):
            return NotImplemented
        return (self.text, self.special_tokens) == (other.text, other.special_tokens)

    def __hash__(self) -> int:
        return hash(self.text)


def _found(path: Path, name: str | None) -> tuple[str, Mapping[str, Any]]:
    """The template's text, and the tokenizer's configuration around it."""
    if path.is_dir():
        jinja = path / TEMPLATE
        path = jinja if jinja.exists() else path / CONFIG
    if path.suffix == ".json":
        config = _json(path)
        return _chosen(config.get("chat_template"), name, path), config
    config = _json(path.parent / CONFIG) if (path.parent / CONFIG).exists() else {}
    if name in {None, DEFAULT}:
        return path.read_text(encoding="utf-8"), config
    other = path.parent / "additional_chat_templates" / f"{name}.jinja"
    if Path(str(name)).name != name or not other.exists():
        raise failed(f"{path.parent} has no template named {name!r}")
    return other.read_text(encoding="utf-8"), config


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise failed(f"{path} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise failed(f"{path} is no JSON object")
    return found


def _chosen(given: Any, name: str | None, path: Path) -> str:
    if isinstance(given, list):  # named ones
        given = {
            one["name"]: one["template"] for one in given if isinstance(one, dict) and {"name", "template"} <= {*one}
        }
    if isinstance(given, str):
        given = {DEFAULT: given}
    if not isinstance(given, dict) or not given:
        raise failed(f"{path} has no chat_template")
    text = given.get(name or DEFAULT)
    if not isinstance(text, str):
        raise failed(f"{path} has no template named {name or DEFAULT!r}; there are: {', '.join(map(str, given))}")
    return text


def _special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those that have a name: as text, or as an object with the text in it."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_token") and (text := _text_of(value)) is not None:
            found[name] = text
    additional = config.get("additional_special_tokens")
    if isinstance(additional, list):
        found["additional_special_tokens"] = [text for one in additional if (text := _text_of(one)) is not None]
    return found


def _text_of(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
