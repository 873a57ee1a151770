"""What every stream of an adapter shares: who the worker is, how to reach it, what is known about it."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from ..api import Error, Identity, Limits, Phase, Properties, Reason, Retry, Timeouts, WorkerError
from ..api.credentials import Credentials
from ..dialect import Dialect, Fault, Pause, Probe, ProbeTarget, Reply, WireRequest, WorkerFacts
from ..lifetime import Gate, Lifetime
from ..transport import Transport
from .envelope import Redactor, envelope, exception_of
from .metrics import NO_METRICS, Recorder

__all__ = ["Worker"]

T = TypeVar("T")

VERSION_MAX_AGE = 300.0  # seconds
VERSION_RETRY = 5.0  # seconds: an engine that does not tell must not cost every stream a thread and a request
TELLING = Timeouts(connect=1.0, probe=1.0)  # nobody waits for it but close()
NO_REPLY = Reply(status=0, headers={}, body=b"")  # what a pause is answered with
STARTED_WAITS = 0.1  # seconds that `Started` may wait for the version, past the stream's own first frame


class _Slowly:
    """Facts per worker and process, not per adapter: an engine bears only so many reads, whoever asks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.facts: WorkerFacts | None = None
        self.scraped = False
        self.read_at = -1e9


_slowly: dict[tuple[str, str, str | None], _Slowly] = {}
_slowly_lock = threading.Lock()


def _after_fork_in_child() -> None:
    """A thread that the child does not have may hold any of the locks; what was read may be old by now."""
    global _slowly_lock  # noqa: PLW0603  -- replaced as a whole
    _slowly_lock = threading.Lock()
    _slowly.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)  # before the adapters': they make new workers


