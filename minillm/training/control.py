"""The door into the loop: pausing a training, ending it, and changing it between two steps.

The settings that can change are the highest learning rate, the weight decay and the dropout. A
change is written into metrics.jsonl, and into the checkpoint: a resumed run goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from minillm.errors import UserError
from minillm.layers.dropout import Dropout
from minillm.training.run import Run
from minillm.training.settings import TrainingSettings

CHANGEABLE = ("lr", "weight_decay", "dropout")


class Ended(Exception):
    """The training ends in the middle of an evaluation; a resumed run does it again."""


class Control:
    """What `train` consults while it works. Every method here lets it go on; the page overrides
    them.
    """

    ended = False  # whether to end after the present step, as Ctrl-C does

    def is_due(self, step: int) -> bool:
        """Whether `between_steps` is to be called before the step (0, 1, ...), once more after each
        call.
        """
        return False

    def between_steps(self, run: Run) -> Mapping[str, float]:
        """Wait, if the training is to pause. Returns new values for some of CHANGEABLE, by name."""
        return {}

    def check(self) -> None:
        """Before each batch of an evaluation: may raise Ended."""


def changed(settings: TrainingSettings, config, changes: Mapping[str, float]) -> tuple:
    """(settings, config) with new values for some of CHANGEABLE.

    lr: the schedule's highest learning rate. min_lr changes in proportion, so that the learning
    rate of every later step is the schedule's times new / old. Raises UserError for another name,
    for a value that is no number, and for values that a new run would not take either.
    """
    for name, value in changes.items():
        if name not in CHANGEABLE:
            raise UserError(f"{name} cannot change while a run trains; what can is {', '.join(CHANGEABLE)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{name} is {value!r}: it must be a number")
    of_settings = {name: float(value) for name, value in changes.items() if name != "dropout"}
    if "lr" in of_settings:
        lr = of_settings["lr"]
        of_settings["min_lr"] = min(lr, settings.min_lr * (lr / settings.lr))
    if "dropout" in changes:
        config = replace(config, dropout=float(changes["dropout"]))
    return replace(settings, **of_settings), config


def change(run: Run, models: Sequence, changes: Mapping[str, float]) -> None:
    """Change settings of a run between two steps, note each in metrics.jsonl, and save.

    models: the run's model and its copies (DataParallel). Raises UserError as `changed` does, with
    nothing changed.
    """
    settings, config = changed(run.settings, run.model.config, changes)
    old, new = ({**vars(s), "dropout": c.dropout} for s, c in ((run.settings, run.model.config), (settings, config)))
    changes = {name: new[name] for name in CHANGEABLE if new[name] != old[name]}
    if not changes:
        return
    run.settings, run.optimizer.weight_decay = settings, settings.weight_decay
    for model in models:
        model.config = config
        for _, layer in model.layers():
            if isinstance(layer, Dropout):
                layer.p = config.dropout
    for name, value in changes.items():
        run.metrics.write("changed", step=run.progress.step, setting=name, before=old[name], after=value)
    run.save()
    if "dropout" in changes:
        run.save_config()
