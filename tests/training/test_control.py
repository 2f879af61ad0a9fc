"""The door into the loop: pausing changes nothing, changes take effect at the next step and are kept."""

import json

import pytest

from minillm.errors import UserError
from minillm.layers.dropout import Dropout
from minillm.pretrained import from_pretrained
from minillm.training import Control, Reporter, resume_run, train
from minillm.training.control import Ended, changed
from minillm.training.metrics import read_metrics
from minillm.training.settings import TrainingSettings


class Script(Control):
    """Changes settings before the steps of a dict."""

    def __init__(self, changes, end_at=None):
        self.changes, self.end_at, self.step = dict(changes), end_at, 0

    @property
    def ended(self):
        return self.step == self.end_at

    def is_due(self, step):
        self.step = step
        return step in self.changes

    def between_steps(self, run):
        assert run.progress.step == self.step
        return self.changes.pop(self.step)


class Rates(Reporter):
    def __init__(self):
        self.rates, self.seen = [], []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.rates.append(lr)

    def before_update(self, step, parameters):
        self.seen.append((step, {name: float(p.grad.sum()) for name, p in parameters.items()}))


def weights(folder):
    return {name: p.value.tobytes() for name, p in resume_run(folder).model.parameters().items()}


def test_a_control_that_only_looks_changes_no_byte(new_run):
    plain, driven = new_run("plain", model=dict(dropout=0.1)), new_run("driven", model=dict(dropout=0.1))
    reporter = Rates()
    assert train(plain) == train(driven, reporter, control=Script({5: {}, 8: {}})) == "finished"
    assert weights(plain.folder) == weights(driven.folder)
    assert [step for step, _ in reporter.seen] == list(range(1, 13)), "before each update"
    assert all(any(total for total in totals.values()) for _, totals in reporter.seen), "with gradients"


def test_changes_take_effect_at_the_next_step_and_are_kept(new_run):
    run, reporter = new_run(batch_size=64, model=dict(context_length=16)), Rates()
    before = run.settings.make_schedule()
    script = Script({5: {"lr": 5e-3, "weight_decay": 0.25, "dropout": 0.5}}, end_at=9)
    assert train(run, reporter, control=script) == "stopped"
    after = run.settings.make_schedule()
    assert reporter.rates == [before(step) for step in range(5)] + [after(step) for step in range(5, 9)]
    assert after(11) == pytest.approx(before(11) / 2), "the whole schedule, the end with it"
    events = [event for event in read_metrics(run.folder) if event["event"] == "changed"]
    assert [(e["step"], e["setting"], e["before"], e["after"]) for e in events] == [
        (5, "lr", 1e-2, 5e-3),
        (5, "weight_decay", 0.1, 0.25),
        (5, "dropout", 0.0, 0.5),
    ]
    resumed = resume_run(run.folder)
    assert (resumed.settings.lr, resumed.settings.weight_decay, resumed.model.config.dropout) == (5e-3, 0.25, 0.5)
    assert resumed.optimizer.weight_decay == 0.25
    assert {layer.p for _, layer in resumed.model.layers() if isinstance(layer, Dropout)} == {0.5}
    assert train(resumed) == "finished"
    assert from_pretrained(run.folder).config.dropout == 0.5


def test_a_change_is_that_of_a_run_that_had_it_all_along(new_run):
    """Dropout from the first step on, in the model and its copies, is the dropout of the configuration."""
    shape = dict(batch_size=64, max_steps=4)
    told = new_run("told", model=dict(context_length=16), **shape)
    given = new_run("given", model=dict(context_length=16, dropout=0.3), weight_decay=0.5, **shape)
    train(told, control=Script({0: {"dropout": 0.3, "weight_decay": 0.5}}))
    train(given)
    assert weights(told.folder) == weights(given.folder)
    config, other = (json.loads((run.folder / "config.json").read_text()) for run in (told, given))
    assert config == other


def test_a_killed_run_goes_on_with_what_was_changed(new_run):
    """The change is in the checkpoint at once, and metrics.jsonl and the checkpoint agree."""
    run = new_run()

    class Killed(Script):
        def is_due(self, step):
            if step == 7:
                raise KeyboardInterrupt
            return super().is_due(step)

    with pytest.raises(KeyboardInterrupt):
        train(run, control=Killed({6: {"lr": 5e-3}}))
    resumed = resume_run(run.folder)
    assert (resumed.progress.step, resumed.settings.lr) == (6, 5e-3)
    train(resumed)
    assert sum(event["event"] == "changed" for event in read_metrics(run.folder)) == 1


def test_an_evaluation_that_was_ended_is_done_again(new_run):
    whole, parts = new_run("whole"), new_run("parts")

    class Hasty(Control):
        batches = 0

        def check(self):
            self.batches += 1
            if self.batches == 4:  # in the evaluation at step 4: each has one batch of either text
                raise Ended

    train(whole)
    assert train(parts, control=Hasty()) == "stopped"
    assert [event["step"] for event in read_metrics(parts.folder) if event["event"] == "eval"] == [0]
    resumed = resume_run(parts.folder)
    assert resumed.progress.step == 4
    train(resumed)
    assert weights(parts.folder) == weights(whole.folder)
    evaluations = [[e for e in read_metrics(run.folder) if e["event"] == "eval"] for run in (whole, parts)]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lr": -1.0}, "learning rate is -1.0: it must be a finite number above 0"),
        ({"lr": float("nan")}, "learning rate is nan: it must be a finite number above 0"),
        ({"lr": "fast"}, "lr is 'fast': it must be a number"),
        ({"dropout": 1.0}, "dropout is 1.0: it must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight decay is -0.1: it must be a finite number of at least 0"),
        ({"seed": 3}, "seed cannot change while a run trains; what can is lr, weight_decay, dropout"),
    ],
)
def test_impossible_changes(new_run, changes, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        changed(TrainingSettings(), new_run().model.config, changes)


def test_the_learning_rate_at_the_end_never_exceeds_the_highest():
    settings = TrainingSettings(lr=0.3, min_lr=0.3)
    for lr in (0.1, 0.7, 1e-9, 12.3):
        assert changed(settings, None, {"lr": lr})[0].min_lr <= lr
