"""What can not be right is refused before anything is sent."""

from __future__ import annotations

import attrs
import pytest

from worker_adapters import (
    InvalidRequestError,
    Limits,
)

from .dialects import (
    TINY,
    adapter,
    good,
    kinds,
    request,
)

both = pytest.mark.parametrize("way", ["stream", "submit"])


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "\ud800"},
        {"task_id": ""},
        {"temperature": 10**400},
        {"temperature": float("nan")},
        {"temperature": True},
        {"deadline": float("inf")},
        {"deadline": 0.0},
        {"max_tokens": 0},
        {"seed": 2**32 - 1},
        {"seed": -1},
        {"stop": ["a"] * 5},
        {"stop": [""]},
        {"stop": ["a\ud800"]},
        {"prompt": "a\ud800"},
        {"prompt": None},
        {"prompt": b"bytes"},
        {"prompt": None, "prompt_tokens": [1]},
        {"logprobs": 1},
        {"engine_options": {"nonsense": 1}},
        {"engine_options": {"unchecked": 1}},
        {"sampler_profile_version": "v0"},
        {"determinism": "perhaps"},
        {"priority": "high"},
        {"json_schema": {}},
    ],
)
def test_what_can_not_be_right_is_refused_at_once_and_keeps_no_place(fields):
    dialect = attrs.evolve(TINY, features=attrs.evolve(TINY.features, engine_options=frozenset({"unchecked"})))
    with adapter(good(), limits=Limits(max_in_flight=1), dialect=dialect) as a:
        with pytest.raises(InvalidRequestError) as caught:
            a.submit(request(**fields))
        assert caught.value.error.phase == "prepare"
        assert not caught.value.retriable
        assert kinds(a.stream(request()))[-1] == "end"
