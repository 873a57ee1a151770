"""Digests of model files, and the key of an answer."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time

import attrs
import pytest

from worker_adapters import (
    DeterminismKey,
    DeterminismLevel,
    GenerateRequest,
    Identity,
    Started,
    connect,
    determinism_key,
    digest_file,
)
from worker_adapters.simulator import Simulator


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def age(path):
    """As files are that nobody is writing: a young one is read again each time."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_a_file_s_digest_is_its_sha256(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" * 100_000)
    assert digest_file(file) == digest_file(str(file)) == sha(b"GGUF" * 100_000)


def test_a_file_is_read_again_when_inode_mtime_or_size_change(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    age(file)
    assert digest_file(file) == sha(b"one")
    file.write_bytes(b"two")
    age(file)  # nothing of the three has changed: that it isn't read again is the cache's proof
    assert digest_file(file) == sha(b"one")
    os.utime(file, (1_700_000_001, 1_700_000_001))
    assert digest_file(file) == sha(b"two")
    file.write_bytes(b"three")
    age(file)
    assert digest_file(file) == sha(b"three")
    other = tmp_path / "other"
    other.write_bytes(b"inode")
    age(other)
    other.replace(file)
    assert digest_file(file) == sha(b"inode")


def test_what_has_just_been_written_may_be_written_again(tmp_path):
    file = tmp_path / "model.gguf"
    for content in (b"one", b"two", b"six"):
        file.write_bytes(content)
        assert digest_file(file) == sha(content)


def test_a_file_that_changes_within_one_tick_of_a_coarse_clock_is_read_again(tmp_path):
    """As on a share whose times are whole seconds."""
    file = tmp_path / "model.gguf"
    second = int(time.time())
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, (second, second))
        assert digest_file(file) == sha(content)


