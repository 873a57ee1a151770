"""The suite that every engine must pass, ours and third parties' alike.

    class TestMine(EngineSuite):
        dialect = DIALECT
        transcripts = Transcripts(Path(__file__).parent / "transcripts")
        simulator = partial(Simulator, build)       # optional: over sockets the transcripts are replayed instead

Streams run on the calling thread, submitted and merged, in turn: `ways`. Nothing is skipped: what an engine can't show
stands in the index of its transcripts, under `absent`, with its proof. A case loops over all the transcripts it
concerns, so that it can also be run by hand, against a mutant.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from ..api import (
    CancelOutcome,
    End,
    Error,
    ErrorCode,
    Event,
    Metrics,
    Phase,
    Reason,
    Retry,
    Started,
    Timeouts,
    Token,
    WorkerError,
)
from ..api.errors import is_retriable
from ..determinism import sampling_fields
from ..dialect import Fault, ProbeTarget
from ..runtime import merge
from ..transport.scripted import Hang, Script
from .blocked import ReadsThatBlock
from .sockets import OverSockets
from .transcripts import TAGS
from .ways import (
    CUTS,
    PROMPT,
    RETRIED,
    RETRIED_STATUS,
    SECRET,
    SHORT,
    STRANGERS,
    WAYS,
    around_frames,
    comparable,
    cut,
    script_of,
    text_of,
)  # fmt: skip

__all__ = ["EngineSuite"]


class EngineSuite(OverSockets, ReadsThatBlock):
    """Cases for one dialect. Subclass it in a test module and name the three things; pytest finds the rest."""

    # --- evidence ---------------------------------------------------------------------------------------------------

    def test_the_transcripts_show_all_there_is_to_show(self) -> None:
        """Each tag has a stream, or a proof that this engine has none."""
        shown = {tag for expected in self.transcripts.streams.values() for tag in expected.tags}
        assert shown <= TAGS
        missing = TAGS - shown - set(self.transcripts.absent)
        assert not missing, f"no stream shows {sorted(missing)}, and `absent` does not say why"
        assert not shown & set(self.transcripts.absent)
        assert all(self.transcripts.absent.values())
        assert self.transcripts.errors

    # --- events -----------------------------------------------------------------------------------------------------

    def test_order_and_indexes(self) -> None:
        """Started (Token | Metrics)* (End | Error), or Error alone; indexes without gaps; no empty Token."""
        for name, recorded, expected in self._streams():
            events = self.events(script_of(recorded), request=dict(expected.request))
            kinds = [type(e) for e in events]
            tokens = [e for e in events if isinstance(e, Token)]
            assert kinds.count(End) + kinds.count(Error) == 1, name
            assert kinds[-1] is (Error if expected.error else End), name
            if expected.error is None or tokens:
                assert kinds[0] is Started, name
                assert kinds.count(Started) == 1, name
            assert [t.index for t in tokens] == list(range(len(tokens))), name
            assert all(t.text for t in tokens), name
            if Metrics in kinds:
                assert kinds.index(Metrics) > kinds.index(Token), name

    def test_text_and_counts_are_the_recorded_ones(self) -> None:
        """The whole text, the number of deltas, how it ended, and what was counted."""
        for name, recorded, expected in self._streams():
            events = self.events(script_of(recorded), request=dict(expected.request))
            assert text_of(events) == expected.text, name
            assert sum(isinstance(e, Token) for e in events) == expected.deltas, name
            last = events[-1]
            if expected.error is not None:
                assert isinstance(last, Error), name
                assert (last.code, last.reason) == expected.error, name
                assert last.retriable == is_retriable(last.code, last.reason), name
                continue
            assert isinstance(last, End), name
            assert last.finish_reason == expected.finish_reason, name
            assert last.stop_text == expected.stop_text, name
            if expected.tokens_out is not None:
                assert last.tokens_out == expected.tokens_out, name

    def test_the_cut_of_the_body_does_not_show(self) -> None:
        """The same events, however the network cuts the bytes."""
        for name, recorded, expected in self._streams():
            request = {"task_id": "same", **expected.request}
            runs = [
                comparable(self.events(script_of(recorded, cut(recorded.body, size)), request=request)) for size in CUTS
            ]
            for size, run in zip(CUTS, runs, strict=True):
                assert run == runs[0], f"{name} cut at {size}"

    def test_no_token_holds_half_a_character(self) -> None:
        """A character that comes in pieces comes whole; U+FFFD only where the whole text has it."""
        for name in self.transcripts.tagged("split_character"):
            expected = self.transcripts.streams[name]
            recorded = self.transcripts.recorded(name)
            events = self.events(script_of(recorded, cut(recorded.body, 1)), request=dict(expected.request))
            for token in (e for e in events if isinstance(e, Token)):
                token.text.encode("utf-8")
                assert token.text.count("\ufffd") <= expected.text.count("\ufffd"), name

    def test_a_stop_string_leaks_no_part(self) -> None:
        """It is cut out, also when it comes over several deltas, and told in End."""
        for name in self.transcripts.tagged("stop_string"):
            expected = self.transcripts.streams[name]
            events = self.events(script_of(self.transcripts.recorded(name)), request=dict(expected.request))
            assert expected.stop_text, name
            assert expected.stop_text not in text_of(events), name
            assert text_of(events) == expected.text, name
            last = events[-1]
            assert isinstance(last, End), name
            assert last.stop_text == expected.stop_text, name

    def test_a_stream_that_is_cut_never_ends_well(self) -> None:
        """Cut at every byte, the smallest stream, and around every frame, the others: an Error, never an End.

        What is cut after the engine's own sign of the end (its token counts, `[DONE]`) ends like the whole.
        """
        smallest = self.transcripts.good()
        for name, recorded, expected in self._streams():
            if expected.error is not None:
                continue
            whole, proven = len(recorded.body), self.transcripts.proven(recorded.body)
            lengths = list(range(whole)) if name == smallest else around_frames(recorded.body)
            # Where the body's end is the sign, a cut one breaks off; elsewhere it must not matter how it ends.
            cut_off = [Fault(Reason.TRUNCATED, "cut off")] if self.dialect.traits.ends_with_body else []
            scripts = [script_of(recorded, [recorded.body[:length], *cut_off]) for length in lengths]
            with self.adapter(*scripts) as adapter:
                for length in lengths:
                    events = self.run(adapter, self.request(**expected.request))
                    last = events[-1]
                    if length >= proven:
                        assert isinstance(last, End), f"{name}: {last} after {length} of {whole} bytes"
                        assert (text_of(events), last.finish_reason) == (expected.text, expected.finish_reason), name
                        continue
                    assert isinstance(last, Error), f"{name}: an End after {length} of {whole} bytes"
                    assert last.reason in (Reason.TRUNCATED, Reason.EMPTY, Reason.PROTOCOL), name
                    reset = isinstance(events[0], Started) and last.reason is not Reason.PROTOCOL
                    assert (last.code is ErrorCode.WORKER_RESET) == reset, name

    # --- errors -----------------------------------------------------------------------------------------------------

    def test_every_recorded_error_has_its_row(self) -> None:
        """Code, reason, advice and phase; the engine's status beside them."""
        for name, (code, reason) in self.transcripts.errors.items():
            recorded = self.transcripts.recorded(name)
            (error,) = self.events(script_of(recorded))
            assert isinstance(error, Error), name
            assert (error.code, error.reason) == (code, reason), name
            assert error.retriable == is_retriable(ErrorCode(code), reason), name
            assert error.phase in (Phase.QUEUE, Phase.FIRST_TOKEN), name
            assert error.upstream is not None, name
            assert error.upstream.status == recorded.status, name

    def test_errors_are_retried_or_not(self) -> None:
        """What may go away is tried again before Started; a refusal is the answer at once."""
        good, expected = self._good()
        for name, (_, reason) in self.transcripts.errors.items():
            recorded = self.transcripts.recorded(name)
            again = reason in RETRIED or (reason == Reason.ENGINE_ERROR and recorded.status in RETRIED_STATUS)
            events = self.events(
                script_of(recorded), script_of(good), request=dict(expected.request), retry=Retry(attempts=2, base=0.0)
            )
            started = events[0]
            assert isinstance(started, Started) == again, name
            if isinstance(started, Started):
                assert started.attempt == 2, name
                assert text_of(events) == expected.text, name
            else:
                assert isinstance(started, Error), name
                assert started.attempts == 1, name

    def test_an_error_in_the_first_frame_is_no_start(self) -> None:
        """Started is held back until the first frame that is not an error."""
        for name in self.transcripts.tagged("error_first"):
            events = self.events(script_of(self.transcripts.recorded(name)))
            assert [type(e) for e in events] == [Error], name

    def test_connection_failures_are_typed(self) -> None:
        """Refused, dropped before and after the head, and in mid-stream."""
        good, expected = self._good()
        some = self.begun(good)
        refused, dropped = Fault(Reason.CONNECT, "refused"), Fault(Reason.DISCONNECTED, "dropped")
        for script, code, reason, phase in (
            (script_of(good, connect=refused), ErrorCode.POOL_UNAVAILABLE, Reason.CONNECT, Phase.CONNECT),
            (script_of(good, queue=dropped), ErrorCode.POOL_UNAVAILABLE, Reason.DISCONNECTED, Phase.QUEUE),
            (script_of(good, [dropped]), ErrorCode.POOL_UNAVAILABLE, Reason.DISCONNECTED, Phase.FIRST_TOKEN),
            (script_of(good, [some, dropped]), ErrorCode.WORKER_RESET, Reason.DISCONNECTED, Phase.DECODE),
        ):
            error = self.events(script, request=dict(expected.request))[-1]
            assert isinstance(error, Error)
            assert (error.code, error.reason, error.phase, error.retriable) == (code, reason, phase, True)

    def test_strangers_are_not_engines(self) -> None:
        """An HTML page, an empty body, bytes that are no events, a body that was compressed, a redirect."""
        for script, reason in STRANGERS:
            (error,) = self.events(script)
            assert isinstance(error, Error)
            assert error.reason == reason, error.message

    def test_text_that_is_not_utf_8_is_no_bug_of_ours(self) -> None:
        """In each frame of the smallest stream in its turn, in every string: lawful events, and not a word of a bug."""
        good, expected = self._good()
        for frame in re.findall(rb"data:[^\n]*", good.body):
            body = good.body.replace(frame, re.sub(rb'": *"', lambda found: found[0] + b"\xff", frame))
            last = self.events(script_of(good, [body]), request=dict(expected.request))[-1]
            assert isinstance(last, End | Error)
            assert getattr(last, "reason", None) is not Reason.BUG, frame

    # --- time and cancel ----------------------------------------------------------------------------------------------

    def test_timers_are_typed(self) -> None:
        """Each names its value; the first-token timer runs through queueing. Others are long: a machine may be busy."""
        good, _ = self._good()
        some = self.begun(good)
        long = Timeouts(connect=30.0, first_token=30.0, idle=30.0)
        connect, first, idle = (attrs.evolve(long, **{name: SHORT}) for name in ("connect", "first_token", "idle"))
        for script, timeouts, reason in (
            (script_of(good, connect=Hang()), connect, Reason.CONNECT_TIMEOUT),
            (script_of(good, queue=Hang()), first, Reason.FIRST_TOKEN_TIMEOUT),
            (script_of(good, [Hang()]), first, Reason.FIRST_TOKEN_TIMEOUT),
            (script_of(good, itertools.repeat(b":\n\n")), first, Reason.FIRST_TOKEN_TIMEOUT),
            (script_of(good, [some, Hang()]), idle, Reason.IDLE_TIMEOUT),
            (script_of(good, itertools.chain([some], itertools.repeat(b":\n\n"))), idle, Reason.IDLE_TIMEOUT),
        ):
            error = self.events(script, timeouts=timeouts)[-1]
            assert isinstance(error, Error)
            assert error.reason is reason
            assert "0.05 s" in error.message
        error = self.events(script_of(good, [some, Hang()]), request={"deadline": SHORT})[-1]
        assert isinstance(error, Error)
        assert (error.code, error.retriable) == (ErrorCode.DEADLINE_UNMET, False)

    def test_cancel_in_each_phase(self) -> None:
        """Connecting, queued, before the first token, between tokens: End(cancelled), from each way to run."""
        good, expected = self._good()
        some = self.begun(good)
        phases: tuple[Callable[[Hang], Script], ...] = (
            lambda hang: script_of(good, connect=hang),
            lambda hang: script_of(good, queue=hang),
            lambda hang: script_of(good, [hang]),
            lambda hang: script_of(good, [some, hang]),
        )
        for make in phases:
            for way in WAYS:
                hang = Hang()
                with self.adapter(make(hang)) as adapter:
                    stream = getattr(adapter, way if way == "stream" else "submit")(self.request(**expected.request))
                    got: list[Event] = []
                    events: Any = (event for _, event in merge([stream])) if way == "merge" else stream
                    reader = threading.Thread(target=lambda e=events, g=got: g.extend(e))
                    reader.start()
                    assert hang.reached.wait(10)
                    assert adapter.cancel(stream.task_id) is CancelOutcome.CLOSED
                    reader.join(10)
                    assert not reader.is_alive()
                    last = got[-1]
                    assert isinstance(last, End)
                    assert last.finish_reason == "cancelled"
                    assert sum(isinstance(e, End | Error) for e in got) == 1

    # --- requests -----------------------------------------------------------------------------------------------------

    def test_a_request_encodes_the_same_every_time(self) -> None:
        """Nothing random and no clock reaches the body; a second attempt differs in no sampling field."""
        one, two = (self.dialect.encode(self.request(task_id="t"), attempt=n) for n in (1, 1))
        assert (one.target, one.body, dict(one.headers)) == (two.target, two.body, dict(two.headers))

    def test_every_knob_is_sent(self) -> None:
        """No default of an engine, a model or a server flag leaks in: what the profile pins is in the body."""
        request = self.request(temperature=0.5, top_p=0.5)
        body = self.dialect.encode(request, attempt=1).body.decode()
        pinned = sampling_fields(self.dialect.profile, request)
        assert pinned
        for wire in pinned:
            # Some wires carry their sampling parameters as JSON inside a JSON string, with the quotes escaped, and a row may
            # name such a knob by where it is: FIELD.knob.
            name = re.escape(wire.rpartition(".")[2])
            assert re.search(rf'"{name}\\*"\s*:', body), f"{wire} is left to the engine"

    def test_the_request_reaches_the_wire(self) -> None:
        """Each field that the profile has a knob for changes the body; so does the prompt."""
        fields = {knob.field for knob in self.dialect.profile.knobs}
        assert {"max_tokens", "seed", "temperature"} <= fields
        same = {"task_id": "same"}  # which may be on the wire
        base = self.dialect.encode(self.request(**same), attempt=1).body
        changes: dict[str, Any] = {
            "prompt": "another",
            "max_tokens": 65,
            "seed": 2,
            "temperature": 0.25,
            "top_p": 0.25,
            "top_k": 3,
            "min_p": 0.25,
            "repetition_penalty": 1.5,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.5,
            "stop": ("stop",),
        }
        for field, value in changes.items():
            if field == "prompt" or field in fields:
                assert self.dialect.encode(self.request(**same, **{field: value}), attempt=1).body != base, field

    # --- probes -------------------------------------------------------------------------------------------------------

    def test_probes_give_the_recorded_facts(self) -> None:
        """Health, properties and identity, from recorded replies."""
        for probe, entry in self.transcripts.probes.items():
            kind = entry.get("probe", probe)
            facts = self.converse(getattr(self.dialect, kind)(ProbeTarget(**entry.get("target", {}))), entry["replies"])
            facts = getattr(facts, "properties", facts)
            for field, value in entry["facts"].items():
                assert getattr(facts, field) == value, f"{probe}: {field}"

    def test_an_unready_worker_is_not_ready(self) -> None:
        """Health over every recorded error: live, not ready, and why."""
        for name in self.transcripts.errors:
            recorded = self._reply(name)
            conversation = self.dialect.health(ProbeTarget())
            next(conversation)
            with pytest.raises((StopIteration, Fault)) as done:
                conversation.send(recorded)
            if isinstance(done.value, StopIteration):
                assert not done.value.value.ready, name
                assert done.value.value.detail, name

    # --- secrets ------------------------------------------------------------------------------------------------------

    def test_secrets_and_prompts_do_not_show(self, caplog: pytest.LogCaptureFixture) -> None:
        """An engine that echoes the key: neither errors, logs nor reprs hold it, nor the prompt."""
        echo = Script(status=500, headers={}, steps=[f"boom for {SECRET}".encode()])
        good, expected = self._good()
        caplog.set_level(logging.DEBUG, "worker_adapters")
        with self.adapter(echo, script_of(good), credentials=lambda: SECRET) as adapter:
            stream = adapter.stream(self.request())
            error = list(stream)[-1]
            assert isinstance(error, Error)
            shown = [repr(error), repr(adapter), repr(stream), str(WorkerError(error)), repr(self.request())]
            self.run(adapter, self.request(**expected.request))
        shown += [repr(vars(record)) for record in caplog.records]
        assert len(caplog.records) >= 2
        for text in shown:
            assert SECRET not in text
            assert PROMPT not in text
        assert error.upstream is not None
        assert "****" in str(error.upstream.message)
