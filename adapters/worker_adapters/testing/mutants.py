"""Dialects with a planted fault, each with the case of the suite that must see it.

A suite that passes a mutant proves nothing. `MUTANTS` works on any dialect: `mutate(dialect)` gives the broken one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from msgspec.structs import replace

from ..api import FinishReason, FinishReasonSource, GenerateRequest, Reason, Token
from ..dialect import Dialect, Fault, Finished, HealthFacts, Opened, Payload, Probe, ProbeTarget, Reply, Run, Tally

__all__ = ["MUTANTS", "Mutant"]

Mutate = Callable[[Dialect], Dialect]


@attrs.frozen(kw_only=True)
class Mutant:
    """A planted fault and the name of the case that kills it."""

    mutate: Mutate
    killed_by: str


def _decoding(change: Callable[[Iterator[Run], GenerateRequest, Tally], Iterator[Run]]) -> Mutate:
    """A dialect whose decoder's runs are changed."""

    def mutate(dialect: Dialect) -> Dialect:
        def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
            return change(dialect.decode(batches, request=request, tally=tally), request, tally)

        return attrs.evolve(dialect, decode=decode)

    return mutate


def _tokens(change: Callable[[Token], Token]) -> Mutate:
    """A dialect whose Tokens are changed one by one."""

    def runs(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
        for run in runs:
            yield [change(item) if isinstance(item, Token) else item for item in run]

    return _decoding(runs)


def _renumbered(runs: Iterator[Run]) -> Iterator[Run]:
    index = 0
    for run in runs:
        out: Run = []
        for item in run:
            if isinstance(item, Token):
                out.append(replace(item, index=index))
                index += 1
            else:
                out.append(item)
        yield out


def _drop_last_token(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    held: list[Token] = []
    for run in runs:
        out: Run = []
        for item in run:
            if isinstance(item, Token):
                out += held
                held = [item]
            else:
                out.append(item)
        yield out


def _swallow_end(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    for run in runs:
        yield [item for item in run if not isinstance(item, Finished)]


def _merge_deltas(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    def merged() -> Iterator[Run]:
        for run in runs:
            out: Run = []
            for item in run:
                if out and isinstance(item, Token) and isinstance(out[-1], Token):
                    out[-1] = replace(out[-1], text=out[-1].text + item.text)
                else:
                    out.append(item)
            yield out

    return _renumbered(merged())


def _finished() -> Finished:
    return Finished(
        finish_reason=FinishReason.STOP, finish_reason_raw=None, finish_reason_source=FinishReasonSource.INFERRED
    )


def _end_at_end_of_input(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    opened = False
    for run in runs:
        opened = opened or bool(run)
        yield run
        if run and isinstance(run[-1], Finished):
            return
    if opened:
        yield [_finished()]


def _ignore_errors_in_stream(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    try:
        yield from runs
    except Fault:
        yield [_finished()]


def _open_at_an_error(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    opened = False
    try:
        for run in runs:
            opened = True
            yield run
    except Fault:
        if not opened:
            yield [Opened()]
        raise


def _leak_stop_prefix(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    def leaking() -> Iterator[Run]:
        for run in runs:
            last = run[-1] if run else None
            if isinstance(last, Finished) and last.stop_text:
                yield [*run[:-1], Token(index=0, text=last.stop_text[:1]), last]
            else:
                yield run

    return _renumbered(leaking())


def _split_character(token: Token) -> Token:
    if token.text.isascii():
        return token
    half = token.text.encode()[:-1].decode("utf-8", "replace")
    return replace(token, text=half)


def _empty_deltas(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    def padded() -> Iterator[Run]:
        for run in runs:
            cut = len(run) - 1 if run and isinstance(run[-1], Finished) else len(run)
            yield [*run[:cut], Token(index=0, text=""), *run[cut:]] if run else run

    return _renumbered(padded())


def _miscount(runs: Iterator[Run], _request: GenerateRequest, tally: Tally) -> Iterator[Run]:
    for run in runs:
        tally.tokens_out += 1
        yield run


def _parse_error_as(reason: Reason) -> Mutate:
    def mutate(dialect: Dialect) -> Dialect:
        def parse_error(reply: Reply) -> Fault:
            fault = dialect.parse_error(reply)
            return Fault(reason, fault.message, upstream=fault.upstream)

        return attrs.evolve(dialect, parse_error=parse_error)

    return mutate


def _encoding(change: Callable[[dict[str, Any]], None]) -> Mutate:
    """A dialect whose JSON bodies are changed."""

    def mutate(dialect: Dialect) -> Dialect:
        def encode(request: GenerateRequest, /, *, attempt: int) -> Any:
            wire = dialect.encode(request, attempt=attempt)
            body = json.loads(wire.body)
            change(body)
            return attrs.evolve(wire, body=json.dumps(body).encode())

        return attrs.evolve(dialect, encode=encode)

    return mutate


def _lose(*words: str) -> Callable[[dict[str, Any]], None]:
    """Drop every field, at any depth and in JSON within strings, whose name has one of the words in it."""

    def change(body: dict[str, Any]) -> None:
        for name in list(body):
            if any(word in name for word in words):
                del body[name]
            elif isinstance(body[name], dict):
                change(body[name])
            elif isinstance(body[name], str) and body[name].startswith("{"):
                inner = json.loads(body[name])
                change(inner)
                body[name] = json.dumps(inner)

    return change


def _reuse_the_list(runs: Iterator[Run], _request: GenerateRequest, _tally: Tally) -> Iterator[Run]:
    same: Run = []
    for run in runs:
        same[:] = run
        yield same


def _always_ready(dialect: Dialect) -> Dialect:
    def health(_target: ProbeTarget) -> Probe[HealthFacts]:
        conversation = dialect.health(_target)
        yield next(conversation)
        return HealthFacts(ready=True, detail="ok")

    return attrs.evolve(dialect, health=health)


def _ask_ahead(dialect: Dialect) -> Dialect:
    """Asks for a second batch before it has yielded a run for the first."""

    def ahead(batches: Iterator[Sequence[Payload]]) -> Iterator[Sequence[Payload]]:
        held = next(batches, None)
        while held is not None:
            following = next(batches, None)
            yield held
            held = following

    def decode(batches: Iterator[Sequence[Payload]], /, *, request: GenerateRequest, tally: Tally) -> Iterator[Run]:
        return dialect.decode(ahead(batches), request=request, tally=tally)

    return attrs.evolve(dialect, decode=decode)


TEXT = "test_text_and_counts_are_the_recorded_ones"

MUTANTS: dict[str, Mutant] = {
    "drops the last token": Mutant(mutate=_decoding(_drop_last_token), killed_by=TEXT),
    "swallows the end": Mutant(mutate=_decoding(_swallow_end), killed_by=TEXT),
    "merges deltas": Mutant(mutate=_decoding(_merge_deltas), killed_by="test_the_cut_of_the_body_does_not_show"),
    "invents an End at end of input": Mutant(
        mutate=_decoding(_end_at_end_of_input), killed_by="test_a_stream_that_is_cut_never_ends_well"
    ),
    "always retriable": Mutant(
        mutate=_parse_error_as(Reason.OVERLOADED), killed_by="test_every_recorded_error_has_its_row"
    ),
    "never retriable": Mutant(mutate=_parse_error_as(Reason.VALIDATION), killed_by="test_errors_are_retried_or_not"),
    "loses the seed": Mutant(mutate=_encoding(_lose("seed")), killed_by="test_the_request_reaches_the_wire"),
    "sends an engine default": Mutant(mutate=_encoding(_lose("temperature")), killed_by="test_every_knob_is_sent"),
    "leaks the stop prefix": Mutant(mutate=_decoding(_leak_stop_prefix), killed_by="test_a_stop_string_leaks_no_part"),
    "splits a character": Mutant(mutate=_tokens(_split_character), killed_by="test_no_token_holds_half_a_character"),
    "counts empty deltas": Mutant(mutate=_decoding(_empty_deltas), killed_by="test_order_and_indexes"),
    "ignores in-stream errors": Mutant(mutate=_decoding(_ignore_errors_in_stream), killed_by=TEXT),
    "starts at an error": Mutant(
        mutate=_decoding(_open_at_an_error), killed_by="test_an_error_in_the_first_frame_is_no_start"
    ),
    "counts wrongly": Mutant(mutate=_decoding(_miscount), killed_by=TEXT),
    "numbers tokens from one": Mutant(
        mutate=_tokens(lambda token: replace(token, index=token.index + 1)), killed_by="test_order_and_indexes"
    ),
    "asks ahead": Mutant(mutate=_ask_ahead, killed_by="test_a_read_that_would_block_shows_nowhere"),
    "hands on one list again": Mutant(
        mutate=_decoding(_reuse_the_list), killed_by="test_who_reads_late_has_all_that_was_decoded"
    ),
    "is always ready": Mutant(mutate=_always_ready, killed_by="test_an_unready_worker_is_not_ready"),
}
