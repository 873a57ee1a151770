"""No secret in an error, in health, in facts or in a pickle: whoever echoes it, however escaped, wherever it was cut."""

from __future__ import annotations

import base64
import functools
import json
import pickle
import re
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from worker_adapters import GenerateRequest, InvalidRequestError, WorkerError, connect
from worker_adapters.runtime.redact import Redactor

from ..products import product
from .hostile import NETWORKED, answering, bound, reply

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = 'sk-0123456789abcdef-"tail/+of=it' + "z" * 40
TOO_MUCH = 6  # characters of it

ESCAPES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "json": lambda s: json.dumps(s)[1:-1],
    "every character in json": lambda s: "".join(f"\\u{ord(c):04x}" for c in s),
    "json in json": lambda s: json.dumps(json.dumps(s))[1:-1],
    "upper case json": lambda s: "".join(f"\\u{ord(c):04X}" for c in s),
    "percent": lambda s: urllib.parse.quote(s, safe=""),
    "percent twice": lambda s: urllib.parse.quote(urllib.parse.quote(s, safe=""), safe=""),
    "every character in percent": lambda s: "".join(f"%{ord(c):02x}" for c in s),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "basic": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "basic, odd": lambda s: base64.b64encode(f"us:{s}".encode()).decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "hex": lambda s: s.encode().hex(),
    "repr": lambda s: repr(s.encode()),
    "html": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "coloured": lambda s: f"{s[:9]}\x1b[31m{s[9:]}",
    "with NULs": "\0".join,
    "folded": lambda s: f"{s[:9]}\r\n {s[9:]}",
    "cut": lambda s: s[: len(s) // 2],
    "cut, then words": lambda s: f"{s[:12]} (is that your key?)",
}


def shown_of(secret: str, text: str) -> float:
    """How many characters of the secret's beginning the text shows, in whichever form."""
    shown = 0.0
    for name, escape in ESCAPES.items():
        form = escape(secret)[8 if name.startswith("basic") else 0 :]  # the user's name is no secret
        length = next(n for n in range(len(form), -1, -1) if form[:n] in text)
        shown = max(shown, length * len(secret) / len(form))
    return shown


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_text_without_the_secret_in_any_form(escape: str) -> None:
    redactor = Redactor()
    redactor.learn(SECRET)
    text = redactor.clean(f"your key {ESCAPES[escape](SECRET)}")
    assert "****" in text
    assert SECRET[:TOO_MUCH] not in text
    assert ESCAPES[escape](SECRET)[: 4 * TOO_MUCH] not in text
    assert SECRET[12:24] not in text


TOKEN = "Bearer eyJhbGciOiJIUzI1NiJ9.e30.XmNK3GpH3Ys_7wsYBfq4C3M6goz71I"
KEYS = ["sk-" + "0123456789abcdef" * 4, "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh", "550e8400-e29b-41d4-a716-446655440000",
        "hush-hush-very-secret", "correct-horse-battery-staple", TOKEN, "acme-prod-0f3b9c7755d1e4a2b6c8"]  # fmt: skip


@pytest.mark.parametrize("secret", KEYS)
@pytest.mark.parametrize("after", ["", "…", "...", '"', " is no key of ours", "***", "\n", "x", "7"])
def test_a_secret_cut_anywhere_gives_nothing_away_but_whole_words_of_its_beginning(secret: str, after: str) -> None:
    redactor = Redactor()
    redactor.learn(secret)
    for length in range(TOO_MUCH, len(secret)):
        if secret[length : length + 1] == after[:1]:
            continue
        text = redactor.clean(f"bad key '{secret[:length]}{after}")
        shown = next(n for n in range(len(secret), -1, -1) if secret[:n] in text)
        whole = 3 * shown <= len(secret) and re.fullmatch(r"([A-Z]?[a-z]{2,}[-_. ]?){1,2}", secret[:shown])
        assert shown < TOO_MUCH or whole, text


HARMLESS = [
    (TOKEN, "a Bearer token is missing: Bearer"),
    ("password123456-and-so-on-and-on", "the password is wrong, says password"),
    ("orders-team-4711-abcdef0123456789-abcdef", "no quota for orders-team: ask the orders-team."),
    ("acme-prod-0f3b9c7755d1e4a2b6c8", "the model acme/7b is not served by acme"),
]


@pytest.mark.parametrize(("secret", "text"), HARMLESS)
def test_words_that_a_key_happens_to_begin_with_survive(secret: str, text: str) -> None:
    redactor = Redactor()
    redactor.learn(secret)
    assert redactor.clean(text) == text
    assert secret not in redactor.clean(f"{text} {secret} {text}")
    assert redactor.clean(f"{text} {secret} {text}").count("****") == 1


def echoes(escape: Callable[[str], str]) -> dict[str, Callable[[str], bytes]]:
    """Ways in which a server tells a client what it had sent."""
    return {
        "JSON error": lambda s: reply(
            json.dumps({"error": {"message": f"no such key: {escape(s)}", "type": escape(s), "code": 401}}).encode(),
            status="401 No",
        ),
        "plain error": lambda s: reply(f"no such key: {escape(s)}".encode(), status="400 No", kind="text/plain"),
        "cut body": lambda s: reply(b"x" * 2030 + escape(s).encode(), status="502 No", kind="text/html"),
        "event": lambda s: reply(
            b"data: " + json.dumps({"error": f"no such key: {escape(s)}", "error_type": "x"}).encode() + b"\n\n",
            kind="text/event-stream",
        ),
        "page under 200": lambda s: reply(f"<html>{escape(s)}</html>".encode(), kind="text/html"),
        "field line": lambda s: f"HTTP/1.1 400 Bad Request\r\nX You Sent: {escape(s)}\r\n\r\n".encode("latin-1"),
        "status line": lambda s: f"HTTP/1.1 nonsense {escape(s)}\r\n\r\n".encode("latin-1"),
        "location": lambda s: reply(b"", f"Location: http://x/?q={escape(s)}", status="302 Found"),
    }


