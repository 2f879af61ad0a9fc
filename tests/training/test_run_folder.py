import json
import os
import shutil
import subprocess
import sys

import pytest

from minillm.errors import UserError
from minillm.training import TrainingSettings, check_same_settings, next_free_folder, resume_run, train
from minillm.training import checkpoint as checkpoint_module


def test_a_fresh_folder_can_be_resumed_at_once(new_run):
    run = new_run()
    assert resume_run(run.folder).progress.step == 0


class TestExistingFolders:
    def test_a_run_is_not_overwritten(self, new_run):
        folder = new_run().folder
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(
            UserError, match=r"already holds a run: continue it with --resume .* replace it with --overwrite"
        ):
            new_run(seed=5)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def test_overwrite_replaces_it(self, new_run):
        folder = new_run().folder
        (folder / "old").touch()
        assert new_run(overwrite=True, seed=5).folder == folder
        assert (
            not (folder / "old").exists() and [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []
        )

    def test_a_folder_with_other_things_is_never_replaced(self, new_run, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("years of work")
        with pytest.raises(UserError, match="is not empty and holds no run"):
            new_run(overwrite=True)
        assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"

    def test_an_empty_folder_is_used(self, new_run, tmp_path):
        (tmp_path / "run").mkdir()
        assert new_run().folder == tmp_path / "run"

    def test_a_file_is_no_folder(self, new_run, tmp_path):
        (tmp_path / "run").touch()
        with pytest.raises(UserError, match="is not a folder"):
            new_run()

    def test_next_free_folder(self, tmp_path):
        assert next_free_folder("default", tmp_path) == tmp_path / "default-1"
        (tmp_path / "default-1").mkdir()
        assert next_free_folder("default", tmp_path) == tmp_path / "default-2"


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(model=dict(context_length=2000)), "the training text has 1215 tokens, one window needs 2001"),
        (dict(model=dict(n_head=3)), "d_model .16. is not divisible by n_head .3."),
        (dict(data=("nothing",)), "nothing is neither a file nor"),
    ],
)
def test_nothing_is_written_for_unusable_settings(new_run, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        new_run(**settings)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=0.0), "learning rate is 0.0"),
        (dict(lr=float("nan")), "learning rate is nan"),
        (dict(batch_size=0), "batch_size is 0: it must be a whole number of at least 1"),
        (dict(max_steps=1.5), "max_steps is 1.5"),
        (dict(early_stop=-1), "early_stop is -1"),
        (dict(optimizer="adagrad"), 'unknown optimizer "adagrad"'),
        (dict(schedule="step"), 'unknown schedule "step"'),
        (dict(gradient_clip=-1.0), "gradient_clip is -1.0"),
        (dict(label_smoothing=1.0), "label_smoothing is 1.0"),
        (dict(dtype="float16"), 'unknown dtype "float16"'),
        (dict(beta2=1.0), "beta2 is 1.0"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**settings)


class TestResuming:
    def test_other_settings_are_named(self, new_run):
        run = new_run()
        check_same_settings(run, {"lr": 1e-2, "n_layer": 1})
        with pytest.raises(
            UserError, match=r"these differ: lr \(the run has 0.01, given 0.1\), n_head \(the run has 2, given 4\)"
        ):
            check_same_settings(run, {"lr": 0.1, "n_head": 4, "n_layer": 1})

    @pytest.mark.parametrize(
        "name, contents, message",
        [
            ("training/state.json", None, "holds no run that could be resumed"),
            ("training/state.json", b"{", "state.json is not valid JSON"),
            ("training/state.json", b'{"format": 99}', "has format 99"),
            ("training/state.json", b'{"format": 1, "step": 3}', "is incomplete: best_step is missing"),
            ("training/optimizer.safetensors", None, "is of step 0, but optimizer.safetensors is missing"),
            ("training/optimizer.safetensors", b"half", "is not a complete safetensors file"),
            ("training/train.npy", None, "train.npy is missing"),
            ("tokenizer.json", None, "tokenizer.json is missing"),
        ],
    )
    def test_incomplete_folders(self, new_run, name, contents, message):
        path = new_run().folder / name
        path.unlink() if contents is None else path.write_bytes(contents)
        with pytest.raises(UserError, match=message):
            resume_run(path.parents[len(name.split("/")) - 1])

    def test_settings_of_another_version(self, new_run):
        path = new_run().folder / "training" / "state.json"
        state = json.loads(path.read_text())
        state["settings"]["from_the_future"] = 1
        path.write_text(json.dumps(state))
        with pytest.raises(UserError, match="stored settings are not of this version: .*from_the_future"):
            resume_run(path.parents[1])


