"""The case of preferences: a small model of each family that learns from two pairs of answers."""

from __future__ import annotations

from minillm.checks.case import KEY, Case, at, randomised
from minillm.checks.cases_models import SMALL, small
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.models.gpt2 import GPT2
from minillm.models.llama import Llama
from minillm.models.mistral import Mistral
from minillm.models.qwen2 import Qwen2
from minillm.models.qwen3 import Qwen3

FAMILIES = (GPT2, Llama, Qwen2, Qwen3, Mistral)


def preference_inputs(rng, family, label_smoothing=0.0):
    """Two pairs of answers of different lengths, behind a prompt, and what the reference gave them.

    family: the name of the model's class.
    """
    (kind,) = (kind for kind in FAMILIES if kind.__name__ == family)
    shape = small(kind) | dict(n_layer=1)
    ids, targets = rng.integers(SMALL["vocab_size"], size=(2, 2, 2, 4))
    targets[..., :1] = IGNORE_INDEX  # the prompt
    targets[0, 1, 3:] = targets[1, 0, 2:] = IGNORE_INDEX  # padding
    config, reference = kind.config_class(**shape), rng.normal(size=(2, 2)) - 5
    given = dict(ids=ids, targets=targets, reference=reference, rng_key=KEY)
    return given | dict(model=randomised(kind(config, seed=0, dtype="float64")), label_smoothing=label_smoothing)


PREFERENCE = Case(
    "preference",
    home="minillm.models.preference",
    inputs=preference_inputs,
    layer=lambda module, a: module.PreferenceModel(a.model, beta=0.7, label_smoothing=a.label_smoothing),
    layer_inputs=("ids", "targets", "reference"),
    gradcheck=[
        *(at(kind.__name__, label=f"DPO of a {kind.display_name}") for kind in FAMILIES),
        at(Llama.__name__, label="conservative DPO", label_smoothing=0.1),
    ],
)