def test_a_link_is_what_it_leads_to_under_its_own_name(tmp_path):
    """As hubs lay out their caches: links to blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    for folder in (blobs, snapshot):
        folder.mkdir()
    for name in ("one", "two"):
        (blobs / name).write_bytes(name.encode())
        age(blobs / name)
    link = snapshot / "model.safetensors"
    link.symlink_to(blobs / "one")
    assert digest_file(link) == sha(b"one")
    assert digest_file(snapshot) == sha(f"{sha(b'one')}  model.safetensors\n".encode())
    link.unlink()
    link.symlink_to(blobs / "two")
    assert digest_file(link) == sha(b"two")
    link.unlink()
    link.symlink_to(blobs / "gone")
    with pytest.raises(FileNotFoundError):
        digest_file(snapshot)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_folder_s_digest_is_of_its_shards_sorted_with_their_names(tmp_path, kind):
    for number in (2, 1):
        (tmp_path / f"model-0000{number}-of-00002.{kind}").write_bytes(b"%d" % number)
    (tmp_path / "config.json").write_text("{}")
    lines = f"{sha(b'1')}  model-00001-of-00002.{kind}\n{sha(b'2')}  model-00002-of-00002.{kind}\n"
    assert digest_file(tmp_path) == sha(lines.encode())
    before = digest_file(tmp_path)
    (tmp_path / f"model-00002-of-00002.{kind}").rename(tmp_path / f"model-00003-of-00003.{kind}")
    assert digest_file(tmp_path) != before


def test_what_is_no_model_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither safetensors nor GGUF"):
        digest_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "model.gguf")


@pytest.mark.req("OC-ADAPT-5011", socket=True)
@pytest.mark.req("ADAPT-3700", socket=True)
@pytest.mark.kills("forgets what the caller knows of a worker")
def test_the_caller_s_digest_is_in_started_in_the_log_and_in_the_key(tmp_path, caplog):
    (tmp_path / "model.gguf").write_bytes(b"weights")
    digest = digest_file(tmp_path / "model.gguf")
    request = GenerateRequest(prompt="secret prompt", max_tokens=4, seed=7)
    with (
        caplog.at_level(logging.INFO, "worker_adapters"),
        Simulator("llamacpp") as worker,
        connect("llamacpp", worker.url, identity=Identity(model_digest=digest)) as adapter,
    ):
        adapter.engine_version()
        started = adapter.generate(request).started
        assert adapter.drain(5)
    key = determinism_key(started, request)
    assert started.model_digest == key.model_digest == caplog.records[-1].model_digest == digest
    assert key.complete
    assert digest in str(key)
    assert "secret" not in str(key) + repr(key)


def test_what_the_engine_tells_of_its_model_goes_before_what_the_caller_says():
    with (
        Simulator("tgi", model_sha="0123abcd") as worker,
        connect("tgi", worker.url, identity=Identity(model_digest="mine")) as adapter,
    ):
        assert adapter.properties().model_digest == "0123abcd"


# --- the key ----------------------------------------------------------------------------------------------------------

STARTED = Started(
    task_id="t",
    engine="vllm",
    seed=7,
    sampler_profile_version="v1",
    determinism=DeterminismLevel.STRICT,
    attempt=1,
    engine_version="1",
    model="m",
    model_digest="d",
)
REQUEST = GenerateRequest(prompt="p", task_id="t", max_tokens=9)


def key(started=STARTED, request=REQUEST, **changes) -> DeterminismKey:
    told = {field.name for field in attrs.fields(Started)} - {"task_id"}
    return determinism_key(
        attrs.evolve(started, **{n: v for n, v in changes.items() if n in told}),
        attrs.evolve(request, **{n: v for n, v in changes.items() if n not in told}),
    )


@pytest.mark.parametrize(
    "same",
    [
        {"task_id": "other", "attempt": 2},
        {"correlation_id": "c", "session_id": "s", "priority": "batch"},
        {"deadline": 5.0, "logprobs": 3, "return_token_ids": True},
        {"temperature": 1},
        {"top_k": 0.0},
        {"model": "m"},
        {"engine_options": {}},
    ],
    ids=str,
)
def test_what_does_not_decide_on_the_text_is_not_in_the_key(same):
    assert key(**same) == key()
    assert key(**same).digest == key().digest


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "tgi"},
        {"engine_version": "2"},
        {"model": "n"},
        {"model_digest": "e"},
        {"trtllm_version": "1"},
        {"sampler_profile_version": "v2"},
        {"prompt": "q"},
        {"prompt": None, "prompt_tokens": (1, 2)},
        {"max_tokens": 8},
        {"temperature": 0.5},
        {"top_k": 1},
        {"stop": ("x",)},
        {"ignore_eos": True},
        {"json_schema": {"type": "object"}},
        {"engine_options": {"a": 1}},
    ],
    ids=str,
)
def test_what_decides_on_the_text_is_in_the_key(other):
    assert key(**other) != key()
    assert key(**other).digest != key().digest


def test_token_ids_are_not_the_text_that_looks_like_them():
    assert key(prompt="[1, 2]") != key(prompt=None, prompt_tokens=(1, 2))


def test_a_set_is_written_in_the_same_order_in_every_process():
    options = {"a": frozenset({"x", "y", "z"})}
    assert json.loads(key(engine_options=options).parameters)["engine_options"]["a"] == ["x", "y", "z"]


def test_a_seed_is_the_one_that_was_used():
    assert determinism_key(attrs.evolve(STARTED, seed=8), REQUEST) != key()
    assert key().seed == 7


def test_a_key_is_pinned():
    """It may be stored: another way to write it would make every answer another one's."""
    assert str(key()) == (
        "vllm=1 model=m model_digest=d profile=v1 seed=7 prompt=sha256:148de9c5a7a44d19 parameters=sha256:f7551d17dddf7e6c"
    )


def test_what_is_not_known_promises_nothing():
    assert not key(model_digest=None).complete
    assert not key(engine_version=None).complete
    assert "model_digest=?" in str(key(model_digest=None))