class Worker:
    """One worker as one adapter sees it. Thread-safe."""

    def __init__(
        self,
        *,
        dialect: Dialect,
        transport: Transport,
        url: str,
        pool_id: str,
        replica_id: str | None,
        model: str | None,
        credentials: Credentials | None,
        timeouts: Timeouts,
        retry: Retry,
        limits: Limits,
        identity: Identity,
        recorder: Recorder = NO_METRICS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dialect = dialect  # once `resolve` has run: the one that it found
        self._resolve = dialect.resolve
        self._resolved_at = -math.inf
        self.transport = transport
        self.pool_id = pool_id
        self.replica_id = replica_id
        self.model = model
        self.timeouts = timeouts
        self.retry = retry
        self.limits = limits
        self.identity = identity
        self.recorder = recorder
        self.clock = clock
        self.redactor = Redactor()
        self._credentials = credentials
        self._lock = threading.Lock()
        self._known = self._completed(Properties(engine=dialect.name, observed_at=0.0))
        self._known_at = -1e9
        self._failed_at = -1e9  # when it could not be found out
        self._doubted = True  # never known, or perhaps replaced since: worth waiting for
        self._probing: threading.Event | None = None
        self._closing = threading.Event()
        self._telling: set[threading.Thread] = set()
        with _slowly_lock:
            self._slowly = _slowly.setdefault((dialect.name, url, model), _Slowly())

    # --- context ----------------------------------------------------------------------------------------------------

    @property
    def known_version(self) -> str | None:
        """The engine's version as far as it is known by now."""
        return self._known.engine_version

    def auth_headers(self) -> Mapping[str, str]:
        """The headers that carry the credential. Raises Fault where its provider fails."""
        if self._credentials is None:
            return {}
        try:
            token: object = self._credentials()
        except Exception as exc:
            raise Fault(Reason.UPSTREAM_AUTH, f"the credentials provider failed: {type(exc).__name__}: {exc}") from exc
        # Judged here: the HTTP library would quote in its own exception what it can't put into a header.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token.strip():
            raise Fault(Reason.UPSTREAM_AUTH, "the credentials provider must return printable ASCII text, not empty")
        self.redactor.learn(token)
        return self.dialect.auth_headers(token)

    def error(self, fault: Fault, *, phase: Phase, attempts: int = 0, started: bool = False) -> Error:
        """The envelope of a fault of this worker."""
        return envelope(
            fault,
            engine=self.dialect.name,
            pool_id=self.pool_id,
            replica_id=self.replica_id,
            phase=phase,
            attempts=attempts,
            started=started,
            engine_version=self._known.engine_version,
            redactor=self.redactor,
        )

    def refusal(self, fault: Fault) -> WorkerError:
        """What to raise for a fault found before any I/O."""
        return exception_of(self.error(fault, phase=Phase.PREPARE))

    # --- probes -----------------------------------------------------------------------------------------------------

    def probe(self, conversation: Probe[T], timeouts: Timeouts | None = None) -> T:
        """Carry a probe's requests and return what it learnt. `timeouts`: of a stream. Blocks; raises Fault."""
        timeouts = timeouts or self.timeouts
        try:
            headers = self.auth_headers()
            step, pauses = next(conversation), timeouts.probe
            while True:
                if isinstance(step, Pause):
                    pauses -= step.seconds
                    reply = self._pause(step.seconds, allowed=pauses >= 0)
                else:
                    reply = self.transport.call(step, headers, timeouts, self.limits.max_probe_body)
                step = conversation.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
        except (LookupError, TypeError, ValueError, AttributeError) as exc:  # what comes of JSON of another shape
            raise Fault(
                Reason.PROTOCOL, f"{self.dialect.name} did not answer a probe as expected ({type(exc).__name__})"
            ) from exc
        finally:
            conversation.close()

    def _pause(self, seconds: float, *, allowed: bool) -> Reply:
        if not allowed:
            raise Fault(Reason.CONNECT_TIMEOUT, "what was asked takes longer to find out than Timeouts.probe allows")
        if self._closing.wait(seconds):
            raise Fault(Reason.ADAPTER_CLOSED, "the adapter was closed")
        return NO_REPLY

    def tell(self, wire: WireRequest) -> None:
        """Send a control call of whose reply nothing is made, beside everything else. Does not block; never raises."""

        def send() -> None:
            with contextlib.suppress(Exception):  # best effort: whoever is told may be gone
                self.transport.call(wire, self.auth_headers(), TELLING, self.limits.max_probe_body)
            self._telling.discard(thread)

        thread = threading.Thread(target=send, name="worker-adapters-abort", daemon=True)
        self._telling.add(thread)
        try:
            thread.start()
        except RuntimeError:  # out of threads
            self._telling.discard(thread)

    def close(self, give_up: float = 0.0) -> None:
        """End a probe that is pausing; wait until `give_up` (monotonic) for what is being told. Idempotent."""
        self._closing.set()
        for thread in list(self._telling):
            if thread.is_alive():  # and has been started
                thread.join(max(0.0, give_up - time.monotonic()))

    def ask(self, conversation: Probe[T]) -> T:
        """As `probe`, for a caller: raises WorkerError."""
        try:
            return self.probe(conversation)
        except Fault as fault:
            # Not from the fault: a traceback would show its message, in which no secret has been redacted yet.
            raise WorkerError(self.error(fault, phase=Phase.PREPARE, attempts=1)) from None

    def target(self, *, scrape: bool = False, deep: bool = False) -> ProbeTarget:
        """What probes may need to know."""
        return ProbeTarget(model=self.model, scrape=scrape, deep=deep)

    def facts(self, *, scrape: bool = False) -> WorkerFacts:
        """Properties, read no more often than the dialect allows. Blocks; raises Fault."""
        slowly = self._slowly
        with slowly.lock:
            if not self._fresh() or (scrape and not slowly.scraped):
                found = self.probe(self.dialect.properties(self.target(scrape=scrape)))
                observed = attrs.evolve(found.properties, observed_at=time.time())
                slowly.facts = attrs.evolve(found, properties=observed)
                slowly.read_at, slowly.scraped = self.clock(), scrape
                self._learn(observed)
                self.recorder.observed(observed)
            assert slowly.facts is not None  # noqa: S101  -- fresh, or read just now
            return attrs.evolve(slowly.facts, properties=self._completed(slowly.facts.properties))

    def facts_within(self, lifetime: Lifetime) -> WorkerFacts:
        """As `facts`, for a stream, which does not wait for a slow worker longer than it lives. Raises Interrupted too."""
        if self._fresh():
            return self.facts()
        return _within(lifetime, self.facts)

    def resolve_within(self, lifetime: Lifetime) -> bool:
        """Find out what the worker speaks, if that takes asking and is not known or old; whether it takes asking at all.

        Blocks; raises Fault, Interrupted.
        """
        resolve = self._resolve
        if resolve is None:
            return False
        if self.clock() - self._resolved_at >= VERSION_MAX_AGE:
            self.dialect = _within(lifetime, lambda: self.probe(resolve(self.target()), lifetime.timeouts))
            self._resolved_at = self.clock()
        return True

    def _fresh(self) -> bool:
        slowly = self._slowly
        return slowly.facts is not None and self.clock() - slowly.read_at < self.dialect.traits.probe_interval

    def _completed(self, properties: Properties) -> Properties:
        """With what the caller knows about the worker. Per adapter: the facts are shared, identities are not."""
        identity = self.identity
        return attrs.evolve(
            properties,
            engine_version=properties.engine_version or identity.engine_version,
            trtllm_version=properties.trtllm_version or identity.trtllm_version,
            model_digest=properties.model_digest or identity.model_digest,
            model=properties.model or self.model,
        )

    # --- version ----------------------------------------------------------------------------------------------------

    def _learn(self, identity: Properties) -> None:
        with self._lock:
            self._known = self._completed(identity)
            self._known_at = self.clock()
            self._doubted = False

    def forget_version(self) -> None:
        """The worker may have been replaced: ask again at the next stream."""
        with self._lock:
            self._known_at = self._failed_at = -1e9
            self._doubted = True
        self._resolved_at = -math.inf

    def begin_version_probe(self) -> None:
        """Ask for the version beside a stream, unless it is known and young or somebody asks already. Does not block.

        One that could not be found out is not asked for again for a while.
        """
        with self._lock:
            now = self.clock()
            if (
                self._probing is not None
                or now - self._known_at < VERSION_MAX_AGE
                or now - self._failed_at < VERSION_RETRY
            ):
                return
            self._probing = done = threading.Event()
        probe = threading.Thread(target=self._probe_version, args=(done,), name="worker-adapters-version", daemon=True)
        try:
            probe.start()
        except RuntimeError:  # out of threads: no reason to fail the stream
            with self._lock:
                self._probing = None
            done.set()

    def _probe_version(self, done: threading.Event) -> None:
        try:
            self._learn(self.probe(self.dialect.identify(self.target())))
        except Exception:  # noqa: BLE001  -- a failed probe never fails a stream; the version stays as it was
            with self._lock:
                self._failed_at = self.clock()
        finally:
            with self._lock:
                self._probing = None
            done.set()

    def known_for_started(self) -> Properties:
        """Version and model, as far as known; waits for a probe under way, unless it only renews, for at most 100 ms."""
        probing = self._probing
        if probing is not None and self._doubted:
            probing.wait(STARTED_WAITS)
        return self._known

    def version_now(self) -> str | None:
        """The version, asked for if it is unknown or old. Blocks; None if it can't be had."""
        with self._lock:
            self._failed_at = -1e9  # whoever asks wants it now
        self.begin_version_probe()
        probing = self._probing
        if probing is not None:
            probing.wait(self.timeouts.probe)
        return self._known.engine_version

    def join_probe(self, seconds: float) -> None:
        """Wait that long for a version probe under way."""
        probing = self._probing
        if probing is not None:
            probing.wait(seconds)


def _within(lifetime: Lifetime, work: Callable[[], T]) -> T:
    """What `work` returns or raises, on a thread that is left behind when the lifetime is tripped. Raises Interrupted."""
    gate, found = Gate(), list[T | Exception]()

    def run() -> None:
        try:
            found.append(work())
        except Exception as exc:  # noqa: BLE001  -- raised where it is waited for
            found.append(exc)
        gate.open()

    threading.Thread(target=run, name="worker-adapters-facts", daemon=True).start()
    lifetime.sleep(math.inf, gate)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
