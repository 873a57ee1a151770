"""What every stream of an adapter shares: who the worker is, how to reach it, what is known about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import attrs

from ..api import Error, Identity, Limits, Phase, Properties, Reason, Retry, Timeouts, WorkerError
from ..api.credentials import Credentials
from ..api.headers import Headers
from ..dialect import Dialect, Fault, Pause, Probe, ProbeTarget, Reply, WireRequest, WorkerFacts, redirected
from ..lifetime import Cause, Interrupted, Lifetime
from ..transport import Transport
from ..waiting import NOBODY, Steps, current_waker
from .beside import Begins, StepsTask
from .bounds import bounded, shown
from .carried import UNAUTHORIZED, Carried
from .cell import Cell
from .envelope import envelope, exception_of
from .facts import Facts
from .recorder import NO_METRICS, Recorder, Telemetry, Versions
from .redact import Redactor, secrets_of
from .reports import REPORTS

__all__ = ["Worker"]

T = TypeVar("T")

VERSION_MAX_AGE = 300.0  # seconds
VERSION_RETRY = 5.0  # seconds: an engine that does not tell must not cost every stream a request
ILL_SHAPED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)  # what strange JSON comes to
RESOLVE_RETRY = 1.0  # seconds that a failure to resolve is the answer to all who ask
TELLING = Timeouts(connect=1.0, probe=1.0)  # nobody waits for it but close()
NO_REPLY = Reply(status=0, headers={}, body=b"")  # what a pause is answered with
STARTED_WAITS = 0.1  # seconds that `Started` may wait for the version, past the stream's own first frame


class Worker:
    """One worker as one adapter sees it. Thread-safe, without a lock of its own."""

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
        headers: Headers | None = None,
        via: str | None = None,
        recorder: Recorder = NO_METRICS,
        clock: Callable[[], float] = time.monotonic,
        shared: Hashable | None = None,
    ) -> None:
        """`via`: a proxy that may answer in the worker's place.

        `shared`: what adapters have in common that share the worker's properties; None: nobody else's.
        """
        self._dialect = dialect
        self.transport = transport
        self.pool_id = pool_id
        self.replica_id = replica_id
        self.model = model
        self.timeouts = timeouts
        self.retry = retry
        self.limits = limits
        self.identity = identity
        self.recorder = recorder
        self.telemetry: Telemetry | None = getattr(recorder, "telemetry", None)
        self.refresher: Begins | None = None
        self.redactor: Redactor = Redactor()
        self.mislabelled = False  # its streams are, and that has been logged
        self._url = url
        self.carried: Carried = Carried(
            credentials,
            headers,
            url=url,
            learn=self.redactor.learn,
            bearing=lambda token: self.dialect.auth_headers(token),  # noqa: PLW0108  -- the dialect of that time
        )
        self._via = via
        self._closed = False
        self._pausing: dict[Lifetime, None] = {}  # probes on threads that are in a pause
        self._telling: dict[StepsTask, None] = {}
        self._unasked = self._completed(Properties(engine=dialect.name, observed_at=0.0))

        def cell(probe: Callable[[], T], max_age: Callable[[], float], retry_after: float) -> Cell[T]:
            return Cell(probe, max_age=max_age, retry_after=retry_after, key=("probe", url), clock=clock)

        interval = self._probe_interval
        self._version = cell(self._ask_version, lambda: VERSION_MAX_AGE, VERSION_RETRY)
        self._doubted = True  # never known, or perhaps replaced since: worth waiting for
        self._facts = Facts.of(shared, url, interval, clock)
        self._facts.askers.add(self)
        self._resolved = cell(self._ask_dialect, lambda: VERSION_MAX_AGE, RESOLVE_RETRY)

    # --- context ----------------------------------------------------------------------------------------------------

    @property
    def dialect(self) -> Dialect:
        """The one to speak: once `resolve` has run, the one that it found."""
        return self._resolved.last or self._dialect

    @property
    def speaks_at_once(self) -> bool:
        """Whether what it speaks is known without asking it."""
        return self._dialect.resolve is None

    @property
    def closed(self) -> bool:
        """Whether its adapter is."""
        return self._closed

    @property
    def known(self) -> Properties:
        """Version and model as far as they are known by now."""
        return self._version.last or self._unasked

    @property
    def known_version(self) -> str | None:
        """The engine's version as far as it is known by now."""
        return self.known.engine_version

    @property
    def versions(self) -> Versions:
        """The same for the metrics, with TensorRT-LLM's."""
        known = self.known
        return Versions(known.engine_version, known.trtllm_version)

    @property
    def seen(self) -> WorkerFacts | None:
        """The facts that somebody has read last, however old. No I/O."""
        plain, scraped = self._facts.plain.last, self._facts.scraped.last
        if plain is None or scraped is None:
            return plain or scraped
        return max(plain, scraped, key=lambda facts: facts.properties.observed_at)

    def error(self, fault: Fault, *, phase: Phase, attempts: int = 0, started: bool = False) -> Error:
        """The envelope of a fault of this worker."""
        if self._via is not None and fault.upstream is not None and fault.upstream.status is not None:
            message = f"{fault.message} (it came by way of the proxy {self._via})"
            fault = Fault(fault.reason, message, upstream=fault.upstream, retry_after=fault.retry_after)
        return envelope(
            fault,
            engine=self.dialect.name,
            pool_id=self.pool_id,
            replica_id=self.replica_id,
            phase=phase,
            attempts=attempts,
            started=started,
            engine_version=self.known_version,
            redactor=self.redactor,
        )

    def refusal(self, fault: Fault) -> WorkerError:
        """What to raise for a fault found before any I/O."""
        return exception_of(self.error(fault, phase=Phase.PREPARE))

    def refusal_of_probe(self, fault: Fault) -> WorkerError:
        """What to raise for a probe that failed.

        From None: a traceback would show the fault's message, in which no secret has been redacted yet.
        """
        return WorkerError(self.error(fault, phase=Phase.PREPARE, attempts=1))

    # --- probes -----------------------------------------------------------------------------------------------------

    def probe(self, conversation: Probe[T], timeouts: Timeouts | None = None) -> T:
        """Carry a probe's requests and return what it learnt. Blocks; raises Fault."""
        timeouts = timeouts or self.timeouts
        headers: Mapping[str, str] = {}
        reply = NO_REPLY
        try:
            headers = self.carried.now()
            step, pauses = next(conversation), timeouts.probe
            while True:
                if isinstance(step, Pause):
                    pauses -= step.seconds
                    reply = self._pause(step.seconds, allowed=pauses >= 0)
                else:
                    reply = self.transport.call(step, headers, timeouts, self.limits.max_probe_body)
                    if (
                        reply.status == UNAUTHORIZED
                        and self.carried.may_differ
                        and headers != (fresh := self.carried.now())
                    ):
                        headers = fresh  # what the refused one has been replaced by meanwhile
                        reply = self.transport.call(step, headers, timeouts, self.limits.max_probe_body)
                step = conversation.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
        except Fault as found:
            # Whatever the dialect makes of a redirect.
            fault = redirected(reply) if 300 <= reply.status < 400 else found
            self.redactor.clean_fault(fault, secrets_of(headers))
            raise fault from found.__cause__
        except ILL_SHAPED as exc:
            raise Fault(
                Reason.PROTOCOL, f"{self.dialect.name} did not answer a probe as expected ({type(exc).__name__})"
            ) from exc
        finally:
            conversation.close()

    def _pause(self, seconds: float, *, allowed: bool) -> Reply:
        if not allowed:
            raise Fault(Reason.CONNECT_TIMEOUT, "what was asked takes longer to find out than Timeouts.probe allows")
        self.rest(seconds)
        return NO_REPLY

    def rest(self, seconds: float) -> None:
        """Let the worker go on for that long. Blocks; closing the adapter ends it: raises Fault."""
        until = time.monotonic() + seconds
        pause = Lifetime(self.timeouts)
        self._pausing[pause] = None
        waker = pause.waker = current_waker()
        try:
            while (left := until - time.monotonic()) > 0 and not self._closed:
                waker.wait(left)
        finally:
            pause.waker = NOBODY
            self._pausing.pop(pause, None)
        if self._closed:
            raise Fault(Reason.ADAPTER_CLOSED, "the adapter was closed")

    def ask(self, conversation: Probe[T]) -> T:
        """As `probe`, for a caller: raises WorkerError."""
        try:
            return self.probe(conversation)
        except Fault as fault:
            ours = fault.reason is Reason.UNSUPPORTED and fault.upstream is None  # judged before anything was asked
            raise WorkerError(self.error(fault, phase=Phase.PREPARE, attempts=0 if ours else 1)) from None

    def target(self, *, scrape: bool = False, deep: bool = False) -> ProbeTarget:
        """What probes may need to know."""
        return ProbeTarget(model=self.model, scrape=scrape, deep=deep)

    def tell(self, wire: WireRequest, heard: Callable[[Reply], None]) -> None:
        """Send a control call, beside everything else; `heard` is called with the reply, if any. Does not block or raise."""
        only = Timeouts(connect=TELLING.connect, first_token=None, idle=None)
        lifetime = Lifetime(only, time.monotonic() + TELLING.probe)

        def steps() -> Steps[None]:
            headers = yield from self.carried.steps(lifetime)
            heard((yield from self.transport.exchange(wire, headers, lifetime, self.limits.max_probe_body)))

        def told() -> None:
            self._telling.pop(task, None)

        task = StepsTask(steps(), lifetime, told)
        self._telling[task] = None
        try:
            task.start()
        except RuntimeError:  # out of threads
            self._telling.pop(task, None)

    def close(self, give_up: float) -> None:
        """End a probe that is pausing; wait until `give_up` (monotonic) for what is being told. Idempotent."""
        self._closed = True
        if self.refresher is not None:
            self.refresher.end()
        self._facts.left_by(self)
        for pause in list(self._pausing):
            pause.wake()
        waker = current_waker()
        while self._telling and (left := give_up - time.monotonic()) > 0:
            waker.wait(min(left, 0.01))
        self.left()

    def left(self) -> None:
        """What is measured of it now is nobody's any more."""
        recorder = self.recorder
        if recorder is not NO_METRICS:
            REPORTS.call(lambda: recorder.closed())  # noqa: PLW0108  -- looked up when it is told, as all that is an application's

    # --- facts ------------------------------------------------------------------------------------------------------

    def facts(self, *, scrape: bool = False) -> WorkerFacts:
        """Properties, read no more often than the dialect allows. Blocks; raises Fault."""
        cell = self._facts.plain
        if scrape:
            cell = self._facts.scraped
        elif self._facts.scraped.young() is not None and self._facts.scraped.last is not None:
            cell = self._facts.scraped  # which knows all that the other would
        try:
            return self._with_identity(cell.get(_patience(self.timeouts)))
        except TimeoutError:
            raise Fault(Reason.CONNECT_TIMEOUT, "somebody else's look at the properties takes too long") from None

    def facts_steps(self, lifetime: Lifetime) -> Steps[WorkerFacts]:
        """The same for a stream, which does not wait for a slow worker longer than it lives. Raises Interrupted too."""
        found = yield from self._facts.plain.wait(lifetime)
        assert found is not None  # noqa: S101  -- it waits without a limit of its own
        return self._with_identity(found)

    def resolve_steps(self, lifetime: Lifetime, since: float) -> Steps[bool]:
        """Find out what the worker speaks, if that takes asking and is not known or old; whether it takes asking at all.

        `since`: when the last answer came, if that was a failure. Raises Fault, Interrupted.
        """
        if self._dialect.resolve is None:
            return False
        yield from self._resolved.wait(lifetime, since=since)
        return True

    def _probe_interval(self) -> float:
        return self.dialect.traits.probe_interval

    def ask_facts(self, *, scrape: bool) -> WorkerFacts:
        """Read them now, for all who share them. Blocks; raises Fault."""
        found = self.probe(self.dialect.properties(self.target(scrape=scrape)))
        observed = attrs.evolve(bounded(found.properties, self.redactor.clean), observed_at=time.time())
        self._learn(observed)
        if self.recorder is not NO_METRICS:
            REPORTS.add(self.recorder.observed, observed)
        against = tuple(shown(self.redactor.clean(why)) for why in found.against_strict)
        return attrs.evolve(found, properties=observed, against_strict=against)

    def _ask_dialect(self) -> Dialect:
        resolve = self._dialect.resolve
        assert resolve is not None  # noqa: S101  -- asked for nothing else
        return self.probe(resolve(self.target()))

    def _with_identity(self, facts: WorkerFacts) -> WorkerFacts:
        return attrs.evolve(facts, properties=self._completed(facts.properties))

    def _completed(self, properties: Properties) -> Properties:
        """With what the caller knows about the worker."""
        identity = self.identity
        return attrs.evolve(
            properties,
            engine_version=properties.engine_version or identity.engine_version,
            trtllm_version=properties.trtllm_version or identity.trtllm_version,
            model_digest=properties.model_digest or identity.model_digest,
        )

    # --- version ----------------------------------------------------------------------------------------------------

    def _ask_version(self) -> Properties:
        told = self.probe(self.dialect.identify(self.target()))
        found = self._completed(bounded(told, self.redactor.clean))
        self._doubted = False
        return found

    def _learn(self, identity: Properties) -> None:
        self._version.put(self._completed(identity))
        self._doubted = False

    def forget_version(self) -> None:
        """The worker may have been replaced: ask again at the next stream."""
        self._doubted = True
        self._version.forget()
        self._resolved.forget()

    def begin_version_probe(self) -> None:
        """Ask for the version beside a stream, unless it is known and young or somebody asks already. Does not block."""
        if self.refresher is not None:
            self.refresher.begin()
        self._version.ask()

    def known_for_started(self, lifetime: Lifetime) -> Steps[Properties]:
        """Version and model, as far as known; waits for a probe under way, unless it only renews, for at most 100 ms."""
        if self._doubted and self._version.in_flight:
            try:
                yield from self._version.wait(lifetime, lifetime.clock() + STARTED_WAITS)
            except Interrupted as exc:
                if exc.cause is Cause.CANCELLED or lifetime.causes:
                    raise
            except Exception:  # noqa: BLE001, S110  -- a failed probe never fails a stream; the version stays as it was
                pass
        return self.known

    def version_now(self) -> str | None:
        """The version, asked for if it is unknown or old. Blocks; None if it can't be had."""
        try:
            return self._version.get(_patience(self.timeouts), again=True).engine_version
        except Exception:  # noqa: BLE001  -- "None if it can't be had", for whatever reason
            return self.known_version


def _patience(timeouts: Timeouts) -> float:
    """Seconds to wait for what another thread is asking: a probe may take several calls."""
    return 4 * timeouts.probe
