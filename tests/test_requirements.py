"""Every requirement of what exists is shown by a test over a real socket, and every mark names a requirement."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

import attrs
import pytest

from worker_adapters import registry

from . import conftest, requirements
from .requirements import PENDING, REQUIREMENTS, UNKILLED

MARKS = requirements.marks()


def required() -> set[str]:
    engines = registry.engine_names()
    return {name for name, r in REQUIREMENTS.items() if any(engine.startswith(r.engine) for engine in engines)}


def test_marks_name_requirements():
    assert [m for m in MARKS if m.id not in REQUIREMENTS] == []


def not_shown(marks: list[requirements.Mark]) -> set[str]:
    """The ids of what exists without a test over a socket."""
    return required() - {m.id for m in marks if m.socket}


def not_killed(marks: list[requirements.Mark]) -> set[str]:
    """The ids of what exists whose tests kill no mutant."""
    return required() - {m.id for m in marks if m.kills}


def test_what_exists_is_shown_over_a_socket():
    assert not_shown(MARKS) == PENDING


def test_for_each_there_is_a_test_that_kills_a_mutant():
    assert not_killed(MARKS) == UNKILLED


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_an_id_that_has_neither_is_found(name):
    """Planted: its tests take back that they work over sockets, or which mutants they kill."""
    ours = [m for m in MARKS if m.id == name]
    others = [m for m in MARKS if m.id != name]
    assert not_shown([*others, *(attrs.evolve(m, socket=False) for m in ours)]) == {name}
    assert not_killed([*others, *(attrs.evolve(m, kills=()) for m in ours)]) == {name}
    assert not_shown(others) == not_killed(others) == {name}


def test_the_page_is_up_to_date():
    expected = requirements.text(MARKS)
    assert expected == requirements.PATH.read_text(encoding="utf-8"), "run: python -m tests.requirements"


@pytest.fixture
def marks_of(tmp_path):
    def read(source: str) -> list[tuple[str, str, bool]]:
        (tmp_path / "test_x.py").write_text(source)
        return [(m.id, m.test, m.socket) for m in requirements.marks(tmp_path)]

    return read


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('@pytest.mark.req("A")\ndef test_a(): ...', [("A", "test_x.py::test_a", False)]),
        (
            'class TestB:\n    @pytest.mark.req("A", "B", socket=True)\n    def test_b(self): ...',
            [("A", "test_x.py::TestB::test_b", True), ("B", "test_x.py::TestB::test_b", True)],
        ),
        ('pytestmark = [pytest.mark.req("A")]', [("A", "test_x.py", False)]),
        ('if True:\n    @pytest.mark.req("A")\n    def test_a(): ...', [("A", "test_x.py::test_a", False)]),
        (
            'pytestmark = pytest.mark.req("A")\n@pytest.mark.kills("m")\ndef test_a(): ...',
            [("A", "test_x.py", False), ("A", "test_x.py::test_a", False)],
        ),
    ],
)
def test_marks_are_found_wherever_they_stand(marks_of, source, found):
    assert found == marks_of(source)


@pytest.mark.parametrize("mark", ["req(NAME)", "req()", 'req("A", sockets=True)', "req(3001)"])
def test_a_mark_that_can_not_be_read_is_an_error(marks_of, mark):
    with pytest.raises(ValueError, match=r"test_x\.py:1: "):
        marks_of(f"@pytest.mark.{mark}\ndef test_a(): ...")


@pytest.mark.parametrize("connects", [True, False])
@pytest.mark.parametrize("claims", [True, False])
def test_a_claim_that_no_socket_backs_fails_its_test(connects, claims):
    mark = SimpleNamespace(name="req", args=("A",), kwargs={"socket": claims})
    item = SimpleNamespace(path=requirements.TESTS / "test_x.py", own_markers=[mark])
    call = conftest.pytest_runtest_call(item)
    next(call)
    if connects:
        with socket.create_server(("127.0.0.1", 0)) as there:
            socket.create_connection(there.getsockname()).close()
    unbacked = claims and not connects
    with (
        pytest.raises(pytest.fail.Exception, match="connected none") if unbacked else contextlib.suppress(StopIteration)
    ):
        call.send(None)


def test_what_is_killed_is_said_with_what_it_shows(tmp_path):
    (tmp_path / "test_x.py").write_text(
        'pytestmark = pytest.mark.req("A", socket=True)\n'
        '@pytest.mark.kills("m", "n")\ndef test_a(): ...\n'
        '@pytest.mark.kills("o")\n@pytest.mark.req("B")\ndef test_b(): ...\n'
    )
    (tmp_path / "x.feature").write_text("Feature: x\n\n  @A @kills:loses_it\n  Scenario: x: y\n    When z\n")
    found = {(m.id, m.test, m.socket, m.kills) for m in requirements.marks(tmp_path) if m.kills}
    assert found == {
        ("A", "test_x.py::test_a", True, ("m", "n")),
        ("B", "test_x.py::test_b", False, ("o",)),
        ("A", "scenario x: y", True, ("loses it",)),
    }
