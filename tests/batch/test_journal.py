"""The journal by itself: what is kept, what is cut, what is refused."""

from __future__ import annotations

import random

import pytest

from worker_adapters.batch.disk import DISK
from worker_adapters.batch.journal import Journal, JournalError
from worker_adapters.batch.keys import Keys, digest_of

from .disks import QUICK, FaultyDisk, PowerCutError

pytestmark = pytest.mark.req("ADAPT-3500")

ROWS = [b'{"id":%d,"text":"%s"}' % (n, b"x" * (n * 37 % 200)) for n in range(40)]


def filled(path, rows=ROWS, *, group=8, disk=QUICK, close=True):
    journal = Journal(path, disk)
    journal.open()
    journal.recover({"format": 1}, Keys())
    for n, row in enumerate(rows, 1):
        journal.add(digest_of(row), row, failed=False)
        if n % group == 0:
            journal.sync()
    if close:
        journal.close()
    return journal


def read(path, disk=QUICK):
    journal = Journal(path, disk)
    journal.open()
    try:
        keys = Keys()
        journal.recover({"format": 1}, keys)
        found = [line for line in journal.lines() if line.kind == "row"]
        for line in found:
            assert journal.read(line.offset) == journal.row_at(line)
            assert keys.offset(line.digest) == line.offset
        assert keys.recorded == len(keys) == len(found)
        return [journal.row_at(line) for line in found]
    finally:
        journal.close()


def test_what_was_added_is_there_again(tmp_path):
    filled(tmp_path / "j")
    assert read(tmp_path / "j") == ROWS
    assert read(tmp_path / "j") == ROWS


def test_a_tail_torn_anywhere_is_cut_back_to_the_last_good_record(tmp_path):
    path = tmp_path / "j"
    journal = filled(path, group=1, close=False)
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    journal.close(in_order=False)
    for size in range(ends[-3], len(whole), 3):
        path.write_bytes(whole[:size])
        assert read(path) == ROWS[: sum(end <= size for end in ends) - 1]
    path.write_bytes(whole + bytes(5000))
    assert read(path) == ROWS


@pytest.mark.parametrize("change", ["flip", "zeros", "cut"])
def test_damage_elsewhere_is_refused_and_nothing_is_touched(tmp_path, change):
    path = tmp_path / "j"
    filled(path)
    whole = path.read_bytes()
    draw = random.Random(1)
    last = whole.rindex(b'{"len":')  # the line that closes it
    for _ in range(60):
        at = draw.randrange(len(b'{"len":') + 2, last)
        if change == "flip":
            damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        elif change == "zeros":
            damaged = whole[:at] + bytes(min(30, last - at)) + whole[at + min(30, last - at) :]
        else:
            damaged = whole[:at] + whole[min(at + 7, last) :]
        path.write_bytes(damaged)
        with pytest.raises(JournalError, match="damaged"):
            read(path)
        assert path.read_bytes() == damaged


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "j"
    path.write_text("my thesis")
    with pytest.raises(JournalError, match="no journal"):
        read(path)
    assert path.read_text() == "my thesis"


def test_there_is_one_writer(tmp_path):
    journal = filled(tmp_path / "j", close=False)
    with pytest.raises(JournalError, match="another run"):
        Journal(tmp_path / "j", DISK).open()
    journal.close()
    assert read(tmp_path / "j") == ROWS


@pytest.mark.parametrize("fault", ["cut", "after"])
def test_a_power_cut_loses_nothing_that_was_synced(tmp_path, fault):
    counted = FaultyDisk()
    filled(tmp_path / "whole", disk=counted)
    for at in range(counted.calls):
        path = tmp_path / f"{fault}{at}"
        disk = FaultyDisk(fault, at)
        with pytest.raises(PowerCutError):
            filled(path, disk=disk)
        kept = sum(b'"row":' in line for line in path.read_bytes()[: disk.kept.get(path, 0)].splitlines())
        disk.die(random.Random(at))
        found = read(path)
        assert found == ROWS[: len(found)]
        assert len(found) >= kept