@product(
    "echo, engine",
    [
        (f"{way}, {escape}", engine)
        for way in echoes(str)
        for escape in ("as it is", "every character in json", "percent", "basic")
        for engine in NETWORKED
    ],
)
def test_what_a_server_echoes_shows_nothing_of_it(echo: str, engine: str) -> None:
    way, escape = echo.split(", ")
    answer = echoes(ESCAPES[escape])[way]
    with answering(lambda _: answer(SECRET)) as url, bound(engine, url, credentials=SECRET) as adapter:
        texts = [adapter.health().detail]
        for ask in (adapter.properties, lambda: adapter.tokenize("x", add_special=True)):
            with pytest.raises(WorkerError) as caught:
                ask()
            texts += [str(caught.value), repr(caught.value.error)]
        (*_, error) = adapter.stream(GenerateRequest(prompt="p"))
        texts += [repr(error), error.message]
    for text in texts:
        assert shown_of(SECRET, text) < TOO_MUCH, text
        assert text.isprintable(), text


def test_each_attempts_own_secret_however_many_there_were() -> None:
    """A stream that began long ago, and whose server only then tells what it had sent."""
    keys = iter(f"rotated-{n:04}-{'k' * 30}" for n in range(1000))
    known, go_on = threading.Event(), threading.Event()

    def answer(request: bytes) -> bytes:
        sent = re.search(rb"Authorization: Bearer (\S+)", request)
        assert sent is not None
        if b"first" in request:
            known.set()
            assert go_on.wait(20)
        return reply(json.dumps({"error": {"message": f"bad key {sent[1].decode()}"}}).encode(), status="401 No")

    with answering(answer) as url, bound("vllm", url, credentials=lambda: next(keys)) as adapter:
        stream = adapter.submit(GenerateRequest(prompt="first"))
        assert known.wait(20)
        for _ in range(100):
            assert "rotate" not in repr(list(adapter.stream(GenerateRequest(prompt="p"))))
        go_on.set()
        assert "rotate" not in repr(list(stream))


@pytest.mark.parametrize("engine", NETWORKED)
def test_nothing_of_it_in_facts(engine: str) -> None:
    said = {"version": SECRET, "build_info": SECRET, "model_id": SECRET, "data": [{"id": SECRET}], "model_stats": []}
    said |= {"model_path": SECRET, "total_slots": 1, "endpoint_slots": False}

    def answer(request: bytes) -> bytes:
        return reply(json.dumps([{"name": "m", "state": SECRET}] if b"repository" in request else said).encode())

    with answering(answer) as url, bound(engine, url, credentials=SECRET, model="m") as adapter:
        assert SECRET not in str(adapter.engine_version())
        assert SECRET not in repr(adapter.properties())


@pytest.mark.parametrize(
    "url", ["http://h/?api_key=hush-hush", "http://h/#hush-hush", "http://me:hush-hush@h", "h?k=hush-hush"]
)
@pytest.mark.parametrize("field", ["url", "metrics_url"])
def test_a_url_that_is_refused_is_not_quoted_with_its_key(url: str, field: str) -> None:
    given = {"url": "http://h", field: url}
    with pytest.raises(InvalidRequestError) as caught:
        connect("vllm", **given)
    assert "hush" not in str(caught.value)


def test_keys_in_urls_that_an_engine_quotes() -> None:
    said = "see http://u:hush@h/?api_key=hush&x=1&access_token=hush;sig=hush#y"
    refusal = reply(json.dumps({"error": said}).encode(), status="400 No")
    with answering(lambda _: refusal) as url, bound("tgi", url) as adapter:
        (error,) = adapter.stream(GenerateRequest(prompt="p"))
    assert "hush" not in repr(error)
    assert "x=1" in error.message


def a_function(secret: str = "") -> str:
    return secret


class Vault:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def read(self) -> str:
        return self.secret

    def __call__(self) -> str:
        return self.secret

    @classmethod
    def shared(cls) -> str:
        return "from elsewhere"


class Careful(Vault):
    def __getstate__(self) -> Any:
        return {"secret": ""}


@pytest.mark.parametrize(
    "provider",
    [
        functools.partial(a_function, "hush"),
        Vault("hush").read,
        Vault("hush"),
        "hush",
        functools.partial(Vault("hush")),
    ],
)
def test_a_provider_that_carries_its_secret_is_not_pickled(provider: Any) -> None:
    with (
        connect("vllm", "http://h", credentials=provider) as adapter,
        pytest.raises(TypeError, match="carry the secret"),
    ):
        pickle.dumps(adapter)


@pytest.mark.parametrize("provider", [a_function, Vault.shared, Careful("hush")])
def test_a_provider_that_says_where_it_is_found_is_pickled(provider: Any) -> None:
    with connect("vllm", "http://h", credentials=provider) as adapter:
        data = pickle.dumps(adapter)
    assert b"hush" not in data
    pickle.loads(data).close()
