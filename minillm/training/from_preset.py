"""The settings of a new run: a preset, and what was given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from minillm.errors import UserError
from minillm.models.presets import Preset, find_preset
from minillm.training.settings import SETTING_NAMES, TrainingSettings

DEFAULT_PRESET, FINE_TUNE_PRESET, PREFERENCE_PRESET = "default", "fine-tune", "preferences"
OF_AN_OPTIMIZER = (  # what a preset says for its optimizer, and no other can use
    *("optimizer", "lr", "min_lr", "adamw_lr", "momentum", "schedule", "warmup_steps"),
    *("beta1", "beta2", "eps", "weight_decay"),
)
BESIDE_LR = ("min_lr", "adamw_lr")


def settings_from(given: Mapping, preset_name: str | None = None) -> tuple[TrainingSettings, dict, str]:
    """(training settings, fields of the model, name for the run folder).

    given: fields of TrainingSettings and of a model's configuration by name, without those that
    were left out. preset_name: None for "default", or "fine-tune" where `given` names a model to
    continue from, or "preferences" where it names pairs as well. With another optimizer than the
    preset's, its rates are those of TrainingSettings. With another lr, the rates that are not given
    are changed in proportion. Raises UserError for an unknown preset, and for settings that make no
    sense.
    """
    is_named = preset_name is not None or "init" in given
    if preset_name is None:
        preset_name = FINE_TUNE_PRESET if given.get("init") else DEFAULT_PRESET
        preset_name = PREFERENCE_PRESET if given.get("init") and given.get("preference_data") else preset_name
    preset = find_preset(preset_name)
    if given.get("init") is not None:
        _refuse_beside_init(given)
        preset = _without_shape(preset)
    training = {**_learning_of(preset, given), **{name: given[name] for name in given if name in SETTING_NAMES}}
    model = {} if given.get("init") else {"model_type": preset.architecture, **preset.model}
    model |= {name: value for name, value in given.items() if name not in SETTING_NAMES}
    return TrainingSettings(**training), model, preset_name if is_named else _name_of(given)


def check_model_of_preset(given: Mapping, preset_name: str | None) -> None:
    """Raises UserError for a preset that changes a model, where `given` names none."""
    if preset_name in (FINE_TUNE_PRESET, PREFERENCE_PRESET) and not given.get("init"):
        raise UserError(f"--preset {preset_name} changes a model that exists: name it with --init")


def _refuse_beside_init(given: Mapping) -> None:
    """A model that is continued from has its tokenizer already."""
    if named := [name for name in ("tokenizer", "vocab_size") if name in given]:
        option = "--" + named[0].replace("_", "-")
        raise UserError(f"{option}: a model that is continued from keeps its tokenizer; leave it out")


def _learning_of(preset: Preset, given: Mapping) -> dict:
    """A preset's training settings, those of its optimizer fit for what is given.

    >>> of_muon = Preset("", training=dict(optimizer="muon", lr=0.03, min_lr=0.0, adamw_lr=0.006, batch_size=8))
    >>> _learning_of(of_muon, {"lr": 0.015})
    {'optimizer': 'muon', 'lr': 0.03, 'min_lr': 0.0, 'adamw_lr': 0.003, 'batch_size': 8}
    >>> _learning_of(of_muon, {"optimizer": "adamw"})
    {'batch_size': 8}
    """
    learning = preset.training
    if "optimizer" in learning and given.get("optimizer", learning["optimizer"]) != learning["optimizer"]:
        learning = {name: value for name, value in learning.items() if name not in OF_AN_OPTIMIZER}
    if "lr" not in given:
        return learning
    lr = learning.get("lr", TrainingSettings.lr)
    rates = {name: learning.get(name, getattr(TrainingSettings, name)) for name in BESIDE_LR}
    changed = {name: given["lr"] * rate / lr for name, rate in rates.items() if rate}
    return {
        **learning,
        **{name: float(f"{rate:.12g}") for name, rate in changed.items()},
    }  # 0.001, not 0.0009999999999999998


def _without_shape(preset: Preset) -> Preset:
    """A preset for a model that exists: only how it learns."""
    training = {name: value for name, value in preset.training.items() if name not in ("tokenizer", "vocab_size")}
    return replace(preset, model={}, training=training)


def _name_of(given: Mapping) -> str:
    """The name of a run without a preset: that of its text, or of the default preset where no text
    is named.

    >>> _name_of({"data": ["texts/my-letters.txt", "b.txt"]}), _name_of({})
    ('my-letters', 'default')
    """
    return Path(given["data"][0]).stem if given.get("data") else DEFAULT_PRESET
