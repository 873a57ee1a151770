"""Errors, whoever writes them: OpenAI's object, a string, FastAPI's `detail`, a flat object, plain text. Words first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...api import Reason, Upstream
from ...dialect import SHOWN, Fault, Reply, fault_of_status, reason_of_status
from ...lenient import mapped
from ...wordings import Said, error_body, plain_word, reason_said, said_by

__all__ = ["fault_in", "fault_in_words", "fault_of_word", "numbered", "parse_error", "told_in"]

WHO = "the server"
MARKUP = ("", "{", "[", "<", '"')
FIRST = 300  # characters of a message in which words count
_BY_MESSAGE = (
    # vLLM, of a prompt that fills the context: we never ask for 0. trtllm-serve calls its own failures bad requests.
    (r"max_tokens must be at least 1, got 0", Reason.CONTEXT_TOO_LONG),
    (r"^generation failed", Reason.ENGINE_ERROR),
    (r"^llm is unavailable", Reason.LOADING),
    (
        r"no (\w+ )?(workers?|instances?|endpoints?|replicas?) (are |is )?(currently )?(available|ready|found)",
        Reason.LOADING,
    ),
    (r"model (is )?(not (yet )?(loaded|ready)|(still |currently )?loading)|warming up", Reason.LOADING),
    (r"no models? ((is|are) )?(currently )?loaded", Reason.LOADING),
    (
        r"too many requests|rate limit|overloaded|at capacity|queue (is |has )?(been )?full|queue limit",
        Reason.OVERLOADED,
    ),
    (
        r"server (is )?busy|currently busy|all slots|no (free |available )?slots?|try again later|throttl",
        Reason.OVERLOADED,
    ),
    (
        r"model .{0,200}(does not exist|not found)|(unknown|invalid) model|no such model|^server is pinned to",
        Reason.UPSTREAM_NOT_FOUND,
    ),
    # transformers serve, inside a 200 (err_first, err_temperature, err_stop).
    (r"^stop string preprocessing|has to be a strictly|^'?max_new_tokens'? must be", Reason.VALIDATION),
    (r"must be of type|must be a (valid )?(string|number|integer|list|boolean)|invalid json", Reason.VALIDATION),
    (r"(kv|key.value) ?cache.{0,60}(full|exhausted|out of|not enough|insufficient)", Reason.KV_EXHAUSTED),
)
_SAID = tuple((re.compile(words), reason) for words, reason in _BY_MESSAGE)
_BY_TYPE = {
    "authentication_error": Reason.UPSTREAM_AUTH,
    "context_length_exceeded": Reason.CONTEXT_TOO_LONG,
    "invalid_api_key": Reason.UPSTREAM_AUTH,
    "model_not_found": Reason.UPSTREAM_NOT_FOUND,
    "not_found_error": Reason.UPSTREAM_NOT_FOUND,
    "notfounderror": Reason.UPSTREAM_NOT_FOUND,
    "overloaded": Reason.OVERLOADED,
    "overloaded_error": Reason.OVERLOADED,
    "permission_error": Reason.UPSTREAM_AUTH,
    "rate_limit_error": Reason.OVERLOADED,
    "rate_limit_exceeded": Reason.OVERLOADED,
    "too_many_requests": Reason.OVERLOADED,
    "unauthorized": Reason.UPSTREAM_AUTH,
    # Less than a status says, and so after it.
    "bad_request": Reason.VALIDATION,
    "badrequesterror": Reason.VALIDATION,
    "invalid_request_error": Reason.VALIDATION,
    "unprocessableentityerror": Reason.VALIDATION,
    "notimplementederror": Reason.UNSUPPORTED,
    "not_implemented": Reason.UNSUPPORTED,
}
# FastChat's numbers, of which it makes one status, 400. Inside a stream they stand beside a text that is not the model's.
_BY_NUMBER = {
    40001: Reason.VALIDATION,
    40101: Reason.UPSTREAM_AUTH,
    40102: Reason.UPSTREAM_AUTH,
    40103: Reason.UPSTREAM_AUTH,
    40301: Reason.UPSTREAM_NOT_FOUND,
    40302: Reason.VALIDATION,
    40303: Reason.CONTEXT_TOO_LONG,
    42901: Reason.OVERLOADED,
    42902: Reason.OVERLOADED,
    42903: Reason.OVERLOADED,
    50001: Reason.ENGINE_ERROR,
    50002: Reason.ENGINE_ERROR,
    50003: Reason.ENGINE_ERROR,
    50004: Reason.ENGINE_ERROR,
    50005: Reason.LOADING,
    50006: Reason.ENGINE_ERROR,
}
_BY_TYPE |= {str(number): reason for number, reason in _BY_NUMBER.items()}
_OVERLOADED = frozenset({429, 529})
_ADVICE = {
    Reason.UPSTREAM_AUTH: "check credentials=",
    Reason.UPSTREAM_NOT_FOUND: "is this the server's base URL, without /v1, and is model= one that it serves?",
}


def parse_error(reply: Reply) -> Fault:
    """A reply that is not a stream."""
    if 300 <= reply.status < 400:
        return fault_of_status(WHO, reply)
    body = error_body(reply.body)
    if body:
        return fault_in(body, reply.status)
    text = reply.body[:SHOWN].decode("utf-8", "replace").strip()
    known = _said(Said(message=text)) if text and not text.startswith("<") else None
    if known is None:
        fault = fault_of_status(WHO, reply)
        if reply.status in _OVERLOADED:
            fault.reason = Reason.OVERLOADED
        return fault
    return _fault(Said(message=text), reply.status)


def told_in(body: Mapping[str, Any]) -> Said:
    """What a JSON object says of an error, in any of its shapes."""
    for name in ("error", "errors", "detail"):
        told = body.get(name)
        if told is None:
            continue
        inner = mapped(told)
        if inner.get("error") is not None or inner.get("detail") is not None:  # one shape within another
            return told_in(inner)
        said = said_by(told)
        # MAX: a `detail` for people and the reason beside it. Others: a string, and type and code beside it.
        beside = said_by(body) if isinstance(body.get("message"), str) else Said()
        message = f"{said.message}: {beside.message}" if beside.message else said.message
        flat = said_by({**body, "message": ""})
        return Said(
            message=message,
            type=said.type or flat.type or _text(body, "error_type"),
            code=flat.code if said.code is None else said.code,
            param=said.param or flat.param,
        )
    if numbered(body):
        return said_by({"message": body.get("text"), "code": body["error_code"], **body})
    return said_by(dict(body)) if body else Said()


def numbered(body: Mapping[str, Any]) -> bool:
    """Whether a number beside a text says that the text is an error's (FastChat)."""
    number = body.get("error_code")
    return type(number) is int and number != 0


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return value[:SHOWN] if isinstance(value, str) else ""


