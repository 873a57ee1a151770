"""The matrix: each fault in front of each dialect, its exact end, and all that may come before it."""

from __future__ import annotations

from worker_adapters import Error, Started, Token, registry

from ..products import product
from . import matrix
from .cases import CASES, END, LEFT
from .rows import NOT_RETRIABLE
from .subjects import SUBJECTS

GOOD = next(case for case in CASES if case.name == "1xx noise")
PAGE = matrix.PAGE


def test_every_engine_of_the_registry_is_in_the_matrix():
    """A new dialect brings its transcripts, or this fails. Triton's three are found out by asking, as `triton` does."""
    families = {registry.dialect(name).name for name in registry.engine_names()}
    assert {subject.name.split()[0] for subject in SUBJECTS} == families


@product("case, subject, way", [(c, s, way) for c in CASES for s in SUBJECTS for way in matrix.WAYS])
def test_what_a_fault_comes_to(case, subject, way):
    outcome = matrix.outcome(subject, case, way)
    assert outcome.terminal == case.expected_of(subject)
    if case.sent is not None:
        assert outcome.sent == case.sent
    last = outcome.events[-1]
    if isinstance(last, Error):
        assert last.retry_after_ms == case.retry_after_ms
    assert_before_the_end(outcome.events, case, subject, way)
    assert outcome.shown() == PAGE[subject.name, case.name, way], "run: python -m tests.faults.matrix"


def assert_before_the_end(events, case, subject, way):
    """Started, and Tokens in order: none lost, repeated or invented by the good stream, and all where the end is good."""
    good = matrix.outcome(subject, GOOD, way).events
    expected = case.expected_of(subject)
    begun = expected in (END, LEFT) or expected[3] == "decode"
    assert [event.kind for event in events].count("started") == begun
    tokens = [event for event in events if isinstance(event, Token)]
    whole = [event for event in good if isinstance(event, Token)]
    garbled = case.name == "invalid UTF-8 in the text" and subject.name.startswith(("triton", "openai"))
    assert [t.index for t in tokens] == list(range(len(tokens)))
    if not garbled:
        text, whole_text = ("".join(t.text for t in some).rstrip("\ufffd") for some in (tokens, whole))
        assert whole_text.startswith(text)
    if expected == END:
        assert tokens == whole
        assert isinstance(events[0], Started)
    assert sum(event.kind in ("end", "error") for event in events) == (expected != LEFT)


@product("failure, way", [(f"{s.name}: {name}", way) for s, name in matrix.RECORDED for way in matrix.WAYS])
def test_the_failures_that_transcripts_hold(failure, way):
    """Overload, validation, loading and errors inside a 200, in the engine's own words."""
    of, _, name = failure.partition(": ")
    subject = next(s for s in SUBJECTS if s.name == of)
    case = matrix.recorded(subject, name)
    outcome = matrix.outcome(subject, case, way)
    assert outcome.terminal[:2] == case.expected
    assert outcome.terminal[2] == (outcome.terminal[1] not in NOT_RETRIABLE)
    assert outcome.sent == (outcome.terminal[4] or 1)
    assert outcome.shown() == PAGE[subject.name, case.name, way], "run: python -m tests.faults.matrix"


def test_the_page_has_a_cell_for_each_of_them_and_no_other():
    """What stands in them is held to the run above. If not: `python -m tests.faults.matrix`."""
    assert matrix.PATH.read_text(encoding="utf-8") == matrix.rendered(PAGE)
