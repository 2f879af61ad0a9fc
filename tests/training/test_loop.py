import math

import numpy as np
import pytest

import minillm
from minillm.data import load_text
from minillm.training import Diverged, Reporter, evaluate_model, resume_run, train
from minillm.training.evaluation import Evaluation
from minillm.training.metrics import read_metrics
from minillm.training.overfitting import overfitting_since


class Recorder(Reporter):
    def __init__(self):
        self.steps, self.evaluations, self.samples, self.notes = [], [], [], []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.steps.append((step, loss, lr, gradient_norm))

    def on_evaluation(self, step, train, validation, is_best):
        self.evaluations.append((step, train, validation, is_best))

    def on_sample(self, step, text):
        self.samples.append(text)

    def on_message(self, message):
        self.notes.append(message)


def test_a_run_from_beginning_to_end(new_run):
    run, recorder = new_run(max_steps=40, eval_interval=10), Recorder()
    assert train(run, recorder) == "finished"
    assert [step for step, *_ in recorder.steps] == list(range(1, 41))
    assert [step for step, *_ in recorder.evaluations] == [0, 10, 20, 30, 40]
    assert recorder.evaluations[-1][2].loss < recorder.evaluations[0][2].loss - 0.5
    assert all(len(text) == 6 for text in recorder.samples) and len(recorder.samples) == 5
    schedule = run.settings.make_schedule()
    assert [lr for _, _, lr, _ in recorder.steps] == [schedule(step) for step in range(40)]
    events = read_metrics(run.folder)
    assert [e["step"] for e in events if e["event"] == "step"] == [10, 20, 30, 40]
    evaluation = [e for e in events if e["event"] == "eval"][-1]
    assert evaluation["val_perplexity"] == pytest.approx(math.exp(evaluation["val_loss"]))
    assert (run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in run.folder.iterdir()} == wanted | {"metrics.jsonl", "loss.png", "training"}
    files = {"state.json", "optimizer.safetensors", "train.npy", "validation.npy"}
    assert {p.name for p in (run.folder / "training").iterdir()} == files


def contents(folder):
    names = [
        "model.safetensors",
        "training/optimizer.safetensors",
        "config.json",
        "tokenizer.json",
        "training/train.npy",
    ]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize(
    "stop, optimizer", [(4, "adamw"), (5, "adamw"), (11, "adamw"), (5, "sgd"), (5, "lion"), (5, "muon")]
)
def test_stopping_and_resuming_gives_the_same_bytes(new_run, stop, optimizer):
    """With dropout and accumulated gradients, stopped at an evaluation and between two."""
    settings = dict(model=dict(dropout=0.2), gradient_accumulation=2, optimizer=optimizer)
    whole = new_run("whole", **settings)
    train(whole)
    parts = new_run("parts", **settings)
    assert train(parts, stop_after=stop) == "stopped"
    resumed = resume_run(parts.folder)
    assert resumed.progress.step == stop
    assert train(resumed) == "finished"
    assert contents(parts.folder) == contents(whole.folder)

    def essence(folder):
        return [{k: v for k, v in e.items() if k != "tokens_per_second"} for e in read_metrics(folder)]

    assert essence(parts.folder) == essence(whole.folder)


def test_another_seed_gives_another_run(new_run):
    runs = [new_run("a", seed=1), new_run("b", seed=2)]
    for run in runs:
        train(run)
    assert contents(runs[0].folder)["model.safetensors"] != contents(runs[1].folder)["model.safetensors"]


def test_divergence_stops_and_keeps_the_last_good_checkpoint(new_run):
    run = new_run(lr=1e30, min_lr=1e30, warmup_steps=0, eval_interval=4, gradient_clip=0.0)
    with pytest.raises(
        Diverged, match=r"diverged at step 1: .* first tensor affected: .*; the last good checkpoint is kept"
    ):
        train(run)
    resumed = resume_run(run.folder)
    assert resumed.progress.step == 0
    assert all(np.isfinite(p.value).all() for p in resumed.model.parameters().values())


