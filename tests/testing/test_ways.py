"""What the suite compares two runs by."""

from __future__ import annotations

from worker_adapters import DeterminismLevel, Started
from worker_adapters.testing.ways import comparable


def test_what_the_versions_probe_had_found_out_by_then_makes_no_difference():
    """It runs beside the stream, which waits a tenth of a second for it: a busy machine decides."""
    same = {
        "engine": "e",
        "determinism": DeterminismLevel.BEST_EFFORT,
        "attempt": 1,
        "seed": 1,
        "sampler_profile_version": "v1",
    }
    found = {"engine_version": "1", "model": "m", "model_digest": "d", "trtllm_version": "1"}
    assert comparable([Started(task_id="a", **same)]) == comparable([Started(task_id="b", **same, **found)])
    assert comparable([Started(task_id="a", **same)]) != comparable([Started(task_id="a", **{**same, "seed": 2})])
