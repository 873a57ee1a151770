"""A simulated worker for tests, which remembers what it was asked and says what it is told.

    with SimulatedWorker("vllm", says=["Hello", " world"]) as worker, worker.connect() as adapter:
        assert adapter.generate(GenerateRequest(prompt="Hi")).text == "Hello world"
    assert worker.generations[0].json["prompt"] == "Hi"

The fixture `simulated_worker` of the pytest plugin makes them, and stops them when the test ends.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from .. import registry
from ..api import Adapter
from ..dialect import Dialect
from ..simulator import Ask, ScriptedSource, Simulator, Token, TokenSource, WordSource
from ..simulator.registry import Build, build_of, model_of
from ..simulator.seam import Job, Reply, Request, Setup, Slots, Wire

__all__ = ["RecordedRequest", "SimulatedWorker"]

HIDDEN = "****"
SECRET = re.compile(
    "auth|key|token|secret|cookie|pass|credential", re.IGNORECASE
)  # in names of headers and of parameters

_KEY = secrets.token_bytes()  # secrets are compared by digests that mean nothing in another process


def _digest(text: str) -> bytes:
    return hmac.digest(_KEY, text.encode("utf-8", "surrogatepass"), "sha256")


@attrs.frozen(kw_only=True)
class RecordedRequest:
    """One request that a simulated worker was sent.

    Header names are in lower case. What may be a secret, in a header or the query, stands there as `****`; `carries` tells
    whether it was the right one. `generates`: whether it asks for a generation, as opposed to health, metrics and the like.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    generates: bool
    _secrets: frozenset[bytes] = attrs.field(repr=False)

    @property
    def json(self) -> Any:
        """The parsed body. Raises ValueError for one that is no JSON."""
        return json.loads(self.body)

    def carries(self, secret: str) -> bool:
        """Whether one of the hidden values is this, by itself or behind a scheme such as `Bearer`."""
        return _digest(secret) in self._secrets


def _recorded(request: Request, *, generates: bool) -> RecordedRequest:
    pairs = [*request.headers.items(), *request.query.items()]
    hidden = [value for name, value in pairs if SECRET.search(name)]
    return RecordedRequest(
        method=request.method,
        path=request.path,
        query={name: HIDDEN if SECRET.search(name) else value for name, value in request.query.items()},
        headers={name: HIDDEN if SECRET.search(name) else value for name, value in request.headers.items()},
        body=request.body,
        generates=generates,
        secrets=frozenset(_digest(text) for value in hidden for text in (value, value.partition(" ")[2]) if text),
    )


class _Told:
    """A source that says, generation by generation, what it was told; when it was told nothing more, what `usual` says."""

    def __init__(self, usual: TokenSource) -> None:
        self.vocabulary = usual.vocabulary
        self.queue: deque[Sequence[Token | int | str | bytes]] = deque()
        self._usual = usual

    def generate(self, ask: Ask) -> Iterator[Token]:
        """See TokenSource."""
        try:
            script = self.queue.popleft()
        except IndexError:
            return self._usual.generate(ask)
        return ScriptedSource(script, vocabulary=self.vocabulary).generate(ask)


class SimulatedWorker(Simulator):
    """A Simulator with a memory, and with an adapter for the asking. All of its methods may be called from any thread.

    - `engine`: a name such as `vllm`, or the `build` function of a simulator of your own.
    - `says`: the tokens of every answer; without it they are drawn from the seed. One that ends before the request's
      `max_tokens` ends with `stop`.
    - `faults` and all the rest: see Simulator.
    """

    def __init__(
        self,
        engine: str | Build,
        /,
        *,
        says: Sequence[Token | int | str | bytes] | None = None,
        source: TokenSource | None = None,
        seed: int = 1,
        model: str | None = None,
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        if says is not None and source is not None:
            raise ValueError("says and source both tell what the worker says: give one of them")
        usual = source or (WordSource(seed=seed) if says is None else ScriptedSource(says))
        self.engine = engine
        model = model_of(engine) if model is None else model
        self._credentials = None if api_key is None else lambda: api_key
        self._told = _Told(usual)
        self._replies: deque[Reply] = deque()
        self._requests: list[RecordedRequest] = []
        self._adapters: list[Adapter] = []
        make = partial(self._build, build_of(engine) if isinstance(engine, str) else engine)
        super().__init__(make, source=self._told, seed=seed, model=model, api_key=api_key, seen=self._record, **options)

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """All that was asked until now, in the order in which it was read; an adapter also asks for the version."""
        return tuple(self._requests)

    @property
    def generations(self) -> tuple[RecordedRequest, ...]:
        """Those that ask for a generation: one for each attempt of an adapter."""
        return tuple(request for request in self._requests if request.generates)

    def say(self, *tokens: Token | int | str | bytes) -> None:
        """The tokens of one answer, of the next generation that begins; several calls are for several."""
        self._told.queue.append(tokens)

    def reply(self, status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer the next generation like this instead; several calls are for several.

        `body`: bytes or text as they are, anything else as JSON. `headers` replace the content type that follows from that.
        """
        kind = "text/plain; charset=utf-8" if isinstance(body, str | bytes) else "application/json"
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        given = dict(headers or {})
        if not any(name.lower() == "content-type" for name in given):
            given["Content-Type"] = kind
        self._replies.append(Reply(status=status, headers=tuple(given.items()), body=data))

    def connect(self, dialect: str | Dialect | None = None, **options: Any) -> Adapter:
        """An adapter for this worker, with its model and its key, which is closed with it. Options are those of `connect()`.

        Raises TypeError where the engine has no name by which its dialect could be found, and none is given.
        """
        found = self.engine if dialect is None else dialect
        if not isinstance(found, str | Dialect):
            raise TypeError(
                "a worker with a build function of its own is connected to with a dialect: connect(DIALECT)"
            )
        defaults: dict[str, Any] = {"model": self.model, "credentials": self._credentials}
        adapter = registry.connect(found, self.url, **defaults | options)
        self._adapters.append(adapter)
        return adapter

    def stop(self) -> None:
        """See Simulator; closes the adapters first."""
        while self._adapters:
            self._adapters.pop().close()
        super().stop()

    def _build(self, build: Build, setup: Setup, **options: Any) -> Wire:
        wire = build(setup, **options)
        return attrs.evolve(wire, answer=partial(self._answered, wire))

    def _answered(self, wire: Wire, request: Request, slots: Slots) -> Reply | Job:
        if wire.wording.generates(request):
            try:
                return self._replies.popleft()
            except IndexError:
                pass
        return wire.answer(request, slots)

    def _record(self, request: Request) -> None:
        self._requests.append(_recorded(request, generates=self._wire.wording.generates(request)))