@pytest.mark.parametrize("call", range(1, 12))
def test_killed_between_any_two_changes_on_the_disk(new_run, monkeypatch, call):
    """Every rename and removal of a checkpoint is tried as the last thing that happened; twice in a row."""
    run = new_run()
    train(run, stop_after=5)
    whole = resume_run(run.folder)
    done = 0

    class Killed(BaseException):
        pass

    def counted(function):
        def wrapper(*arguments, **settings):
            nonlocal done
            done += 1
            if done >= call:
                raise Killed
            return function(*arguments, **settings)

        return wrapper

    for _ in range(2):
        run = resume_run(run.folder)
        step = run.progress.step
        assert step in (5, 6)
        run.progress.step = 6
        run.optimizer.step_count = 6
        with monkeypatch.context() as patch:
            done = 0
            patch.setattr(checkpoint_module.os, "replace", counted(os.replace))
            patch.setattr(checkpoint_module.Path, "unlink", counted(checkpoint_module.Path.unlink))
            try:
                run.save()
            except Killed:
                pass
    resumed = resume_run(run.folder)
    assert resumed.progress.step in (5, 6)
    for name, parameter in resumed.model.parameters().items():
        assert (parameter.value == whole.model.parameters()[name].value).all()


# Trains a run in a child again and again, each time for a little longer, and kills it; prints how many were killed.
KILLER = """
import os, signal, sys, time
from minillm.training import resume_run, train

kills = 0
for attempt in range(60):
    if not (child := os.fork()):
        train(resume_run(sys.argv[1]))
        os._exit(0)
    end, ended = time.monotonic() + 0.02 + 0.01 * attempt, (0, 0)
    while time.monotonic() < end and not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.001)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    else:
        assert ended[1] == 0
        break
print(kills)
"""


def test_killed_at_any_moment_it_still_resumes(new_run, tmp_path):
    """kill -9 in a loop, at moments that drift through the step; in the end the bytes are those of an undisturbed run."""
    settings = dict(max_steps=100, eval_interval=3, sample_tokens=0)
    undisturbed = new_run("undisturbed", **settings)
    train(undisturbed)
    folder = new_run("disturbed", **settings).folder
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(folder)], cwd=tmp_path, stdout=subprocess.PIPE, check=True, text=True
    )
    assert int(killer.stdout) > 0
    train(resume_run(folder))
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        assert (folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def test_copies_of_a_run_are_runs(new_run, tmp_path):
    run = new_run()
    train(run, stop_after=4)
    shutil.copytree(run.folder, tmp_path / "copy")
    assert train(resume_run(tmp_path / "copy")) == "finished"


def test_a_changed_model_is_no_run(new_run):
    """Resumed, it would be another model: it is refused by name, before a step, and the folder stays as it was."""
    run = new_run()
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}

    class Halved(type(run.model)):
        def loss(self, ids, targets, key=None, count=None):
            return super().loss(ids, targets, key, count) / 2

    run.model.__class__ = Halved
    with pytest.raises(UserError, match="cannot be trained as a run.*it is your class Halved, not GPT2"):
        train(run)
    run.model.__class__ = Halved.__base__
    run.model.transformer.h[0].mlp.approximate = "none"
    for write in (lambda: train(run), run.save, run.save_model):
        with pytest.raises(UserError, match="constant transformer.h.0.mlp.approximate is 'none', not 'tanh'"):
            write()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
