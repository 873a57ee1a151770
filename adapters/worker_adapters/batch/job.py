"""The batch: rows in, rows out, many workers, one thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from ..api import (
    Adapter,
    AdapterClosedError,
    AdmissionRejectedError,
    End,
    Error,
    Event,
    FinishReason,
    InvalidRequestError,
    Reason,
    Started,
    Stream,
    Token,
)
from ..placing import emptiest
from ..runtime import merge
from .disk import DISK, Disk
from .flight import Flight, answered, failed, refused
from .header import difference, header_of
from .intake import Intake
from .journal import Journal, JournalError, StoppedError
from .judge import Verdict, is_gone, judged
from .keys import Keys
from .options import Options
from .progress import Progress
from .report import Outcome, Report, Tick
from .rows import Row
from .sink import in_completion_order, in_input_order, written
from .source import NOT_YET, can_be_read_again, require_possible
from .staff import staff_of
from .worker import Worker

__all__ = ["Batch"]

TICK = 0.25  # seconds between two looks at the windows
FREE_RETURNS = 16  # how often a row may come back at no cost: one that kills its worker must not kill them all for ever
MANY = 32  # streams, from which on is gathered
GATHER, GATHER_SHARE = 0.01, 0.01  # seconds, and share of a row's life
RUNS = 1000  # runs that are taken before windows and disk are looked after again
AGAIN_AFTER = 0.25  # seconds before a row's second attempt; twice as many before each further one


class Batch:
    """One job: `source` (JSON Lines, Parquet, `-`) answered by `workers` into `output`, with a journal beside that.

    `run` blocks; `stop` is for any thread and signal handlers. An adapter that is given stays open, and its limits do not
    count: the batch has its own.
    """

    def __init__(
        self,
        source: str | Path,
        output: str | Path,
        workers: Sequence[Adapter],
        *,
        options: Options | None = None,
        on_tick: Callable[[Tick], object] | None = None,
        disk: Disk = DISK,
    ) -> None:
        if not workers:
            raise ValueError("a batch needs a worker")
        self._source, self._output = str(source), Path(output)
        if self._output.is_symlink():  # it stays one
            self._output = self._output.resolve()
        self._given = workers
        self.options: Options = options or Options()
        self._on_tick = on_tick
        self._disk = disk
        self._stopped = False
        self._keys = Keys()
        self._flights: dict[Stream, Flight] = {}

    def stop(self) -> None:
        """End in order: what is in flight is cancelled, and asked again by the next run. Any thread, signal handlers."""
        self._stopped = True

    # --- before and after ---------------------------------------------------------------------------------------------

    @property
    def journal_path(self) -> Path:
        """Where the journal of the output is."""
        return self._output.with_name(self._output.name + ".journal")

    def run(self) -> Report:
        """Answer all rows that have no answer yet, and write the output once there are no more.

        Raises JournalError, ValueError for what can't work before anything is done, and OSError for input and output: what
        was answered is kept, and a later run goes on from there.
        """
        begun = time.monotonic()
        require_possible(self._source, self._output, self.options.order)
        journal = Journal(self.journal_path, self._disk, lambda: self._stopped)
        in_order, count = False, None
        gone: list[bytes] = []
        try:
            journal.open()
            self._staff = staff = staff_of(self._given, self.options, begun)
            self._progress = Progress(self._source, self._keys, staff.workers, begun)
            self._intake = Intake(self._source, self._keys, self.options)
            try:
                staff.ask(stopped=lambda: self._stopped)
                self._open(journal, header_of(self.options.parameters, staff.facts(), self.options.template_digest))
                self._progress.before = self._keys.recorded
                outcome, why = self._answer(journal, staff.workers)
            finally:
                staff.close()
            journal.sync()
            if outcome is Outcome.DONE:
                count = written(self._output, self._rows(journal, gone), self._disk)
            in_order = True
        except StoppedError:
            outcome, why = Outcome.INTERRUPTED, ""
        finally:
            try:
                journal.close(in_order=in_order)
            finally:
                journal.close(in_order=False)  # a signal may have struck there, and its lock is the process's
        return self._progress.report(outcome, why, written=count, gone=len(gone), intake=self._intake)

    def _open(self, journal: Journal, header: dict[str, Any]) -> None:
        """Take up what is there. Raises JournalError."""
        found = journal.recover(header, self._keys)
        if found is None or self.options.accept_changes:
            return
        changed = difference(msgspec.json.decode(found), header)
        if changed is not None:
            raise JournalError(
                f"{journal.path} is of another job ({changed}): go on with --accept-changes, or name another output"
            )

    def _rows(self, journal: Journal, gone: list[bytes]) -> Iterator[bytes]:
        again = can_be_read_again(self._source)
        if self.options.order == "completion" or not again:
            return in_completion_order(journal, self._keys, gone if again else None)
        return in_input_order(journal, self._keys, self._source, gone)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _answer(self, journal: Journal, workers: Sequence[Worker]) -> tuple[Outcome, str]:
        self._journal, self._workers = journal, workers
        options = self.options
        self._now = now = time.monotonic()
        ticked = synced = self._came = now
        self._lasted = 0.0  # seconds, about as long as rows do
        with contextlib.closing(self._intake), merge([]) as merged:
            self._merged = merged
            while not self._stopped:
                if self._intake.is_empty and not self._flights:
                    return Outcome.DONE, ""
                self._fill()
                if self._intake.is_empty and not self._flights:
                    continue
                self._receive(min(ticked + TICK, self._next_try))
                self._now = now = time.monotonic()
                if journal.rows >= options.group_rows or (journal.rows and now >= synced + options.group_seconds):
                    self._sync()
                    synced = self._now
                elif not journal.rows:
                    synced = now
                if now >= ticked + TICK:
                    self._tick(now - ticked)
                    ticked = now
                    if (why := self._hopeless(now - self._came)) is not None:
                        return Outcome.STALLED, why
        return Outcome.INTERRUPTED, ""

    def _receive(self, until: float) -> None:
        """Wait for what comes, for so long at most, and take all there is.

        With many streams each token would wake this thread: it gathers for a moment, as nobody waits for a batch's token.
        """
        if len(self._flights) >= MANY:
            time.sleep(min(GATHER, GATHER_SHARE * self._lasted))
        for _ in range(RUNS):
            came = False
            for stream, event in self._merged.run_until(until):
                self._event(stream, event)
                came = True
            if not came:
                return
            until = 0.0

    def _sync(self) -> None:
        begun = time.perf_counter()
        self._journal.sync()
        self._progress.sink += time.perf_counter() - begun
        self._now = time.monotonic()

    def _hopeless(self, silent: float) -> str | None:
        if all(worker.useless for worker in self._workers):
            return "; ".join(f"{worker.name}: {worker.useless}" for worker in self._workers)
        patience = self.options.patience
        if self._intake.is_empty and not self._flights:
            return None
        if patience is None or silent < patience or (not self._flights and not self._intake.waiting):
            return None
        return f"no worker has answered anything for {patience:g} s"

    def _tick(self, seconds: float) -> None:
        for dead in self._staff.look(self._now):
            dead.died(self._now)
            for stream in [stream for stream, flight in self._flights.items() if flight.worker is dead]:
                stream.cancel()
        for worker in self._workers:
            worker.tick(seconds)
        tick = self._progress.tick(seconds, self._intake, len(self._flights))
        if self._on_tick is not None:
            self._on_tick(tick)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Give every worker what it may have."""
        now = self._now
        self._next_try = float("inf")
        while not self._stopped:
            free = [worker for worker in self._workers if worker.room(now) > 0]
            if not free:
                return
            row = self._intake.next(now)
            if row is NOT_YET or row is None:
                for worker in free:
                    worker.starved = True
                if row is NOT_YET:
                    self._next_try = now + self._intake.pause(now)
                return
            if not self._place(row, free, now):
                return

    def _place(self, row: Row, free: list[Worker], now: float) -> bool:
        """Send it where there is most room, and it was not yet; whether more may be sent."""
        if row.duplicate is not None:
            self._store(
                row, refused(row, "its key was met before", "DUPLICATE", duplicate_of=row.duplicate), failed=True
            )
            return True
        request = row.request
        if request is None:
            self._store(row, refused(row, row.refused or "it can't be asked for"), failed=True)
            return True
        worker = emptiest(self._staff.fit(row, free, now), lambda one: one.load(now))
        if worker is None:  # it waits for one that may take it, and lets others go first
            row.after = now + TICK
            self._intake.give_back(row)
            return self._intake.waiting < sum(one.limit.window for one in self._workers)
        wait = worker.wait(request, now)
        if wait > 0:
            row.after = now
            self._intake.give_back(row)
            self._progress.limited = True
            self._next_try = min(self._next_try, now + wait)
            return False
        row.sent += 1
        worker.sent(request, now)
        if row.sent > 1:
            request = attrs.evolve(request, task_id=f"{request.task_id}-{row.sent}")
        try:
            stream = worker.adapter.submit(request, timeouts=self.options.timeouts)
        except InvalidRequestError as error:
            worker.unsent(request)
            self._judged(Flight(row, worker, now), error.error)
            return True
        except (AdmissionRejectedError, AdapterClosedError):
            self._local(row, worker)
            return False
        self._flights[stream] = Flight(row, worker, now)
        self._merged.add(stream)
        return True

    def _judged(self, flight: Flight, error: Error) -> None:
        """It is refused on our side: it can't be right, or can't be expressed there, but maybe elsewhere."""
        row = flight.row
        row.unfit = (*row.unfit, flight.worker)
        if error.reason is Reason.UNSUPPORTED and self._staff.may_fit(row):
            self._intake.give_back(row)
        else:
            self._store(row, failed(flight, error, line=row.number), failed=True)

    def _local(self, row: Row, worker: Worker) -> None:
        """A limit of ours, which is no failure of the row's."""
        worker.limited()
        self._progress.limited = True
        self._intake.give_back(row)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _event(self, stream: Stream, event: Event) -> None:
        flight = self._flights[stream]
        kind = type(event)
        if kind is not Error:
            self._came = self._now
        if kind is Token:
            if flight.first_at is None:
                self._now = flight.first_at = time.monotonic()
                flight.worker.began(flight.first_at - flight.sent_at)
                self._progress.firsts.append(flight.first_at - flight.sent_at)
            flight.worker.gave(1, self._now)
            flight.token(event)  # type: ignore[arg-type]  # it is one
        elif kind is End:
            del self._flights[stream]
            self._end(flight, event)  # type: ignore[arg-type]  # it is one
        elif kind is Error:
            del self._flights[stream]
            self._error(flight, event)  # type: ignore[arg-type]  # it is one
        elif kind is Started:
            flight.started = event  # type: ignore[assignment]  # it is one

    def _end(self, flight: Flight, end: End) -> None:
        row, worker = flight.row, flight.worker
        if end.finish_reason is FinishReason.CANCELLED:  # its worker is dead, or a foreign adapter was closed
            worker.left()
            self._progress.returned += 1
            row.attempts += 1
            row.after = self._now
            self._intake.give_back(row)
            return
        self._now = now = time.monotonic()
        self._lasted += (now - flight.sent_at - self._lasted) / 16
        row.attempts += 1 if flight.started is None else flight.started.attempt
        request = row.request
        assert request is not None  # noqa: S101  -- it was sent
        tokens_in = end.tokens_in or 0
        worker.gave(max(0, end.tokens_out - len(flight.texts)), now)
        for denied in row.denied:
            denied.contradicted(now)
        worker.ended(request, end.tokens_out + tokens_in, now - flight.sent_at)
        self._progress.tokens_in += tokens_in
        self._progress.tokens_out += end.tokens_out
        self._store(row, answered(flight, end, now), failed=False)

    def _error(self, flight: Flight, error: Error) -> None:
        row, worker = flight.row, flight.worker
        self._now = now = time.monotonic()
        own_model = row.request is not None and row.request.model is not None
        verdict = judged(error, own_model=own_model)
        if verdict is Verdict.LOCAL:
            self._local(row, worker)
            return
        row.attempts += error.attempts
        if verdict is Verdict.UNFIT:
            worker.left()
            self._judged(flight, error)
            return
        if verdict is Verdict.REFUSED:
            worker.refused(None if error.retry_after_ms is None else error.retry_after_ms / 1000, now)
            self._intake.give_back(row)
            return
        row.tried = (*row.tried, worker.name) if len(row.tried) < len(self._workers) - 1 else (worker.name,)
        if verdict is Verdict.USELESS:
            worker.left()
            worker.useless = f"{error.reason}: {error.message}"
            self._intake.give_back(row)
            return
        if verdict is Verdict.QUEUED:
            worker.queued_too_long()
        elif verdict is Verdict.FINAL:
            worker.left()
            if error.upstream is not None and self._staff.denied(row, worker, now):
                row.after = now
                self._intake.give_back(row)
                return
        else:
            worker.failed(now, at_once=is_gone(error))
        self._again_or_failed(flight, error, verdict)

    def _again_or_failed(self, flight: Flight, error: Error, verdict: Verdict) -> None:
        row, now = flight.row, self._now
        gone = is_gone(error)
        if verdict in (Verdict.DEATH, Verdict.QUEUED) and (gone or row.returned < FREE_RETURNS):
            row.returned += not gone
            self._progress.returned += 1
            row.after = now
            self._intake.give_back(row)
            return
        row.paid += 1
        if verdict is Verdict.AGAIN and row.paid < self.options.attempts:
            row.after = now + AGAIN_AFTER * 2.0 ** (row.paid - 1)
            self._intake.give_back(row)
            return
        self._store(row, failed(flight, error), failed=True)

    def _store(self, row: Row, data: bytes, *, failed: bool) -> None:
        offset = self._journal.add(row.digest, data, failed=failed)
        self._keys.put(row.digest, offset, failed=failed)
        self._progress.rows += 1
        self._progress.failed += failed
