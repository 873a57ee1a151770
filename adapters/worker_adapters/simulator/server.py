"""The simulator: sockets and threads around an engine's wire."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self, cast

import attrs

from ..faults import FaultScript, FaultSpec
from .drift import Drift, DriftingSource, drifts_of
from .exchange import READ_TIMEOUT, BadRequestError, BrokenError, GoneError, Out, Split, alive, left, read_request
from .jobs import Pace, Performance
from .registry import Build, build_of, model_of
from .seam import Head, Job, Reply, Request, Setup, Wire
from .slots import Slots, State, StoppedError
from .source import TokenSource, WordSource
from .trouble import Trouble, brought, refusal, stumbled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = ["Simulator"]

HEADER = "x-simulator-fault"
ACCEPT_AGAIN = 0.01  # seconds between two attempts to accept when descriptors have run out


class Simulator:
    """An HTTP server that speaks the wire of an inference engine, from a seeded token source.

    Use as a context manager, or `start()` and `stop()`; once stopped it cannot be started again. One daemon thread
    accepts, one more serves each connection; `stop()` closes all sockets and joins all threads. All methods may be
    called from any thread.

    - `engine`: one of `engine_names()`, or the `build` of an engine (see `simulator.seam`). Options that are not listed
      here go to it; one it does not know raises TypeError.
    - `host`, `port`: where to listen; port 0 takes a free one.
    - `rate`: tokens a second and task, None for full speed; `first_token_delay`: seconds from admission to first token.
    - `slots`: how many tasks run at once; more wait in order of arrival. `ctx`: context length in tokens, in the sense
      of the engine's own flag. `kv_tokens`: size of a shared cache; when running tasks outgrow it, they all fail.
    - `seed`: of the token source, if `source` is not given, and of whatever else the engine draws.
    - `split`: cut every body into sends of that many bytes, or as a function cuts it (see `random_cuts`);
      `chunk_split`: likewise for HTTP chunks. None leaves both as the engine does it. `coalesce`: how many events of a
      stream share one chunk.
    - `faults`: what goes wrong and when, as docs/simulator.md says; one that can't be read raises ValueError. A request
      may also bring its own in a header X-Simulator-Fault, which then replace the script's.
    - `api_key`: required of clients, in the engine's own way. `model`: the name the engine gives its model; by default one
      that `connect()` needs not be told.
    - `load_time`: seconds for which the engine says that it is loading; `finish_loading()` ends that early.
    - `keep_alive_s`: seconds a connection stays open for another request, and one that is to be closed waits for its client.
    - `drift`: when it answers otherwise than it should, such as "tie@127 if width>=5" (docs/simulator.md).
    - `seen`: told of each request once it is read, before faults and engine are, on its connection's thread.
    """

    def __init__(
        self,
        engine: str | Build,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: float | None = None,
        first_token_delay: float = 0.0,
        slots: int = 2,
        ctx: int = 8192,
        kv_tokens: int | None = None,
        seed: int = 1,
        source: TokenSource | None = None,
        split: Split = None,
        chunk_split: Split = None,
        coalesce: int = 1,
        faults: Sequence[FaultSpec | str] = (),
        api_key: str | None = None,
        model: str | None = None,
        load_time: float = 0.0,
        keep_alive_s: float = 5.0,
        seen: Callable[[Request], object] | None = None,
        drift: Sequence[Drift | str] = (),
        **options: Any,
    ) -> None:
        if (rate is not None and rate <= 0) or slots < 1 or coalesce < 1:
            raise ValueError(
                f"rate must be above 0 (or None), slots and coalesce at least 1: {rate}, {slots}, {coalesce}"
            )
        said, drifts = source or WordSource(seed=seed), drifts_of(drift)
        build = build_of(engine) if isinstance(engine, str) else engine
        self.model: str = model_of(engine) if model is None else model
        setup = Setup(
            model=self.model,
            slots=slots,
            ctx=ctx,
            seed=seed,
            api_key=api_key,
            source=DriftingSource(said, drifts) if drifts else said,
            kv_tokens=kv_tokens,
        )
        self._wire = build(setup, **options)
        if not isinstance(self._wire, Wire):
            raise TypeError(f"the build function of {engine!r} made no Wire but a {type(self._wire).__name__}")
        self._pace = Pace(first_token_delay=first_token_delay, rate=rate)
        self._address = (host, port)
        self._cuts: dict[str, Any] = {"split": split, "chunk_split": chunk_split, "coalesce": coalesce}
        self._script = FaultScript(faults, seed=seed)
        self._started_at = 0.0
        self._slots_made = (slots, kv_tokens, load_time)
        self._keep_alive = keep_alive_s
        self._seen = seen
        self._slots: Slots | None = None
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()  # guards _connections and _script

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        if self._listener is None:
            raise RuntimeError("the simulator has not been started")
        return self._address

    @property
    def state(self) -> State:
        """The counters now."""
        return self._running().state

    def start(self) -> Self:
        """Listen and serve; returns at once. Raises OSError if the address is taken."""
        if self._slots is not None:
            raise RuntimeError("a simulator is started once")
        slots, kv_tokens, load_time = self._slots_made
        self._listener = socket.create_server(self._address, backlog=512)
        host, port = self._listener.getsockname()[:2]
        self._address = (host, port)
        self._slots = Slots(slots, kv_tokens=kv_tokens, load_time=load_time)
        self._started_at = time.monotonic()
        self._acceptor = threading.Thread(target=self._accept, name=f"simulator-{port}", daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close every socket and join every thread; harmless when repeated. Running answers end without their end."""
        if self._slots is None or self._listener is None or self._acceptor is None:
            return
        self._slots.stop()
        # shutdown() is what wakes a thread blocked in accept() or recv() on Linux; close() does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            connections = dict(self._connections)
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()

    def inject(self, *faults: FaultSpec | str) -> None:
        """Put more faults at the end of the script; they count requests from here on. Raises ValueError."""
        with self._lock:
            self._script.add(*faults)

    def finish_loading(self) -> None:
        """End the loading phase now."""
        self._running().finish_loading()

    def wait_for(
        self, predicate: Callable[[State], object] | None = None, /, timeout: float = 5.0, **counters: int
    ) -> State:
        """Block until `predicate(state)` holds and every named counter has that value; returns the state.

        Raises TimeoutError after `timeout` seconds. `predicate` is called with a lock held: it must not block.
        """

        def reached(state: State) -> bool:
            return (predicate is None or bool(predicate(state))) and all(
                getattr(state, name) == value for name, value in counters.items()
            )

        return self._running().wait_for(reached, timeout)

    def _running(self) -> Slots:
        if self._slots is None:
            raise RuntimeError("the simulator has not been started")
        return self._slots

    def _accept(self) -> None:
        slots, listener = self._running(), self._listener
        while listener is not None:
            try:
                sock, _ = listener.accept()
            except OSError:  # stopped; or out of descriptors, or the client has left the queue: there will be others
                if slots.stopping.wait(ACCEPT_AGAIN):
                    return
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                faults = self._script.for_connection()
            for fault in faults:
                if fault.kind == "stall":
                    slots.fault(fault.kind)
                    # Whoever comes meanwhile waits as well, in the kernel's queue.
                    left(sock, cast(float, fault.value), listener)
            thread = threading.Thread(
                target=self._connection, args=(sock, faults), name="simulator-connection", daemon=True
            )
            with self._lock:
                # Threads leave here, not by themselves: stop() must find every thread that may still be alive.
                self._connections = {one: other for one, other in self._connections.items() if other.is_alive()}
                self._connections[sock] = thread
            slots.count(accepted=1, open=1)
            try:
                thread.start()
            except RuntimeError:  # the process has as many as it may have
                with self._lock:
                    del self._connections[sock]
                sock.close()
                slots.count(open=-1)

    def _connection(self, sock: socket.socket, faults: Sequence[FaultSpec]) -> None:
        try:
            for fault in faults:
                if fault.kind != "stall":
                    self._turn_away(sock, fault)
            for number in range(1, self._wire.keep_alive_max + 1):
                if not self._exchange(sock, first=number == 1, last=number == self._wire.keep_alive_max):
                    break
        except (BrokenError, GoneError, StoppedError):
            pass
        finally:
            sock.close()
            self._running().count(open=-1)

    def _turn_away(self, sock: socket.socket, fault: FaultSpec) -> None:
        """Raises BrokenError."""
        self._running().fault(fault.kind)
        if fault.kind == "close":
            # close() would reset the connection if the request has come and was not read.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            self._linger(sock)
        Out(sock=sock).leave(reset=fault.kind == "reset")

    def _exchange(self, sock: socket.socket, *, first: bool, last: bool) -> bool:
        """One request and its answer; whether the connection may carry another. The first one may take its time."""
        out = Out(sock=sock, framed=self._wire.chunked, **self._cuts)
        try:
            request = read_request(sock, out, idle=READ_TIMEOUT if first else self._keep_alive)
        except BadRequestError as error:
            unknown = Request(method="", path="", query={}, headers={}, closing=True)
            sock.settimeout(None)
            self._send(out, unknown, self._wire.bad_request(error.status), close=True)
            self._linger(sock)
            return False
        if request is None:
            return False
        sock.settimeout(None)  # sending may take as long as the client likes; stop() wakes it
        self._running().count(requests=1)
        if self._seen is not None:
            self._seen(request)
        close = last or request.closing
        request, faults = self._faults(request)
        if isinstance(faults, Reply):
            answer: Reply | Job = faults
            trouble = Trouble(faults=(), out=out, wording=self._wire.wording, fired=self._running().fault)
        else:
            trouble = Trouble(faults=faults, out=out, wording=self._wire.wording, fired=self._running().fault)
            answer = trouble.before() or self._answer(request)
        reply = self._perform(answer, request, trouble, close=close) if isinstance(answer, Job) else answer
        if reply is None:
            return not (close or self._wire.stream_closes) and out.framed
        self._send(out, request, trouble.dressed(reply), close=close or reply.close)
        if reply.close and not request.closing:
            self._linger(sock)
        return not (close or reply.close) and out.framed

    def _answer(self, request: Request) -> Reply | Job:
        """The engine's. Where it stumbles over a request, it says so, as real ones do of what they did not foresee."""
        try:
            return self._wire.answer(request, self._running())
        except Exception as error:  # noqa: BLE001  -- third parties' code, given whatever came over the network
            return stumbled(self._wire.wording, error).reply

    def _faults(self, request: Request) -> tuple[Request, Sequence[FaultSpec] | Reply]:
        """The request as the engine may see it, and the faults it meets, or what is wrong with those it brings."""
        headers = dict(request.headers)
        own = headers.pop(HEADER, None)
        seen = attrs.evolve(request, headers=headers)
        if own is None:
            elapsed = time.monotonic() - self._started_at
            with self._lock:
                generates = self._wire.wording.generates(seen)
                return seen, self._script.for_request(seen.path, generates=generates, elapsed=elapsed)
        try:
            return seen, brought(own)
        except ValueError as error:
            return seen, refusal(400, str(error))

    def _perform(self, job: Job, request: Request, trouble: Trouble, *, close: bool) -> Reply | None:
        out = trouble.out

        def send_head(reply: Reply) -> None:
            out.head(
                self._wire.head(
                    Head(request=request, reply=trouble.dressed(reply), length=None, close=close or reply.close)
                )
            )

        return Performance(
            job=job,
            slots=self._running(),
            pace=self._pace,
            out=out,
            alive=lambda: alive(out.sock),
            send_head=send_head,
            exhausted=self._wire.exhausted,
            lone_poll=self._wire.lone_poll,
            trouble=trouble,
        ).perform()

    def _send(self, out: Out, request: Request, reply: Reply, *, close: bool) -> None:
        length = None if reply.chunked else len(reply.body)
        out.head(self._wire.head(Head(request=request, reply=reply, length=length, close=close)))
        if not reply.chunked:
            out.whole(reply.body)
            return
        if reply.body:
            out.chunk(reply.body)
        out.end_chunks()

    def _linger(self, sock: socket.socket) -> None:
        """Wait for the client to close first: closing at once could reset the connection before the reply is read."""
        deadline = time.monotonic() + self._keep_alive
        with contextlib.suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                if not sock.recv(65536):
                    return
