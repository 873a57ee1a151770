"""The rows of a batch: what a line asks for, and under which key its answer goes.

A row is an object with a prompt and any other field of GenerateRequest; or a line of OpenAI's batch files. What else stands
there is the caller's own, and goes with the answer as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import msgspec

from ..api import GenerateRequest, InvalidRequestError
from ..determinism import derive_seed
from .keys import DIGEST, digest_of

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["FIELDS", "Ident", "Row", "Template", "canonical", "duplicate_of", "identify", "key_of", "row_of"]

Template = Callable[[Sequence[Mapping[str, Any]]], str]

_OURS = {"task_id", "priority"}  # not a row's to say
_LABELS = {"session_id", "correlation_id", "deadline", "deadline_at"}  # of which no answer depends
_DEFAULTS = {a.name: a.default for a in attrs.fields(GenerateRequest) if a.name not in _OURS}
_DEFAULTS |= {"stop": [], "engine_options": {}, "determinism": "best_effort", "on_degraded": "tell"}
FIELDS = frozenset(_DEFAULTS)
_FLOATS = frozenset(name for name, value in _DEFAULTS.items() if type(value) is float)

_encode = msgspec.json.Encoder(order="deterministic").encode


class _Named(msgspec.Struct):
    """What is read of a line to know its key, if its caller has named it."""

    id: Any = None
    custom_id: Any = None


_named = msgspec.json.Decoder(_Named).decode
_parsed = msgspec.json.Decoder().decode


class Ident(NamedTuple):
    """A row's key: its digest, and the id that the answer gets. `fields`: the row, where it had to be read for that."""

    digest: bytes
    id: Any
    fields: Mapping[str, Any] | None = None


@attrs.define(slots=True)
class Row:
    """A row on its way, and what has become of it so far. `refused`: why it can't be asked for at all."""

    number: int
    digest: bytes
    id: Any
    request: GenerateRequest | None = None
    extra: Mapping[str, Any] | None = None
    refused: str | None = None
    duplicate: Any = None  # the id that was met before
    sent: int = 0  # streams it has had
    attempts: int = 0  # requests that were made for it
    paid: int = 0  # of those that ended by its own fault: its budget
    returned: int = 0  # times it came back at no cost
    tried: tuple[str, ...] = ()
    denied: tuple[Worker, ...] = ()  # workers that said it can't be asked for
    unfit: tuple[Worker, ...] = ()  # workers whose engine can't express it
    after: float = 0.0  # not before that point in time


def identify(line: bytes | Mapping[str, Any]) -> Ident:
    """The key of a line, or of a row that is read already. Raises nothing: a broken line has one, too."""
    if not isinstance(line, bytes):
        return _of_fields(line)
    try:
        named = _named(line)
        own = named.id if named.custom_id is None else named.custom_id
        if own is None:
            return _of_fields(_parsed(line))
        # As `digest_of`, without a call: a job of ten million rows is taken up by ten million of these.
        return Ident(blake2b(b"i" + _encode(own), digest_size=DIGEST).digest(), own)
    except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError):
        return _hashed(b"x" + line.strip(), None)  # its end may be the file's


def _of_fields(fields: Any) -> Ident:
    try:
        own = fields.get("id") if fields.get("custom_id") is None else fields["custom_id"]
        if own is not None:
            return Ident(digest_of(b"i" + _encode(own)), own, fields)
        return _hashed(b"r" + canonical(request_fields(fields)), fields)
    except (AttributeError, TypeError, ValueError, msgspec.MsgspecError):
        return _hashed(b"x" + repr(fields).encode("utf-8", "replace"), None)


def _hashed(key: bytes, fields: Mapping[str, Any] | None) -> Ident:
    digest = digest_of(key)
    return Ident(digest, digest.hex(), fields)


def canonical(fields: Mapping[str, Any]) -> bytes:
    """A request in one way of writing it: without what is the default anyway, and without labels."""
    return _encode(
        {
            name: float(value) if name in _FLOATS and type(value) is int else value
            for name, value in fields.items()
            if name in FIELDS and name not in _LABELS and value is not None and value != _DEFAULTS[name]
        }
    )


