"""Settings of a preset, and what is given beside it."""

import pytest

from minillm.models import presets
from minillm.models.presets import Preset
from minillm.training import TrainingSettings
from minillm.training.from_preset import settings_from

OF_MUON = dict(optimizer="muon", lr=0.03, min_lr=0.0, adamw_lr=0.006, schedule="linear", warmup_steps=20, beta2=0.95)
OF_MUON |= dict(batch_size=8, max_steps=7)


@pytest.fixture(autouse=True)
def two_presets(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "default", Preset("", model=dict(n_layer=1), training=OF_MUON))
    adamw = dict(lr=3e-3, min_lr=3e-4, max_steps=7)
    monkeypatch.setitem(presets.PRESETS, "of adamw", Preset("", model=dict(n_layer=1), training=adamw))


def rates(given, preset=None):
    settings = settings_from(given, preset)[0]
    return settings.optimizer, settings.lr, settings.min_lr, settings.adamw_lr


def test_another_optimizer_has_no_rate_of_the_presets():
    settings = settings_from({"optimizer": "adamw"})[0]
    assert settings == TrainingSettings(optimizer="adamw", batch_size=8, max_steps=7)
    settings = settings_from({"optimizer": "sgd", "lr": 0.1, "beta1": 0.8})[0]
    assert settings == TrainingSettings(optimizer="sgd", lr=0.1, min_lr=0.01, beta1=0.8, batch_size=8, max_steps=7)


def test_the_presets_own_optimizer_changes_nothing():
    assert settings_from({"optimizer": "muon"}) == settings_from({}) and rates({}) == ("muon", 0.03, 0.0, 0.006)


def test_a_preset_that_names_no_optimizer_keeps_its_rates():
    assert rates({"optimizer": "muon"}, "of adamw") == ("muon", 3e-3, 3e-4, 0.0)


@pytest.mark.parametrize(
    "given, found",
    [
        (dict(lr=0.015), ("muon", 0.015, 0.0, 0.003)),
        (dict(lr=0.015, adamw_lr=0.006), ("muon", 0.015, 0.0, 0.006)),
        (dict(lr=0.015, min_lr=0.001), ("muon", 0.015, 0.001, 0.003)),
        (dict(adamw_lr=0.001), ("muon", 0.03, 0.0, 0.001)),
        (dict(min_lr=0.001), ("muon", 0.03, 0.001, 0.006)),
    ],
)
def test_a_rate_that_is_not_given_is_in_proportion_to_the_one_that_is(given, found):
    assert rates(given) == found


@pytest.mark.parametrize("lr, min_lr", [(0.01, 0.001), (0.015, 0.0015), (7e-5, 7e-6)])
def test_the_last_rate_is_a_tenth_where_it_is_the_presets(lr, min_lr):
    assert rates(dict(lr=lr), "of adamw") == ("adamw", lr, min_lr, 0.0)
