"""One run folder, one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.errors import UserError
from minillm.training import claim as claim_module
from minillm.training import resume_run, train
from minillm.training.claim import Claim, FolderInUse
from minillm.training.run_folder import claim_new_folder, put_in_place

HOLD = """
import sys
from minillm.training import claim as claim_module
from minillm.training.claim import Claim
if sys.argv[2] == "file":
    claim_module._lock_folder = lambda folder: None
claim = Claim(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_elsewhere():
    """A function by which another process claims a folder; it returns the process, which is killed in the end."""
    processes = []

    def hold(folder, way="folder"):
        command = [sys.executable, "-c", HOLD, str(folder), way]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(params=["folder", "file"])
def way(request, monkeypatch):
    """How folders are locked: themselves, or by a file beside them, as where they cannot be."""
    if request.param == "file":
        monkeypatch.setattr(claim_module, "_lock_folder", lambda folder: None)
    return request.param


def test_another_process_is_refused_until_the_owner_is_killed(tmp_path, held_elsewhere, way):
    folder = tmp_path / "run"
    folder.mkdir()
    owner = held_elsewhere(folder, way)
    (tmp_path / "link").symlink_to(folder)
    told = rf"run is in use: process {owner.pid} is training" if Path("/proc/locks").is_file() else "run is in use: "
    for name in ("run", "./run", "link"):
        with pytest.raises(FolderInUse, match=told if name == "run" else "is in use"):
            Claim(tmp_path / name)
    owner.kill()
    owner.wait()
    with Claim(folder) as claim:
        assert claim.is_sure and list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]  # nothing is left of it


def test_within_a_process_it_is_shared_and_ends_with_the_last(tmp_path, held_elsewhere, way):
    first, second = Claim(tmp_path), Claim(tmp_path)
    first.release()
    first.release()
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", HOLD, str(tmp_path), way], check=True, capture_output=True)
    del second
    held_elsewhere(tmp_path, way)


def test_without_any_locks_it_is_not_sure(tmp_path, monkeypatch):
    monkeypatch.setattr(claim_module, "_lock_folder", lambda folder: None)
    monkeypatch.setattr(claim_module, "_lock_open_file", lambda descriptor: os.fstat(-1))
    assert not Claim(tmp_path).is_sure


def test_a_run_in_use_is_neither_resumed_nor_replaced(new_run, held_elsewhere):
    run = new_run()
    run.release()
    owner = held_elsewhere(run.folder)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    for attempt in (lambda: resume_run(run.folder), lambda: train(run), new_run, lambda: new_run(overwrite=True)):
        with pytest.raises(FolderInUse, match="run is in use"):
            attempt()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    owner.kill()
    owner.wait()
    assert train(resume_run(run.folder)) == "finished"


def test_after_training_the_folder_is_free_for_others(new_run, held_elsewhere):
    run = new_run()
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", HOLD, str(run.folder), "folder"], check=True, capture_output=True)
    train(run)
    held_elsewhere(run.folder)


def test_a_run_that_went_on_elsewhere_is_not_trained_from_an_older_state(new_run):
    old = new_run()
    train(resume_run(old.folder), stop_after=4)
    old.release()
    with pytest.raises(UserError, match="has come to step 4 meanwhile"):
        train(old)


def test_numbers_are_given_once(tmp_path, held_elsewhere):
    (tmp_path / "default-1").mkdir()
    (tmp_path / ".default-2.partial").mkdir()
    held_elsewhere(tmp_path / ".default-2.partial")  # another process is making default-2
    with claim_new_folder(tmp_path / "default", numbered=True) as (folder, partial):
        assert folder.name == "default-3" and partial.is_dir()
        put_in_place(partial, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".default-2.partial", "default-1", "default-3"]


def test_what_a_killed_process_left_is_used(new_run, tmp_path):
    (tmp_path / ".run.partial" / "training").mkdir(parents=True)
    (tmp_path / ".run.partial" / "half").touch()
    assert train(new_run()) == "finished"
    assert not (tmp_path / ".run.partial").exists() and not (tmp_path / "run" / "half").exists()


def test_killed_between_the_renames_of_a_replacement_the_old_run_comes_back(new_run, tmp_path):
    run = new_run()
    train(run, stop_after=4)
    os.replace(run.folder, tmp_path / ".run.old")
    assert resume_run(run.folder).progress.step == 4
    assert not (tmp_path / ".run.old").exists()


def test_temporary_files_of_killed_processes_are_removed(new_run):
    folder = new_run().folder
    for left in (folder / ".model.safetensors.1.tmp", folder / "training" / ".state.json.1.tmp"):
        left.touch()
    resume_run(folder)
    assert not [path for path in folder.rglob(".*")]
