"""`worker-adapters batch`: rows in, rows out, over many workers."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import attrs

from worker_adapters import Adapter, ChatTemplate, GenerateRequest, Timeouts, WorkerError
from worker_adapters.batch import Batch, JournalError, Options, Outcome, Report, Tick, check

from . import asking, connecting
from .exits import Exit
from .output import complain, emit_json, emit_record, emit_table, note, worded
from .parsing import Commands, command, count, json_switch, positive
from .progress import display
from .series import Series

__all__ = ["add", "run"]

ABOUT = (
    "Answer the rows of a file (JSON Lines, Parquet, OpenAI batch lines, - for standard input) over many workers. Run it "
    "again to go on after whatever ended it. Exit status 1: all rows are answered, and some have failed."
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "batch", run, ABOUT)
    parser.add_argument("input", metavar="IN", help="rows to answer; - reads standard input")
    parser.add_argument("output", metavar="OUT", help="where they go, once all are answered; beside it the journal")
    parser.add_argument(
        "--worker",
        type=_worker,
        action="append",
        default=[],
        metavar="ENGINE=URL",
        help="a worker, such as vllm=http://10.0.0.7:8000; may be given several times",
    )
    job = parser.add_argument_group("the job")
    job.add_argument(
        "--check", action="store_true", help="only look through IN: keys that come twice, rows that are no requests"
    )
    job.add_argument("--retry-errors", action="store_true", help="ask again for rows that failed in a run before")
    job.add_argument(
        "--accept-changes", action="store_true", help="go on although parameters, model or template changed"
    )
    job.add_argument("--order", choices=["input", "completion"], help="of OUT (default: the input's, if it is a file)")
    job.add_argument("--window", type=count, default=8, metavar="N", help="rows that each worker is given at first")
    job.add_argument("--requests-per-minute", type=positive, metavar="N", help="that each worker's gateway allows")
    job.add_argument("--tokens-per-minute", type=positive, metavar="N", help="likewise, in and out")
    job.add_argument("--yield-to-interactive", action="store_true", help="others on the same workers come first")
    job.add_argument(
        "--patience", type=float, default=600.0, metavar="SECONDS", help="without any answer, then give up; 0: never"
    )
    job.add_argument("--picture", metavar="FILE", help="draw throughput and windows over time (needs matplotlib)")
    job.add_argument(
        "--template", metavar="FILE", help="chat template for rows with messages: a tokenizer_config.json, …"
    )
    job.add_argument("--quiet", action="store_true", help="no progress")
    json_switch(parser, "progress and report as JSON lines on standard output")
    connecting.add_shared(parser)
    asking.add(parser, max_tokens=256)


def _worker(text: str) -> tuple[str, str]:
    engine, equals, url = text.partition("=")
    if not (engine and equals and url):
        raise argparse.ArgumentTypeError(f"{text!r} is not ENGINE=URL, such as llamacpp=http://127.0.0.1:8080")
    return engine, url


def run(args: argparse.Namespace) -> int:
    """OK where every row has its answer, FAILED where some have failed, UNFINISHED where rows are left."""
    parameters = _parameters(args)
    if args.check:
        return _check(args, parameters)
    if not args.worker:
        raise ValueError("a batch needs a worker: --worker ENGINE=URL, for example --worker vllm=http://127.0.0.1:8000")
    series = Series()
    if args.picture:
        series.require_drawable(args.picture)
    with contextlib.ExitStack() as stack:
        adapters = [
            stack.enter_context(connecting.adapter(args, engine=engine, url=url)) for engine, url in args.worker
        ]
        _wait(args, adapters)
        shown = stack.enter_context(display(quiet=args.quiet, as_json=args.json))

        def tick(now: Tick) -> None:
            series.add(now)
            shown(now)

        batch = Batch(args.input, args.output, adapters, options=_options(args, parameters), on_tick=tick)
        with _ctrl_c(batch):
            try:
                report = batch.run()
            except JournalError as error:
                complain(str(error))
                return Exit.USAGE
            except OSError as error:
                if error.filename in (args.input, args.output) or not batch.journal_path.exists():  # nothing has begun
                    complain(worded(error))
                    return Exit.USAGE
                kept = f"what was answered is in {batch.journal_path}: run it again to go on"
                complain(f"{worded(error)}; {kept}")
                return Exit.UNFINISHED
    _tell(args, report)
    if args.picture:
        series.draw(args.picture)
    return _status(report)


def _status(report: Report) -> Exit:
    if report.outcome is Outcome.INTERRUPTED:
        return Exit.INTERRUPTED
    if report.outcome is Outcome.STALLED:
        return Exit.UNFINISHED
    return Exit.FAILED if report.failed else Exit.OK


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    names = {field.name for field in attrs.fields(GenerateRequest)} - {"prompt", "model", "task_id", "priority"}
    asked = asking.request(args, prompt="", task_id="-")
    return {name: _plain(getattr(asked, name)) for name in sorted(names) if name in args}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _options(args: argparse.Namespace, parameters: dict[str, Any]) -> Options:
    given = connecting.options(args)
    timeouts = given.get("timeouts") or Timeouts()
    if "timeouts_first_token" not in args:
        timeouts = attrs.evolve(timeouts, first_token=None)
    more: dict[str, Any] = {}
    if "retry_attempts" in args:
        more["attempts"] = args.retry_attempts
    if "limits_max_in_flight" in args:
        more["largest"] = args.limits_max_in_flight
    template = _template(args)
    return Options(
        parameters=parameters,
        order=args.order,
        retry_errors=args.retry_errors,
        accept_changes=args.accept_changes,
        window=args.window,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        yield_to_interactive=args.yield_to_interactive,
        patience=args.patience or None,
        template=None if template is None else template.render,
        template_digest=None if template is None else template.digest,
        timeouts=timeouts,
        **more,
    )


def _template(args: argparse.Namespace) -> ChatTemplate | None:
    return None if args.template is None else ChatTemplate.from_file(args.template)


def _wait(args: argparse.Namespace, adapters: list[Adapter]) -> None:
    """Where --wait was given: until all are ready, or that time is over, and then one must be."""
    if args.wait is None:
        return
    give_up, last = time.monotonic() + args.wait, None
    ready = 0
    for adapter in adapters:
        try:
            adapter.wait_ready(max(0.01, give_up - time.monotonic()))
            ready += 1
        except WorkerError as error:
            last = error
            complain(str(error))
    if last is not None and not ready:
        raise last


@contextlib.contextmanager
def _ctrl_c(batch: Batch) -> Iterator[None]:
    """The first signal ends the batch in order, the second at once: the journal bears that."""
    came: list[int] = []

    def stop(_number: int, _frame: FrameType | None) -> None:
        if came:
            os._exit(Exit.INTERRUPTED)
        came.append(1)
        batch.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(args: argparse.Namespace, parameters: dict[str, Any]) -> int:
    template = _template(args)
    found = check(args.input, parameters=parameters, template=None if template is None else template.render)
    if args.json:
        emit_json(attrs.asdict(found))
    else:
        emit_record(
            {
                "rows": found.rows,
                "duplicate keys": found.duplicate_count,
                "can't be asked for": found.refused_count,
                "fields of your own": ", ".join(found.carried) or None,
            }
        )
        wrong = sorted([*found.duplicates, *found.refused])
        if wrong:
            emit_table(("line", "what is wrong"), wrong)
    return Exit.OK if found.is_good else Exit.FAILED


def _tell(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        emit_json({"event": "report", **report.to_dict()})
        return
    if report.carried:
        note(f"fields of rows that are no parameters went with the answers as they are: {', '.join(report.carried)}")
    if report.outcome is not Outcome.DONE:
        complain(f"{report.outcome}{f' ({report.why})' if report.why else ''}: rows are left; run it again to go on")
    bounds = sorted(report.bounds.items(), key=lambda pair: -pair[1])
    emit_record(
        {
            "rows": f"{report.rows} in {report.elapsed:.1f} s, {report.before} before",
            "failed": report.failed,
            "duplicates": report.duplicates,
            "written": report.written,
            "tokens": f"{report.tokens_out} out, {report.tokens_in} in, {report.tokens_per_second:.0f}/s",
            "first token": _pair(report.first_token_p50, report.first_token_p95),
            "bounded by": ", ".join(f"{name} {seconds:.0f} s" for name, seconds in bounds) or None,
        }
    )
    emit_table(
        ("worker", "engine", "rows", "tokens", "failures", "window", "first token", "state"),
        [
            (
                w.name,
                w.engine,
                w.rows,
                w.tokens,
                w.failures,
                w.window,
                _pair(w.first_token_p50, w.first_token_p95),
                w.state,
            )
            for w in report.workers
        ],
    )


def _pair(p50: float | None, p95: float | None) -> str | None:
    return None if p50 is None or p95 is None else f"p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms"
