"""What `minillm train` tells of options that change nothing, or not what is to be expected."""

import pytest

from minillm.cli.train_notes import notes
from minillm.training import TrainingSettings, start_run


@pytest.fixture
def new_run(tmp_path):
    """A function that starts a small run with changed settings."""

    def start(name="run", shape=None, **settings):
        (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
        usual = dict(data=(str(tmp_path / "text.txt"),), max_steps=12, eval_interval=4, warmup_steps=2)
        if shape is None:
            shape = dict(n_layer=1, n_head=2, d_model=16, context_length=8)
        return start_run(TrainingSettings(**{**usual, **settings}), shape, tmp_path / name)

    return start


@pytest.mark.parametrize(
    "settings, given, message",
    [
        (dict(warmup_steps=1000), dict(warmup_steps=1000), "the warm-up (1000 steps) is as long as the training (12)"),
        (dict(warmup_steps=100), {}, "the warm-up of the preset (100 steps)"),
        (dict(schedule="constant"), dict(min_lr=1e-3), "--schedule constant stays at --lr"),
        ({}, dict(momentum=0.9), "--momentum is of muon: --optimizer adamw does not use it"),
        (dict(optimizer="sgd"), dict(adamw_lr=1e-3), "--adamw-lr is of muon: --optimizer sgd does not use it"),
        (dict(optimizer="muon"), dict(adamw_lr=1e-3, momentum=0.9), None),
        (dict(eval_interval=20), dict(eval_interval=20), "--eval-interval 20 is more than the 12 steps"),
        (dict(early_stop=3), dict(early_stop=3), "--early-stop 3 cannot come about: there are 2 evaluations before"),
        (dict(batch_size=5000), dict(batch_size=5000), "a batch has 5000 windows, and the text only"),
        ({}, dict(overwrite=True), "--overwrite replaces the run that --out names"),
        ({}, dict(stop_after=12), "--stop-after 12 changes nothing: the run ends at step 12"),
        ({}, dict(stop_after=5, out="run", overwrite=True), None),
        (dict(early_stop=2, eval_interval=4), dict(early_stop=2, eval_interval=4, lr=1e-2, min_lr=1e-3), None),
    ],
)
def test_notes_on_training(new_run, settings, given, message):
    told = list(notes(new_run(**settings), given))
    assert told == [] if message is None else len(told) == 1 and message in told[0]


def test_notes_on_a_run_that_is_resumed(new_run):
    run = new_run(warmup_steps=100)
    assert list(notes(run, dict(resume=run.folder))) == []
    run.progress.step = 5
    assert "the run is at step 5 already" in list(notes(run, dict(resume=run.folder, stop_after=5)))[0]
    run.progress.step = 12
    assert "this run is over since step 12" in list(notes(run, dict(resume=run.folder, stop_after=3)))[0]


def test_notes_on_a_model_that_is_continued_from(new_run):
    base = str(new_run("base").folder)
    run = new_run("adapter", {}, init=base, lora_rank=20, freeze=("*.wte.*", "*.lora_A"))
    told = list(notes(run, dict(init=base, lora_rank=20, freeze=run.settings.freeze, preset="llama-small")))
    assert len(told) == 3 and "its shape of a model is not used" in told[0]
    assert "--lora-rank 20 is more than the width of a layer, 16" in told[1]
    assert told[2].startswith("--freeze *.wte.* changes nothing")
