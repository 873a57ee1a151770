"""`worker-adapters verify-determinism`: whether workers really repeat themselves, and the same again from a pack."""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from worker_adapters import (
    Adapter,
    ChatTemplate,
    DeterminismLevel,
    InvalidRequestError,
    Limits,
    WorkerError,
    connect,
    digest_file,
    registry,
)
from worker_adapters.api.errors import invalid
from worker_adapters.verify import (
    CONDITIONS,
    Plan,
    Recording,
    Report,
    Verification,
    judge,
    lines,
    read_pack,
    write_pack,
)
from worker_adapters.verify.planning import LENGTHS, PROMPT_WORDS, WIDTHS
from worker_adapters.verify.showing import COLUMNS, rows
from worker_adapters.verify.tapping import Tap

from . import connecting
from .exits import Exit
from .output import complain, emit, emit_json, emit_record, emit_table, note, worded
from .parsing import Commands, assignment, command, json_switch
from .progressing import Progressing

__all__ = ["add", "run"]

STATUSES = "exit status: 0 done, and clean; 1 a divergence; 2 not established, nobody there, or asked wrongly"
HAND_OVER = 2  # events: an engine in this process is read in turns, not one stream after the other
EXTRA = 2  # places beside the widest round


def add(commands: Commands) -> None:
    """Declare the command, and `check` below it."""
    parser = command(
        commands, "verify-determinism", run, "Whether workers answer the same request always in the same way."
    )
    parser.epilog = STATUSES
    below = parser.add_subparsers(dest="below", metavar="check")
    check = below.add_parser("check", help="every verdict again, from a pack alone", epilog=STATUSES)
    check.add_argument("pack", type=Path, help="what --pack has written")
    check.set_defaults(run=_check)
    json_switch(check, "print the report as JSON")
    json_switch(parser, "print the report as JSON")
    parser.add_argument("--engine", help="which engine; see properties --help")
    parser.add_argument(
        "--url", action="append", default=[], help="a worker; once more for each other of its replica set"
    )
    _plan_arguments(parser)
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write the repro pack there")
    parser.add_argument("--bisect", action="store_true", help="shrink what diverges to the least that still does")
    connecting.add_shared(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_argument_group("what is tried")
    asked.add_argument("--seeds", type=int, default=64, metavar="N", help="so many seeds, from 0 on (64)")
    asked.add_argument("--max-tokens", type=int, default=128, metavar="N")
    asked.add_argument("--temperature", type=float, default=1.0)
    asked.add_argument("--prompt-words", type=int, default=PROMPT_WORDS, metavar="N", help="the length of prompts")
    asked.add_argument("--conditions", type=_names, help=f"of {','.join(CONDITIONS)} (all that can be had)")
    asked.add_argument("--widths", type=_integers, default=WIDTHS, metavar="N,…", help="others beside a request")
    asked.add_argument("--lengths", type=_integers, default=LENGTHS, metavar="N,…", help="tokens of prompts")
    asked.add_argument("--restart-cmd", metavar="COMMAND", help="a shell command that restarts the first worker")
    asked.add_argument("--determinism", choices=[str(level) for level in DeterminismLevel], default="strict")
    asked.add_argument("--logprobs", type=int, default=2, metavar="N", help="alternatives to ask for; 0: no logprobs")
    asked.add_argument("--stop-at-eos", action="store_true", help="let the model end its answers")
    asked.add_argument("--engine-option", type=assignment, action="append", default=[], metavar="NAME=JSON")
    asked.add_argument("--template", type=Path, metavar="FILE", help="a chat template to render prompts with")
    asked.add_argument("--model-files", type=Path, metavar="PATH", help="the model, for its digest")
    asked.add_argument("--nonce", metavar="TEXT", help="makes prompts new (default: drawn, and told)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 2,4,8") from None


def run(args: argparse.Namespace) -> int:
    """The report, and its exit status: 0 clean, 1 diverged, 2 not established or unreachable."""
    try:
        if args.pack is not None:
            args.pack.parent.stat()
        recording, report, shrunk = _verified(args)
        if args.pack is not None:
            write_pack(args.pack, recording, report)
    except InvalidRequestError:
        raise
    except WorkerError as error:  # nobody there: nothing is established
        complain(str(error))
        return Exit.USAGE
    except BrokenPipeError:
        raise
    except OSError as error:  # FAILED would say that something diverged
        complain(worded(error))
        return Exit.USAGE
    if args.pack is not None:
        note(f"the pack is {args.pack}; worker-adapters verify-determinism check {args.pack} judges it again")
    _show(report, as_json=args.json, more={"bisected": shrunk} if shrunk else {})
    return report.status


def _verified(args: argparse.Namespace) -> tuple[Recording, Report, list[dict[str, Any]]]:
    if not args.engine or not args.url:
        args.declared.error("verify-determinism needs --engine and --url")
    plan = _plan(args)
    template = None if args.template is None else ChatTemplate.from_file(args.template)
    environment = {} if template is None else {"template_digest": template.digest}
    tap = Tap()
    with ExitStack() as stack:
        adapters = [stack.enter_context(adapter) for adapter in _adapters(args, plan, tap)]
        if args.wait is not None:
            for adapter in adapters:
                adapter.wait_ready(args.wait)
        with Progressing() as progress:
            verification = Verification(
                adapters,
                tap,
                plan,
                progress=progress,
                rendered=str if template is None else _renderer(template, adapters[0]),
                environment=environment,
            )
            recording = verification.record()
            report = judge(recording)
            shrunk = verification.bisect(report) if args.bisect else []
    return recording, report, shrunk


def _plan(args: argparse.Namespace) -> Plan:
    try:
        return Plan(
            seeds=args.seeds,
            max_tokens=args.max_tokens,
            prompt_words=args.prompt_words,
            temperature=args.temperature,
            conditions=args.conditions,
            widths=args.widths,
            lengths=args.lengths,
            restart_cmd=args.restart_cmd,
            determinism=DeterminismLevel(args.determinism),
            logprobs=args.logprobs,
            ignore_eos=not args.stop_at_eos,
            engine_options=dict(args.engine_option),
            nonce=args.nonce or secrets.token_hex(3),
        )
    except ValueError as error:
        raise invalid(str(error)) from None


def _adapters(args: argparse.Namespace, plan: Plan, tap: Tap) -> list[Adapter]:
    connecting.require_there(args)
    dialect = tap.on(registry.dialect(args.engine))
    options = connecting.options(args)
    given = options.pop("limits", None) or Limits(hand_over=HAND_OVER)
    limits = attrs.evolve(given, max_in_flight=max(given.max_in_flight, *plan.widths, 1) + EXTRA)
    if args.model_files is not None:
        identity = options.get("identity") or connecting.RECORDS["identity"]()
        options["identity"] = attrs.evolve(identity, model_digest=digest_file(args.model_files))
    del options["replica_id"]
    return [
        connect(dialect, url, replica_id=f"r{number}", limits=limits, **options)
        for number, url in enumerate(args.url, 1)
    ]


def _renderer(template: ChatTemplate, adapter: Adapter) -> Callable[[str], str]:
    return lambda text: template.render([{"role": "user", "content": text}], features=adapter.features)


def _check(args: argparse.Namespace) -> int:
    try:
        recording, said = read_pack(args.pack)
    except OSError as error:
        complain(worded(error))
        return Exit.USAGE
    report = judge(recording)
    same = json.loads(json.dumps(report.plain(), default=str)) == said
    _show(report, as_json=args.json, more={"as_recorded": same})
    if not same:
        complain("the pack's own report says something else than follows from what came")
        return Exit.USAGE
    return report.status


def _show(report: Report, *, as_json: bool, more: dict[str, Any]) -> None:
    if as_json:
        emit_json(report.plain() | more)
        return
    environment = dict(report.environment)
    for number, worker in enumerate(environment.pop("workers", ()), 1):
        environment[f"worker {number}"] = " ".join(f"{name}={value}" for name, value in worker.items())
    plan = environment.pop("plan", {})
    environment["nonce"] = plan.get("nonce")
    emit_record({name: value for name, value in environment.items() if value})
    emit("\n")
    emit_table(COLUMNS, rows(report))
    emit("\n")
    for line in lines(report):
        emit(line + "\n")
    for each in more.get("bisected", ()):
        emit(f"{each['condition']}: the least that still diverges: {each['least']}\n")
