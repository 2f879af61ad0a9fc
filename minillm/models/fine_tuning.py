"""What of a model learns: everything, all but what was frozen, or only LoRA's small matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from minillm.backend.arrays import device_of, to_device
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.layers.rotary_checks import ORIGINAL
from minillm.layers.rotary_scaling import KINDS, RotaryScaling
from minillm.models.structure import refuse_changed

EXTENSIONS = ("linear", "dynamic", "yarn", "llama3")  # longrope's factors come from a search
BANDS = {"llama3": dict(low_freq_factor=1.0, high_freq_factor=4.0)}


@dataclass(frozen=True)
class LoRA:
    """rank r of the added matrices; alpha: their sum is scaled by alpha / r, 2 r if None, so that
    the scale is 2.
    """

    rank: int
    alpha: float | None = None

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(f"the rank of LoRA is {self.rank!r}: it must be a whole number of at least 1")
        if self.alpha is None:
            object.__setattr__(self, "alpha", 2.0 * self.rank)


def add_lora(model, lora: LoRA, seed: int = 0) -> None:
    """Give every linear layer of the model but its output head a LoRA, and freeze everything else.

    Make the optimizer afterwards, from `model.trainable_parameters()`.
    """
    for parameter in model.parameters().values():
        parameter.frozen = True
    for path, parent in list(model.body.layers(model.body_name)):
        for name, layer in list(vars(parent).items()):
            if type(layer) is Linear:
                _replace(parent, name, layer, f"{path}.{name}", lora, seed)
    model.lora = lora


def _replace(parent: Layer, name: str, layer: Linear, path: str, lora: LoRA, seed: int) -> None:
    weight = layer.weight.value
    inputs, outputs = weight.shape[::-1] if layer.transposed else weight.shape
    a = stream(seed, "lora", path).normal((lora.rank, inputs)) / math.sqrt(inputs)
    a, b = (to_device(array.astype(weight.dtype), device_of(weight)) for array in (a, np.zeros((outputs, lora.rank))))
    replacement = LoRALinear(layer, a, b, lora.alpha)
    replacement.name, replacement.training = layer.name, layer.training
    setattr(parent, name, replacement)


def merged(model):
    """A model without LoRA that computes what `model` computes.

    It shares the weights that LoRA did not touch.
    """
    plain = model.replica()
    for _, parent in list(plain.layers()):
        for name, attribute in list(vars(parent).items()):
            vars(parent)[name] = _without_lora(attribute)
    for parameter in plain.parameters().values():
        parameter.frozen = False
    plain.lora = None
    return plain


def _without_lora(attribute):
    """What a layer holds, with a plain linear layer in the place of each that has a LoRA."""
    if isinstance(attribute, (list, tuple)):
        return type(attribute)(map(_without_lora, attribute)) if type(attribute) in (list, tuple) else attribute
    if type(attribute) is dict:
        return {key: _without_lora(item) for key, item in attribute.items()}
    if not isinstance(attribute, LoRALinear):
        return attribute
    plain = Linear(attribute.merged_weight(), None, attribute.transposed)
    if hasattr(attribute, "bias"):
        plain.bias = attribute.bias
    plain.name, plain.training = attribute.name, attribute.training
    return plain


def freeze(model, patterns) -> None:
    """Exclude from learning the parameters whose names match one of `patterns`, such as
    "transformer.wte.*" or "*.h.0.*".

    Raises UserError for a pattern that matches none, and if nothing is left to learn.
    """
    parameters = model.parameters()
    for pattern in patterns:
        matching = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching:
            some = ", ".join(list(parameters)[:3])
            raise UserError(f'--freeze "{pattern}" matches no parameter of the model; they are named {some}, ...')
        for name in matching:
            parameters[name].frozen = True
    if not model.trainable_parameters():
        raise UserError("every parameter is frozen: leave out a --freeze")


def with_settings(model, extend_with: str = "", **changes):
    """The model with another context_length or dropout in its configuration; None leaves a setting
    as it is.

    A table of positions is cut to the context. extend_with: the kind of rotary scaling by which the
    model reads a longer context than it was made for, one of EXTENSIONS; "" for none. Raises
    UserError for a longer context without it, for a model that cannot be extended so, and for one
    that is not what its configuration describes.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    longer, context = changes.get("context_length", 0), model.config.context_length
    if extend_with:
        changes["rope_scaling"] = _extension(extend_with, model.config, longer)
    elif longer > context:
        cure = (
            "; --extend-with yarn gives it a rotary scaling for more" if hasattr(model.config, "rope_scaling") else ""
        )
        raise UserError(f"--context-length {longer}: the model was made for {context} tokens{cure}")
    refuse_changed(model, "be given another configuration")
    other = type(model)(replace(model.config, **changes), seed=None, dtype=model.precision)
    values = {name: parameter.value for name, parameter in model.parameters().items()}
    for name, parameter in other.parameters().items():
        is_cut = len(values[name]) > len(parameter.value)
        parameter.value = values[name][: len(parameter.value)] if is_cut else values[name]
    return other.train(model.training)


def _extension(kind: str, config, longer: int) -> RotaryScaling:
    """The scaling of a kind by which a model of this configuration reads `longer` tokens."""
    if kind not in EXTENSIONS:
        raise UserError(f'--extend-with "{kind}": use one of {", ".join(EXTENSIONS)}')
    if not hasattr(config, "rope_scaling"):
        raise UserError("--extend-with: the model has a table of positions, and no rotary embedding to scale")
    if config.rope_scaling is not None:
        raise UserError(f"--extend-with: the model has a rotary scaling already, {config.rope_scaling.rope_type}")
    if longer <= config.context_length:
        raise UserError(
            f"--extend-with {kind}: say the longer context by --context-length; the model was made for "
            f"{config.context_length} tokens"
        )
    fields = {"factor": longer / config.context_length, ORIGINAL: config.context_length} | BANDS.get(kind, {})
    return KINDS[kind](**{name: fields[name] for name in fields if name in KINDS[kind].__dataclass_fields__})
