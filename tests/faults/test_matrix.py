"""The matrix: each fault in front of each dialect, its exact end, and all that may come before it."""

from __future__ import annotations

import pytest

from worker_adapters import Error, Started, Token, registry

from . import matrix
from .cases import CASES, END, LEFT
from .subjects import SUBJECTS

pairs = pytest.mark.parametrize(
    ("subject", "case", "way"),
    [pytest.param(s, c, way, id=f"{s.name}-{c.name}-{way}") for s in SUBJECTS for c in CASES for way in matrix.WAYS],
)


def test_every_engine_of_the_registry_is_in_the_matrix():
    """A new dialect brings its transcripts, or this fails. Triton's three are found out by asking, as `triton` does."""
    families = {name.partition("-")[0] for name in registry.engine_names()}
    assert {subject.name.split()[0] for subject in SUBJECTS} == families


@pairs
def test_what_a_fault_comes_to(subject, case, way):
    outcome = matrix.outcomes()[subject.name, case.name, way]
    assert outcome.terminal == case.expected_of(subject)
    if case.sent is not None:
        assert outcome.sent == case.sent
    last = outcome.events[-1]
    if isinstance(last, Error):
        assert last.retry_after_ms == case.retry_after_ms


@pairs
def test_what_comes_before_the_end_is_the_beginning_of_the_good_stream(subject, case, way):
    """Started, and Tokens in order: no token lost, repeated or invented, and all of them where the end is good."""
    events = matrix.outcomes()[subject.name, case.name, way].events
    good = matrix.outcomes()[subject.name, "1xx noise", way].events
    expected = case.expected_of(subject)
    begun = expected in (END, LEFT) or expected[3] == "decode"
    assert [event.kind for event in events].count("started") == begun
    tokens = [event for event in events if isinstance(event, Token)]
    whole = [event for event in good if isinstance(event, Token)]
    garbled = case.name == "invalid UTF-8 in the text" and subject.name.startswith("triton")
    assert [t.index for t in tokens] == list(range(len(tokens)))
    if not garbled:
        text, whole_text = ("".join(t.text for t in some).rstrip("\ufffd") for some in (tokens, whole))
        assert whole_text.startswith(text)
    if expected == END:
        assert tokens == whole
        assert isinstance(events[0], Started)
    assert sum(event.kind in ("end", "error") for event in events) == (expected != LEFT)


@pytest.mark.parametrize(
    ("subject", "name", "way"),
    [
        pytest.param(s, name, way, id=f"{s.name}-{name}-{way}")
        for s in SUBJECTS
        for name in [*s.transcripts.errors, *(n for n, e in s.transcripts.streams.items() if e.error)]
        for way in matrix.WAYS
    ],
)
def test_the_failures_that_transcripts_hold(subject, name, way):
    """Overload, validation, loading and errors inside a 200, in the engine's own words."""
    expected = subject.transcripts.errors.get(name) or subject.transcripts.streams[name].error
    outcome = matrix.recorded_outcomes()[subject.name, name, way]
    assert outcome.terminal[:2] == tuple(expected)
    assert outcome.sent == (outcome.terminal[4] or 1)


def test_the_page_is_what_the_run_gave():
    """If not: `python -m tests.faults.matrix`."""
    assert matrix.PATH.read_text(encoding="utf-8") == matrix.rendered()