def key_of(fields: Mapping[str, Any]) -> str:
    """The id that a row without one gets."""
    return str(_hashed(b"r" + canonical(request_fields(fields)), None).id)


def duplicate_of(ident: Ident, number: int) -> Ident:
    """The key of a row whose key was met before: its own, by where it stands."""
    return _hashed(b"d%d:" % number + ident.digest, None)


_OPENAI = {"max_completion_tokens": "max_tokens"}
_OPENAI_IGNORED = frozenset({"stream", "stream_options", "user", "store", "metadata", "service_tier"})


def request_fields(fields: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The fields of the request, of whichever kind of line. Raises ValueError for what can't be asked for."""
    body = fields.get("body")
    if not isinstance(body, Mapping) or "prompt" in fields or "prompt_tokens" in fields:
        return fields
    url, out = fields.get("url"), dict[str, Any]()
    if url is not None and not (isinstance(url, str) and url.endswith("/completions")):
        raise ValueError(f"completions are asked for here, and nothing of {url!r:.80}")
    given: Mapping[str, Any] = body
    for name, value in given.items():
        if value is None or name in _OPENAI_IGNORED:
            continue
        if name == "n" and value == 1:
            continue
        if name == "prompt" and isinstance(value, list):
            out["prompt_tokens"] = value
        elif name == "response_format" and isinstance(value, Mapping):
            out |= _constraint(value)
        elif (name := _OPENAI.get(name, name)) in FIELDS or name == "messages":
            out[name] = value
        else:
            raise ValueError(f"body.{name} of an OpenAI batch line can't be asked for here")
    return out


def _constraint(form: Mapping[str, Any]) -> dict[str, Any]:
    if form.get("type") == "text":
        return {}
    schema = form.get("json_schema")
    if form.get("type") == "json_schema" and isinstance(schema, Mapping) and "schema" in schema:
        return {"json_schema": schema["schema"]}
    raise ValueError("of response_format only text and json_schema can be asked for")


def row_of(
    number: int,
    line: bytes | Mapping[str, Any],
    ident: Ident,
    *,
    parameters: Mapping[str, Any],
    template: Template | None = None,
) -> Row:
    """The row with its request; where there can be none, with the reason."""
    row = Row(number, ident.digest, ident.id)
    try:
        fields = ident.fields
        if fields is None:
            fields = _parsed(line) if isinstance(line, bytes) else line
        row.request = _request(fields, ident, parameters, template)
        if fields.keys() - _TAKEN:
            openai = _OPENAI_LINE if "body" in fields else _NOTHING
            row.extra = {name: v for name, v in fields.items() if name not in _TAKEN and name not in openai} or None
        if fields.get("custom_id") is not None and fields.get("id") is not None:  # one is its key, one its caller's
            row.extra = {"id": fields["id"], **(row.extra or {})}
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        row.refused = str(error) or type(error).__name__
    return row


_TAKEN = FIELDS | _OURS | {"id", "custom_id", "messages"}
_NOTHING: frozenset[str] = frozenset()
_OPENAI_LINE = frozenset({"body", "method", "url"})


def _request(fields: Any, ident: Ident, parameters: Mapping[str, Any], template: Template | None) -> GenerateRequest:
    if not isinstance(fields, Mapping):
        raise ValueError(f"a row is an object, not {type(fields).__name__}")  # noqa: TRY004  -- it is the row's fault
    wanted = request_fields(fields)
    values = {name: wanted[name] for name in FIELDS & wanted.keys() if wanted[name] is not None}
    if "prompt" not in values and "prompt_tokens" not in values:
        messages = wanted.get("messages")
        if messages is None:
            raise ValueError("the row has no prompt")
        if template is None:
            raise ValueError("the row has messages in place of a prompt, and no template was given to render them with")
        values["prompt"] = template(messages)
    task = ident.digest.hex()
    values = {**parameters, **values, "task_id": task, "priority": "batch"}
    if values.get("seed") is None:
        values["seed"] = derive_seed(task)  # the same whenever, and as often as, it is asked for
    try:
        return GenerateRequest(**values)
    except InvalidRequestError as error:
        raise ValueError(error.message) from None
