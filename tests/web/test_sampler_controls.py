"""The controls of the sampler: one for each setting, for the orders that have it, with a range that its rule allows."""

from dataclasses import MISSING, fields

import pytest

from minillm.errors import UserError
from minillm.sampler import Sampler
from minillm.sampler.settings import ORDER_NAMES, SamplerSettings
from minillm.web.sampler_controls import sampler_controls, settings_from

CONTROLS = {control["name"]: control for control in sampler_controls()}
FIELDS = {each.name: each for each in fields(SamplerSettings)}
ON = {  # a value with which each stage acts
    "number": 0.5,
    "whole": 2,
    "ids": [3],
    "biases": {3: 1.0},
    "positions": {0: 3},
}


def test_each_setting_has_a_control():
    assert set(CONTROLS) == set(FIELDS)
    for name, each in FIELDS.items():
        default = each.default if each.default is not MISSING else {}
        assert CONTROLS[name]["default"] == (list(default) if isinstance(default, tuple) else default)
        assert CONTROLS[name]["help"].endswith((".", "*")) and CONTROLS[name]["group"]


@pytest.mark.parametrize("name", [name for name, control in CONTROLS.items() if "least" in control])
def test_a_slider_offers_what_the_setting_may_be(name):
    control = CONTROLS[name]
    holds = FIELDS[name].metadata["rule"].holds
    convert = int if control["kind"] == "whole" else float
    assert holds(convert(control["least"])) and holds(convert(control["most"]))
    assert control["least"] <= control["off"] <= control["most"]
    steps = (control["off"] - control["least"]) / control["step"]
    assert steps == pytest.approx(round(steps))
    if control["kind"] == "number":
        assert holds(control["least"] + control["step"])
    else:
        assert control["step"] == 1


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("name", [name for name in CONTROLS if name not in ("order", "ties")])
def test_the_orders_are_those_that_take_the_setting(order, name):
    settings = {name: ON[CONTROLS[name]["kind"]], "order": order}
    if name == "min_tokens":
        settings["end_tokens"] = (3,)
    if name == "dry_base":
        settings[name] = 1.5
    stage = name.split("_")[0]
    partner = {"xtc": "xtc_probability", "dry": "dry_multiplier", "end": "min_tokens", "mirostat": "mirostat_tau"}.get(
        stage
    )
    if partner and partner != name:
        settings[partner] = ON[CONTROLS[partner]["kind"]]
    if order in CONTROLS[name]["orders"]:
        Sampler(**settings)
    else:
        with pytest.raises(UserError, match=f"does not exist in {order}"):
            Sampler(**settings)


def test_what_a_page_sends_becomes_settings():
    sent = {"top_k": 3, "banned_tokens": [1, 2], "logit_bias": {"3": "-inf", "4": 1.5}, "forced_tokens": {"0": 7}}
    wanted = SamplerSettings(top_k=3, banned_tokens=(1, 2), logit_bias={3: float("-inf"), 4: 1.5}, forced_tokens={0: 7})
    assert settings_from(sent) == wanted


@pytest.mark.parametrize(
    "sent, message",
    [
        ({"topk": 3}, "'topk', which the sampler does not have"),
        ({"top_k": "3"}, "top_k is 3: it must be a whole number"),
        ({"logit_bias": {"a": 1}}, "is not a list of ids, each with a number"),
        ({"logit_bias": {"3": "much"}}, "is not a list of ids, each with a number"),
        ({"logit_bias": {"3": "inf"}}, "logit_bias is"),
        ({"banned_tokens": [-1]}, "banned_tokens is"),
        ({"banned_tokens": "12"}, "banned_tokens is"),
        ({"logit_bias": [3]}, "logit_bias is"),
        ({"logit_bias": {"3": None}}, "logit_bias is"),
        ({"temperature": None}, "temperature is None"),
        ({"ties": ["all"]}, "ties is"),
        ({"order": "mine"}, "order"),
    ],
)
def test_what_cannot_be_a_setting_is_refused(sent, message):
    with pytest.raises(UserError, match=message):
        Sampler(**vars(settings_from(sent)))