def test_not_a_number_in_a_weight_is_named(new_run):
    run = new_run()
    run.model.parameters()["transformer.h.0.mlp.c_fc.weight"].value[1, 2] = np.nan
    run.progress.history.append((0, 1.0, 1.0))
    with pytest.raises(Diverged, match="first tensor affected: weight transformer.h.0.mlp.c_fc.weight"):
        train(run)


def test_a_broken_weight_is_never_saved(new_run):
    run = new_run()
    run.model.parameters()["transformer.wpe.weight"].value[0, 0] = np.inf
    with pytest.raises(minillm.errors.UserError, match="model.transformer.wpe.weight is no longer finite"):
        run.save()
    assert np.isfinite(resume_run(run.folder).model.parameters()["transformer.wpe.weight"].value).all()


def test_early_stop(new_run):
    run = new_run(max_steps=60, eval_interval=2, lr=0.5, min_lr=0.5, early_stop=3)
    assert train(run) == "early stop"
    assert sum(step > run.progress.best_step for step, _, _ in run.progress.history) == 3


def test_overfitting_is_reported_once_and_the_folder_keeps_the_best_model(new_run, text_file):
    text_file.write_text(load_text(["python-docs"])[:700], encoding="utf-8")  # soon known by heart
    recorder = Recorder()
    model = dict(n_layer=2, d_model=96, context_length=16)
    settings = dict(batch_size=16, max_steps=150, eval_interval=30, eval_windows=0, sample_tokens=0, lr=5e-3)
    run = new_run(model=model, **settings)
    train(run, recorder)
    told = [note for note in recorder.notes if "overfitting" in note]
    assert len(told) == 1 and told[0].endswith(f"the best model is step {run.progress.best_step}")
    assert recorder.evaluations[-1][1].loss < recorder.evaluations[-1][2].loss - 0.5
    best = min(recorder.evaluations, key=lambda evaluation: evaluation[2].loss)
    assert run.progress.best_step == best[0] < 150
    evaluation = evaluate_model(run.load_model(), run.examples.tokens["validation"], 16)
    assert evaluation.loss == pytest.approx(best[2].loss, rel=1e-6)


@pytest.mark.parametrize(
    "val_losses, train_losses, since",
    [
        ([4, 3, 2, 1], [4, 3, 2, 1], None),
        ([4, 2, 3, 3, 3], [4, 3, 2, 1, 0], 2),
        ([4, 2, 3, 3], [4, 3, 2, 1], None),  # two evaluations are too few
        ([4, 2, 3, 3, 3], [4, 3, 3, 3, 3], None),  # training loss does not fall: that is not overfitting
        ([4, 2, 3, 1, 3, 3], [6, 5, 4, 3, 2, 1], None),
        ([], [], None),
    ],
)
def test_when_it_is_overfitting(val_losses, train_losses, since):
    assert overfitting_since(list(zip(range(10), train_losses, val_losses))) == since


def test_evaluation():
    assert Evaluation(math.log(65), 10).perplexity == pytest.approx(65)
    assert Evaluation(math.log(2), 10).bits_per_byte(20) == pytest.approx(0.5)
    assert Evaluation(1e4, 1).perplexity == math.inf


def test_evaluation_covers_the_whole_text(new_run):
    run = new_run()
    model = run.model.eval()
    evaluation = evaluate_model(model, run.examples.tokens["validation"], 3)
    assert evaluation.tokens == len(run.examples.tokens["validation"]) - 1
    total = 0.0
    for start in range(0, evaluation.tokens, 8):
        window = np.array(run.examples.tokens["validation"][start : start + 9], dtype=int)[None]
        total += float(model.loss(window[:, :-1], window[:, 1:])) * (window.size - 1)
    assert evaluation.loss == pytest.approx(total / evaluation.tokens, rel=1e-6)


def test_without_matplotlib_a_line_says_how_to_get_the_picture(new_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    run, recorder = new_run(max_steps=2), Recorder()
    train(run, recorder)
    assert recorder.notes == ['loss.png needs matplotlib, which is not installed: pip install "minillm[plots]"']
    assert not (run.folder / "loss.png").exists()
