"""The request: immutable, picklable, and silent about the prompt."""

from __future__ import annotations

import pickle
import subprocess
import sys
import uuid

import attrs
import pytest

from worker_adapters import DeterminismLevel, GenerateRequest, OnDegraded, Priority

PROMPT = "the patient's name is Zoë"
FULL = GenerateRequest(
    prompt=PROMPT,
    max_tokens=9,
    task_id="t1",
    temperature=0.5,
    stop=("\n", "END"),
    seed=7,
    determinism="strict",
    on_degraded="refuse",
    deadline=3.5,
    json_schema={"type": "object"},
    priority="batch",
    correlation_id="c1",
    engine_options={"cache_prompt": False, "unchecked": {"a": [1]}},
)
REQUESTS = [
    FULL,
    GenerateRequest(prompt="x"),
    GenerateRequest(prompt_tokens=[1, 2, 3]),
    GenerateRequest(prompt="x", determinism="nonsense"),  # for submit to refuse
]
BY_REQUEST = pytest.mark.parametrize("request_", REQUESTS, ids=["full", "text", "ids", "not valid"])


@BY_REQUEST
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_request_survives_pickling(request_, protocol):
    unpickled = pickle.loads(pickle.dumps(request_, protocol))
    assert unpickled == request_
    assert unpickled.task_id == request_.task_id


@BY_REQUEST
def test_a_request_is_immutable(request_):
    for field in attrs.fields(GenerateRequest):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(request_, field.name, getattr(request_, field.name))
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            delattr(request_, field.name)
    assert not hasattr(request_, "__dict__")


def test_a_request_is_made_by_keyword_only():
    with pytest.raises(TypeError):
        GenerateRequest("x")


def test_engine_options_can_not_be_written():
    for options in (FULL.engine_options, pickle.loads(pickle.dumps(FULL)).engine_options):
        with pytest.raises(TypeError):
            options["cache_prompt"] = True
        assert dict(options) == {"cache_prompt": False, "unchecked": {"a": [1]}}


def test_a_request_does_not_see_what_its_maker_does_to_the_arguments_later():
    options, ids, stop = {"a": 1}, [1, 2], ["x"]
    request = GenerateRequest(prompt_tokens=ids, stop=stop, engine_options=options)
    options["b"] = 2
    ids.append(3)
    stop.append("y")
    assert (dict(request.engine_options), request.prompt_tokens, request.stop) == ({"a": 1}, (1, 2), ("x",))


def test_the_repr_holds_no_prompt():
    assert PROMPT not in repr(FULL)
    assert "prompt=" not in repr(FULL)
    assert "86753" not in repr(GenerateRequest(prompt_tokens=[86753, 90125]))
    assert "t1" in repr(FULL)


@pytest.mark.parametrize(
    ("stop", "made"), [("END", ("END",)), (["a", "b"], ("a", "b")), ((), ()), ([], ()), ("", ("",))]
)
def test_stop_is_always_a_tuple_of_strings(stop, made):
    assert GenerateRequest(prompt="x", stop=stop).stop == made


def test_names_become_the_members_of_their_enums():
    assert FULL.determinism is DeterminismLevel.STRICT
    assert FULL.on_degraded is OnDegraded.REFUSE
    assert FULL.priority is Priority.BATCH


def test_a_task_id_is_made_where_none_is_given():
    ids = {GenerateRequest(prompt="x").task_id for _ in range(3)}
    assert len(ids) == 3
    assert {uuid.UUID(task_id).version for task_id in ids} == {4}


FORKED = """if True:
    import os
    from worker_adapters import GenerateRequest

    def three(): return [GenerateRequest(prompt="x").task_id for _ in range(3)]

    three()
    child = os.fork()
    os.write(1, (" ".join(three()) + "\\n").encode())  # in one piece: both write there
    if child:
        os.wait()
    else:
        os._exit(0)
"""


def test_a_forked_child_names_its_own_tasks():
    done = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True)
    ids = [uuid.UUID(word) for word in done.stdout.split()]
    assert len(ids) == 6
    assert len(set(ids)) == 6
    assert {(one.version, one.variant) for one in ids} == {(4, uuid.RFC_4122)}


def test_a_copy_with_a_change_keeps_the_rest():
    changed = attrs.evolve(FULL, seed=8)
    assert (changed.seed, changed.prompt, changed.engine_options) == (8, PROMPT, FULL.engine_options)
