"""The settings of the sampler as controls of a page: look/settings.js makes sliders and fields of
them.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import NamedTuple

from minillm.errors import UserError
from minillm.sampler.settings import BIASES, CUTS, IDS, MEMORY, ORDER_NAMES, POSITIONS, TIES, WANTED, SamplerSettings
from minillm.sampler.stages import ORDERS

TEMPERATURE_AND_ORDER = "Temperature and order"


class Slider(NamedTuple):
    """The range of a slider. A number field beside it takes any number that the setting's rule
    allows.
    """

    least: float
    most: float
    step: float


SLIDERS = {
    "temperature": Slider(0, 3, 0.05),
    "top_k": Slider(0, 100, 1),
    "seed": Slider(0, 100, 1),
    "top_p": Slider(0.01, 1, 0.01),
    "min_p": Slider(0, 1, 0.01),
    "typical_p": Slider(0.01, 1, 0.01),
    "epsilon_cutoff": Slider(0, 0.2, 0.001),
    "eta_cutoff": Slider(0, 0.2, 0.001),
    "top_n_sigma": Slider(0, 5, 0.05),
    "xtc_probability": Slider(0, 1, 0.05),
    "xtc_threshold": Slider(0, 1, 0.01),
    "repetition_penalty": Slider(0.5, 2, 0.05),
    "presence_penalty": Slider(-2, 2, 0.05),
    "frequency_penalty": Slider(-2, 2, 0.05),
    "no_repeat_ngram": Slider(0, 10, 1),
    "dry_multiplier": Slider(0, 5, 0.1),
    "dry_base": Slider(1, 4, 0.05),
    "dry_allowed_length": Slider(1, 10, 1),
    "penalty_window": Slider(0, 256, 1),
    "min_tokens": Slider(0, 100, 1),
    "mirostat_tau": Slider(0, 10, 0.1),
    "mirostat_eta": Slider(0.01, 1, 0.01),
}
OFF_WITHOUT_VALUE = {"top_p": 1, "typical_p": 1}  # where the slider is for None; 0 for all others
HELP = {  # of settings that are no options of the command line
    "ties": "Of tokens equal to the last one kept: only those of the lowest ids, or all; by default as the order has it.",
    "end_tokens": "The tokens that end a text.",
    "dry_breakers": "Tokens over which no repetition reaches.",
}
PART_OF = {  # settings that belong to a stage of another name
    "xtc_threshold": "xtc_probability",
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_breakers": "dry_multiplier",
    "end_tokens": "min_tokens",
    "mirostat_eta": "mirostat_tau",
}
GROUPS = {"seed": TEMPERATURE_AND_ORDER, "order": TEMPERATURE_AND_ORDER, "temperature": TEMPERATURE_AND_ORDER}
GROUPS |= {"ties": CUTS, "end_tokens": WANTED}
GROUP_ORDER = (TEMPERATURE_AND_ORDER, CUTS, MEMORY, WANTED)
FIRST = ("temperature", "order")  # of their group


def sampler_controls() -> list[dict]:
    """A control for each field of SamplerSettings, group by group, as look/settings.js reads them:

    name      of the setting.       group, help, rule    texts.
    kind      "number", "whole", "choice", "ids", "biases" or "positions".
    default   of the setting.       off   where the slider of a number is if the default is None.
    least, most, step               of the slider of a number.
    choices   of a choice: the texts; "" is the default None.
    orders    the orders that have the setting.
    """
    controls = [_control(each) for each in fields(SamplerSettings)]
    return sorted(controls, key=lambda one: (GROUP_ORDER.index(one["group"]), one["name"] not in FIRST))


def settings_from(values: dict) -> SamplerSettings:
    """The settings of what a page sends: name -> value, as look/settings.js gives them.

    JSON has only texts as keys, and no infinity: "-inf" is a ban. Raises UserError for a name that
    is no setting, or a value that the setting's rule refuses.
    """
    known = {each.name: each for each in fields(SamplerSettings)}
    for name in values:
        if name not in known:
            raise UserError(f"the page sent a setting {name!r}, which the sampler does not have: reload it")
    read = {name: _read(value) if isinstance(value, dict) else value for name, value in values.items()}
    return SamplerSettings(**read)


def _read(pairs: dict) -> dict:
    try:
        return {int(key): float(value) if isinstance(value, str) else value for key, value in pairs.items()}
    except ValueError:
        raise UserError(f"{pairs} is not a list of ids, each with a number: write for example 12:-1.5") from None


def _control(each: Field) -> dict:
    name, rule = each.name, each.metadata["rule"]
    default = each.default if each.default is not MISSING else {}
    control = {
        "name": name,
        "kind": _kind(each),
        "group": GROUPS.get(name) or each.metadata["panel"],
        "help": HELP.get(name) or each.metadata["help"],
        "rule": rule.words,
        "default": list(default) if isinstance(default, tuple) else default,
        "orders": [order for order in ORDER_NAMES if _has(order, name)],
    }
    if name in SLIDERS:
        control |= SLIDERS[name]._asdict()
        control["off"] = OFF_WITHOUT_VALUE.get(name, 0) if default is None else default
    elif control["kind"] == "choice":
        control["choices"] = list(ORDER_NAMES) if name == "order" else ["", *TIES]
    return control


def _kind(each: Field) -> str:
    """What a value of the field is."""
    rule = each.metadata["rule"]
    if each.name in SLIDERS:
        return "whole" if each.type.startswith("int") else "number"
    return "ids" if rule is IDS else "biases" if rule is BIASES else "positions" if rule is POSITIONS else "choice"


def _has(order: str, name: str) -> bool:
    """Whether an order has the setting: what is no stage is for all of them."""
    stage = PART_OF.get(name, name)
    everywhere = not any(stage in stages for stages in ORDERS.values())
    return everywhere or stage in ORDERS[order]
