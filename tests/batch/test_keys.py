"""The table of keys: against a dict, and what a key costs."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from worker_adapters.batch.keys import NOWHERE, Keys, digest_of

pytestmark = pytest.mark.req("ADAPT-3500")


def test_it_says_what_a_dict_would():
    draw = random.Random(3)
    keys, model = Keys(), {}
    for _ in range(30_000):
        digest = digest_of(b"%d" % draw.randrange(12_000))
        offset, failed, met = model.get(digest, (NOWHERE, False, False))
        if draw.random() < 0.5:
            assert keys.meet(digest) == (offset, failed, met)
            model[digest] = (offset, failed, True)
        else:
            to, wrong = draw.randrange(2**45), draw.random() < 0.3
            keys.put(digest, to, failed=wrong)
            model[digest] = (to, wrong, met)
    assert len(keys) == len(model)
    assert keys.recorded == sum(offset != NOWHERE for offset, _, _ in model.values())
    assert keys.failed == sum(failed for _, failed, _ in model.values())
    for digest, (offset, _, met) in model.items():
        assert keys.offset(digest) == (None if offset == NOWHERE else offset)
        assert keys.was_met(digest) == met
    keys.forget_meetings()
    assert not any(keys.was_met(digest) for digest in model)
    assert keys.offset(digest_of(b"not there")) is None


COST = """
from worker_adapters.batch.keys import Keys, digest_of
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
def filled(count):
    keys = Keys()
    for n in range(count):
        keys.put(digest_of(b"%d" % n), n * 300, failed=False)
    return keys
filled(100)  # what is loaded by the first ones is no key's
before, count = resident(), 300_000
keys = filled(count)
print((resident() - before) / count)
"""


def test_a_key_costs_24_bytes_at_most():
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True, timeout=50)
    assert float(done.stdout) <= 24.0