def fault_in(body: Mapping[str, Any], status: int | None) -> Fault:
    """The fault that a JSON object tells of. Inside a stream there is no status but the one it names."""
    said = told_in(body)
    if status is None:
        status = _status(said.code) or _status(body.get("status_code")) or _status(body.get("status"))
    return _fault(said, status)


def fault_of_word(text: str) -> Fault:
    """The fault of an event that is called an error, and is plain text or nothing."""
    return _fault(Said(message=text[:SHOWN]), None)


def fault_in_words(data: bytes, *, sure: bool) -> Fault | None:
    """Plain text where an event was due: an error, where its words are known, or where it is `sure` to be one."""
    text = data[:SHOWN].decode("utf-8", "replace").strip()
    if text[:1] in MARKUP or not (sure or _said(Said(message=text))):
        return None
    return fault_of_word(text)


def _status(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if type(value) is int and 400 <= value < 600 else None


def _said(said: Said) -> Reason | None:
    message = said.message[:FIRST].lower().replace("`", "'")  # further on, validators echo what they were sent
    return reason_said(said.message) or next((reason for words, reason in _SAID if words.search(message)), None)


def _fault(said: Said, status: int | None) -> Fault:
    reason = _reason(said, status)
    message = said.message or (
        f"{WHO}, or a proxy before it, answered {status}" if status else f"{WHO} reported an error"
    )
    advice = _ADVICE.get(reason)
    return Fault(
        reason,
        f"{message} ({advice})" if advice else message,
        upstream=Upstream(status=status, type=said.type or None, message=said.message or None),
    )


def _reason(said: Said, status: int | None) -> Reason:
    typed = [found for name in (said.code, said.type) if (found := _BY_TYPE.get(plain_word(str(name))))]
    if found := next((one for one in typed if one not in (Reason.VALIDATION, Reason.UNSUPPORTED)), None):
        return found
    if status in _OVERLOADED:
        return Reason.OVERLOADED
    if status not in (401, 403) and (found := _said(said)):
        return found
    if status is not None:
        return reason_of_status(status)
    return typed[0] if typed else Reason.ENGINE_ERROR
