"""A disk that is full at any moment: what was saved stays, and the run goes on when there is room again.

The system refuses every write beyond a size of file (RLIMIT_FSIZE), as a full disk refuses it: in the middle, for whatever
library writes.
"""

import errno
import json
from contextlib import contextmanager

import numpy as np
import pytest

from minillm.data import open_tokens, write_tokens
from minillm.errors import UserError
from minillm.files.atomic import describe_os_error, naming, replacing, save_tensors
from minillm.training import resume_run, train
from minillm.training.metrics import MetricsLog, read_metrics
from minillm.training.plot import plot_losses

resource = pytest.importorskip("resource", reason="Windows has no limits of this kind")


@contextmanager
def room(size):
    """Inside, no file of this process grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def weights(folder):
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "training/optimizer.safetensors")}


# Sizes at which different files fail first: the end of metrics.jsonl, state.json, the picture, weights, moments.
@pytest.mark.parametrize("size", [0, 100, 700, 1500, 3000, 8000, 30_000])
def test_a_run_goes_on_after_a_full_disk(new_run, size):
    undisturbed = new_run("undisturbed")
    train(undisturbed)
    folder = new_run().folder
    train(resume_run(folder), stop_after=5)
    with room(size):
        run = resume_run(folder)
        with pytest.raises(OSError) as caught:
            train(run)
            plot_losses(folder)
    assert str(folder) in str(caught.value.filename) and not str(caught.value.filename).endswith(".tmp")
    assert not list(folder.rglob(".*")), "something half-written was left"
    assert train(resume_run(folder)) == "finished"
    assert weights(folder) == weights(undisturbed.folder)
    steps = [[(e["event"], e["step"]) for e in read_metrics(each)] for each in (folder, undisturbed.folder)]
    assert steps[0] == steps[1]


@pytest.mark.parametrize("size", [0, 200, 1000, 5000])
def test_a_new_run_appears_whole_or_not_at_all(new_run, tmp_path, size):
    with room(size), pytest.raises(OSError):
        new_run()
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_full_disk_leaves_the_run_that_was_to_be_replaced(new_run):
    folder = new_run().folder
    before = weights(folder)
    with room(5000), pytest.raises(OSError):
        new_run(overwrite=True, seed=5)
    assert weights(folder) == before


def test_what_the_libraries_say_names_the_file(tmp_path):
    tensors = {"a": np.zeros(10_000, np.float32)}
    with room(1000), pytest.raises(OSError) as caught, replacing(tmp_path / "weights") as temporary:
        save_tensors(tensors, temporary, {"format": "pt"})
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "weights")
    with room(1000), pytest.raises(OSError) as caught:
        write_tokens(tmp_path / "tokens.npy", np.arange(10_000))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "tokens.npy")
    assert list(tmp_path.iterdir()) == []
    write_tokens(tmp_path / "tokens.npy", np.arange(100))
    assert (np.load(tmp_path / "tokens.npy") == open_tokens(tmp_path / "tokens.npy", 100)).all()


def test_lines_that_were_lost_or_cut_off(tmp_path):
    """A machine without power keeps what was flushed: not always the last lines of metrics.jsonl."""
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.write("step", step=step)
    size = log.size
    with open(tmp_path / "metrics.jsonl", "r+b") as file:
        file.truncate(size - 5)
    log.cut(size)
    log.write("step", step=2)
    assert [event["step"] for event in read_metrics(tmp_path)] == [0, 1, 2]


def test_no_evaluation_is_no_hindrance_to_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    MetricsLog(tmp_path).write("step", step=1, loss=2.0)
    assert plot_losses(tmp_path).is_file()


def test_an_error_that_names_another_file_keeps_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), naming(tmp_path / "here"):
        open(tmp_path / "elsewhere")
    told = describe_os_error(OSError(errno.ENOSPC, "No space left on device", "run/state.json"))
    assert told == "run/state.json: No space left on device: make room there, or use another place"
    assert describe_os_error(OSError("8192 requested and 0 written")) == "8192 requested and 0 written"


def test_the_command_line_says_how_to_go_on(new_run, monkeypatch):
    from minillm.cli.train_progress import train_and_show

    folder = new_run().folder
    with room(100), pytest.raises(UserError, match=f"too large.*--resume {folder}"):
        train_and_show({}, None, None, False, folder, None, "cpu")
    assert json.loads((folder / "training" / "state.json").read_text())["step"] == 0
