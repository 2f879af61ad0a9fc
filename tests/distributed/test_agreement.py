"""What differs between ranks is refused before the first step, by all of them, with its name and the rank's."""

import os
import shutil
from collections import namedtuple

import pytest

from minillm.distributed import agreement
from minillm.distributed.agreement import (
    agree,
    check_room,
    check_same_folder,
    gathered,
    hashes,
    notes_on_bits,
    rounding_facts,
    versions,
)
from minillm.distributed.alone import Alone
from minillm.distributed.rank_threads import run_ranks
from minillm.errors import UserError


def on_ranks(size, task):
    """[what task(communicator) returned, or the error that it raised] of each rank."""

    def caught(communicator):
        try:
            return task(communicator)
        except UserError as error:
            return error

    return run_ranks(size, caught)


def messages(results):
    assert all(isinstance(each, UserError) for each in results), results
    return {str(each) for each in results}


def test_what_is_gathered_is_the_same_everywhere():
    results = on_ranks(3, lambda c: gathered(c, {"a": c.rank, "long": "x" * 100 * c.rank}))
    assert results[0] == results[1] == results[2]
    assert [each["facts"]["a"] for each in results[0]] == [0, 1, 2]


@pytest.mark.parametrize("name", versions())
def test_another_version_is_refused(name):
    results = on_ranks(3, lambda c: agree(c, {**versions(), **({name: "9.9"} if c.rank == 1 else {})}))
    (message,) = messages(results)
    assert message.startswith(f"{name}: {versions()[name]} on rank 0 (") and ", 9.9 on rank 1 (" in message
    assert message.endswith("): all ranks need the same")


def test_equal_facts_are_no_hindrance():
    assert on_ranks(3, lambda c: agree(c, versions())) == [None] * 3
    assert on_ranks(3, lambda c: notes_on_bits(c)) == [[]] * 3
    agree(Alone(), versions())


def test_a_fact_that_a_rank_lacks_and_one_of_which_it_says_nothing():
    (message,) = messages(on_ranks(2, lambda c: agree(c, {"a": 1} if c.rank else {"b": 1})))
    assert message.startswith("b: 1 on rank 0 (") and "none on rank 1" in message
    assert on_ranks(3, lambda c: agree(c, {"a": None if c.rank == 0 else 5})) == [None] * 3


def test_several_ranks_are_counted():
    (message,) = messages(on_ranks(4, lambda c: agree(c, {"--lr": 0.1 if c.rank < 1 else 0.2})))
    assert "0.2 on rank 1 (" in message and ") and 2 more: all" in message


def test_another_processor_is_a_remark(monkeypatch):
    facts = [" ".join(f"I{i}" for i in range(10 + (rank == 2))) for rank in range(3)]
    everyones = [{"host": f"node{rank}", "facts": {"the instructions": each}} for rank, each in enumerate(facts)]
    monkeypatch.setattr(agreement, "gathered", lambda communicator, own: everyones)
    (note,) = notes_on_bits(Alone())
    assert note.startswith("the instructions: none of these on rank 0 (node0), I10 on rank 2 (node2): the last bits")


def test_this_processor_has_kernels_and_instructions():
    assert all(rounding_facts().values()) and len(rounding_facts()) == 3


def test_other_data_is_named_by_its_file(tmp_path, monkeypatch):
    """The machines of this test see other files under one name: the last byte differs."""
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "train.npy").write_bytes(b"same" * 500_000 + bytes([rank]))
    found = [hashes(Alone(), [tmp_path / str(rank) / "train.npy"]) for rank in range(2)]
    (message,) = messages(on_ranks(2, lambda c: agree(c, {"the contents": [*found[c.rank].values()]})))
    assert message.startswith("the contents: ['")


def test_one_rank_of_a_machine_reads(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    found = on_ranks(3, lambda c: list(hashes(c, [tmp_path / "a", tmp_path / "b"]).values()))
    assert found[0][1] == "missing" and len(found[0][0]) == 16
    assert found[1:] == [[None, None]] * 2, "all ranks of this test are on one machine"


def test_a_folder_that_some_do_not_see(tmp_path):
    for name in ("0", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1").symlink_to(tmp_path / "0")
    (message,) = messages(on_ranks(3, lambda c: check_same_folder(c, tmp_path / str(c.rank), seconds=0.2)))
    assert message.startswith("rank 2 (") and "does not see the folder" in message
    assert list((tmp_path / "0").iterdir()) == [], "the file that was looked for is gone"
    assert on_ranks(2, lambda c: check_same_folder(c, tmp_path / str(c.rank))) == [None] * 2
    shutil.rmtree(tmp_path / "2")
    assert messages(on_ranks(3, lambda c: check_same_folder(c, tmp_path / str(c.rank), seconds=0.1)))


def test_a_folder_is_seen_late(tmp_path, monkeypatch):
    looks = []

    def listed(path):
        looks.append(path)
        return [entry.name for entry in os.scandir(path)] if len(looks) > 3 else []

    monkeypatch.setattr(agreement.os, "listdir", listed)
    monkeypatch.setattr(agreement, "LOOK_EVERY", 0.001)
    assert on_ranks(2, lambda c: check_same_folder(c, tmp_path)) == [None] * 2 and len(looks) == 4


def test_rank_0_cannot_write(tmp_path):
    (message,) = messages(on_ranks(2, lambda c: check_same_folder(c, tmp_path / "missing")))
    assert message.startswith("rank 0 (") and "cannot write into" in message


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5_000_000))
    assert on_ranks(2, lambda c: check_room(c, tmp_path, 5_000_000)) == [None] * 2
    (message,) = messages(on_ranks(2, lambda c: check_room(c, tmp_path, 7_000_000)))
    assert "needs 7.0 MB, and 5.0 MB are left: make room" in message
