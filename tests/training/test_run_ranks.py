"""A run folder of several ranks: the first one creates and claims it, all open it, and what goes wrong for one goes wrong for
all. Ranks are threads here (rank_threads.py).
"""

import os
import threading

import numpy as np
import pytest
from small_runs import MODEL, SETTINGS

from minillm.distributed.rank_threads import run_ranks
from minillm.errors import UserError
from minillm.training import TrainingSettings, resume_run, start_run, train
from minillm.training import run as run_module

FILES = "config.json", "model.safetensors", "training/optimizer.safetensors", "training/state.json"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def start(tmp_path, text_file):
    """A function that starts a small run on a rank."""

    def start(communicator=None, name="run", **options):
        settings = TrainingSettings(**{**SETTINGS, "data": (str(text_file),), "batch_parts": 3})
        return start_run(settings, MODEL, tmp_path / name, communicator=communicator, **options)

    return start


def test_the_folder_is_the_one_of_one_process(start, tmp_path):
    alone = start(name="alone")
    runs = run_ranks(3, start)
    assert [run.folder for run in runs] == [tmp_path / "run"] * 3
    assert [run.claim is not None for run in runs] == [True, False, False]
    assert [run.communicator.size for run in runs] == [3] * 3
    assert contents(tmp_path / "run") == contents(alone.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "run", "text.txt"]


def test_a_numbered_folder_has_one_number_for_all(start, tmp_path):
    start(numbered=True)
    runs = run_ranks(3, lambda communicator: start(communicator, numbered=True))
    assert [run.folder for run in runs] == [tmp_path / "run-2"] * 3


def test_what_the_first_rank_refuses_all_refuse(start, tmp_path):
    start()
    with pytest.raises(UserError, match=r"already holds a run.*\(rank 0 on ") as caught:
        run_ranks(3, start)
    assert [str(error) for error in caught.value.of_ranks] == [str(caught.value)] * 3


@pytest.mark.parametrize("size", [2, 5])
def test_a_folder_is_opened_and_saved_by_any_number_of_ranks(start, tmp_path, size):
    run = start()
    train(run, stop_after=1)
    before = contents(run.folder)

    def task(communicator):
        run = resume_run(tmp_path / "run", communicator=communicator)
        read = {kind: {name: a.copy() for name, a in arrays.items()} for kind, arrays in run.optimizer.state.items()}
        run.save()
        run.save_model()
        run.release()
        return read

    found = run_ranks(size, task)
    for kind, arrays in run.optimizer.state.items():
        for name, array in arrays.items():
            parts = [read[kind][name] for read in found]
            assert (np.sum(parts, axis=0) == array).all(), "each rank reads its own part, and no other"
            assert np.sum([np.count_nonzero(part) for part in parts]) == np.count_nonzero(array)
    after = contents(tmp_path / "run")
    assert after.pop("model.safetensors") != before.pop("model.safetensors"), "the present weights, not the best ones"
    assert after == before


def test_a_claim_is_that_of_all_ranks(start, tmp_path):
    start().release()
    runs = run_ranks(3, lambda communicator: resume_run(tmp_path / "run", communicator=communicator))
    assert not claimable(tmp_path / "run")
    run_ranks(3, lambda communicator: runs[communicator.rank].release())
    assert claimable(tmp_path / "run")


def claimable(folder):
    """Whether another process could claim the folder: a folder that is opened anew has another owner."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks a file beside the folder")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_a_rank_that_sees_another_folder(start, tmp_path):
    start().release()
    other = start(name="other")
    train(other, stop_after=1)

    def task(communicator):
        return resume_run(tmp_path / ("other" if communicator.rank == 1 else "run"), communicator=communicator)

    with pytest.raises(
        UserError, match=r"other.*state.json is another file here than .* for rank 0.*\(rank 1 on"
    ) as caught:
        run_ranks(3, task)
    assert [str(error) for error in caught.value.of_ranks] == [str(caught.value)] * 3
    with pytest.raises(UserError, match=r"missing.*holds no run.*\(rank 2 on"):
        run_ranks(3, lambda c: resume_run(tmp_path / ("missing" if c.rank == 2 else "run"), communicator=c))
    resume_run(tmp_path / "run").release()  # it is free again


def test_a_file_that_is_damaged_for_one_rank(start, tmp_path, monkeypatch):
    start().release()
    load = run_module.load_tokenizer

    def damaged(folder):
        if threading.current_thread().name == "rank 1":
            raise UserError("tokenizer.json is not valid JSON")
        return load(folder)

    monkeypatch.setattr(run_module, "load_tokenizer", damaged)

    def task(communicator):
        threading.current_thread().name = f"rank {communicator.rank}"
        return resume_run(tmp_path / "run", communicator=communicator)

    with pytest.raises(UserError, match=r"not valid JSON \(rank 1 on") as caught:
        run_ranks(3, task)
    assert [type(error) for error in caught.value.of_ranks] == [UserError] * 3
