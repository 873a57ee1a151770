"""A stream that is cut at any of its bytes: before the engine's own sign of the end never an End, after it always one.

Of every recorded stream of every dialect. `make test` looks at what codec and dialect make of each byte, in one pass:
a stream ends well as soon as its decoder has said so, and only then. `make matrix` cuts each at each byte, with the runtime
around them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from worker_adapters import End, Error, FinishReasonSource, GenerateRequest, Reason, Retry, registry
from worker_adapters.codec import SSEDecoder
from worker_adapters.dialect import Fault, Finished, Tally
from worker_adapters.runtime import AdapterConfig, EngineAdapter
from worker_adapters.testing.ways import script_of
from worker_adapters.transport.scripted import ScriptedTransport

from .subjects import RECORDED, TRANSCRIPTS

LONGEST = 6000  # bytes of a stream that is cut at each, with the runtime around it
GOOD = [(s, name) for s in RECORDED for name, e in s.transcripts.streams.items() if e.error is None]
NAMED = [pytest.param(s, name, id=f"{s.name}-{name}") for s, name in GOOD]
SMALL = [pytest.param(s, n, id=f"{s.name}-{n}") for s, n in GOOD if len(s.transcripts.recorded(n).body) <= LONGEST]


def request_of(subject, name):
    return GenerateRequest(**{"prompt": "p", "max_tokens": 64, "seed": 1, **subject.transcripts.streams[name].request})


def ended_at(subject, name):
    """After how many bytes it has ended: the engine, or we at a stop string or a limit; None: with the body, not before."""
    body, decoder, read = subject.transcripts.recorded(name).body, SSEDecoder(2**20), 0

    def batches() -> Iterator[list[bytes]]:
        nonlocal read
        while read < len(body):
            frames = decoder.payloads(body[read : read + 1])
            read += 1
            if frames:
                yield frames

    dialect = resolved(subject, name)
    with contextlib.suppress(Fault):
        for run in dialect.decode(batches(), request=request_of(subject, name), tally=Tally()):
            if run and isinstance(run[-1], Finished):
                by_us = run[-1].finish_reason_source is FinishReasonSource.INFERRED and read < len(body)
                return read if by_us or not dialect.traits.ends_with_body else None
    return None


def resolved(subject, name):
    """What a Triton's model speaks shows only when it is asked."""
    dialect = subject.dialect
    if dialect.resolve is None:
        return dialect
    with EngineAdapter(
        AdapterConfig(dialect=dialect, url="http://engine.test", model=subject.model),
        transport=ScriptedTransport([script_of(subject.transcripts.recorded(name))], reply=reply_of(subject)),
    ) as adapter:
        list(adapter.stream(request_of(subject, name)))
        return adapter._worker.dialect


def reply_of(subject):
    from worker_adapters.dialect import Reply  # noqa: PLC0415

    def reply(wire):
        for probe in subject.transcripts.probes.values():
            if wire.target in probe["replies"]:
                recorded = subject.transcripts.recorded(probe["replies"][wire.target])
                return Reply(status=recorded.status, headers=recorded.headers, body=recorded.body)
        return None

    return reply


@pytest.mark.parametrize(("subject", "name"), NAMED)
def test_a_stream_ends_with_the_byte_that_says_so(subject, name):
    body = subject.transcripts.recorded(name).body
    at = ended_at(subject, name)
    if at is None:
        assert resolved(subject, name).traits.ends_with_body, "it has ended, and the decoder does not say so"
        return
    proven = subject.transcripts.proven(body)
    assert at <= proven
    assert at == proven or subject.transcripts.streams[name].stop_text is not None, "it has ended before it was said"
    assert body[:at].endswith((b"\n\n", b"\n\r\n", b"\r\n\r"))


def test_no_recording_is_left_out():
    """Each folder of bytes has its index, each dialect a folder, and each folder streams that end well and are cut."""
    folders = {found.parent for found in TRANSCRIPTS.rglob("*.bin")}
    assert {folder for folder in folders if not (folder / "suite.json").exists()} == set()
    assert folders - {subject.transcripts.folder for subject in RECORDED} == {TRANSCRIPTS / "mine" / "1"}
    names = {registry.dialect(name).name for name in registry.engine_names()}
    assert names <= {resolved(subject, subject.good).name for subject in RECORDED} | {s.dialect.name for s in RECORDED}
    for subject in RECORDED:
        assert any(s is subject for s, _ in GOOD), subject.name
        cut = [name for s, name in GOOD if s is subject and len(s.transcripts.recorded(name).body) <= LONGEST]
        assert cut, f"{subject.name}: all of its streams are too long to be cut at each byte"


@pytest.mark.product
@pytest.mark.matrix
@pytest.mark.parametrize(("subject", "name"), SMALL)
def test_a_stream_that_is_cut_at_any_byte(subject, name):
    recorded, expected = subject.transcripts.recorded(name), subject.transcripts.streams[name]
    at = ended_at(subject, name)
    with_body = resolved(subject, name).traits.ends_with_body
    lengths = range(len(recorded.body))
    cut = [Fault(Reason.TRUNCATED, "cut off")] if with_body else []
    scripts = [script_of(recorded, [recorded.body[:length], *cut]) for length in lengths]
    config = AdapterConfig(
        dialect=subject.dialect, url="http://engine.test", model=subject.model, retry=Retry(attempts=1)
    )
    with EngineAdapter(config, transport=ScriptedTransport(scripts, reply=reply_of(subject))) as adapter:
        for length in lengths:
            last = list(adapter.stream(request_of(subject, name)))[-1]
            if at is not None and length >= at:
                assert isinstance(last, End), f"{last} after {length} of {len(recorded.body)} bytes"
                assert last.finish_reason == expected.finish_reason
            else:
                assert isinstance(last, Error), f"an End after {length} of {len(recorded.body)} bytes"
