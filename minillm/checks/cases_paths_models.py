"""Cases of models in parts: blocks in a row, packed documents, logits alone, another forward."""

from __future__ import annotations

import numpy as np

from minillm.checks.case import KEY, Case, at, randomised
from minillm.checks.cases_models import PackedModel, small
from minillm.checks.cases_norms import residual_norm_inputs
from minillm.checks.cases_preference import preference_inputs
from minillm.checks.subjects import GradientError
from minillm.layers.documents import packed_starts
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.sections import ABOVE, Sections
from minillm.models.gpt2 import GPT2


class LogitsOfModel(Layer):
    """A model without its loss: backward gets the gradient of the logits."""

    def __init__(self, model: Layer):
        self.model = model

    def forward(self, ids, rng_key=None):
        return self.model.forward(ids, rng_key)

    def backward(self, dlogits) -> None:
        self.model.backward(dlogits)


class NormBlock(Layer):
    """A layer norm, called as a block is."""

    def __init__(self, norm: LayerNorm):
        self.norm = norm

    def forward(self, x, rng_key):
        return self.norm.forward(x)

    def backward(self, dy):
        return self.norm.backward(dy)


class Blocks(Layer):
    """Some layers, one after the other, by `run_blocks`, and what it says of their sections.

    module: minillm.layers.recompute, or a copy with a fault.
    """

    def __init__(self, module, blocks: tuple[Layer, ...], recompute: bool):
        self.module, self.blocks, self.recompute = module, blocks, recompute

    def forward(self, x):
        y, saved = self.module.run_blocks(self.blocks, x, None, self.recompute)
        self.save_for_backward(saved)
        return y

    def backward(self, dy):
        sections = _Noted()
        dx = self.module.run_blocks_backward(self.blocks, dy, self.take_saved(), sections)
        down = range(len(self.blocks) - 1, -1, -1)
        wanted = [("complete", ABOVE), *(each for block in down for each in (("in", block), ("complete", block)))]
        if sections.noted != wanted:
            raise GradientError(f"run_blocks_backward: the sections are {sections.noted} in place of {wanted}")
        return dx


class _Noted(Sections):
    """Notes the sections, in the order in which backward comes to them and completes them."""

    def __init__(self):
        self.noted: list[tuple[str, int]] = []

    def weights(self, block):
        self.noted.append(("in", block))
        return super().weights(block)

    def complete(self, block):
        self.noted.append(("complete", block))


def _model_inputs(rng, starts=((2, 3), (1, 4)), same=False, **changes):
    ids, targets = rng.integers(small(GPT2)["vocab_size"], size=(2, 2, 5))
    config = GPT2.config_class(**small(GPT2) | dict(n_layer=1) | changes)
    starts = np.stack([packed_starts(lengths, 5) for lengths in starts])
    return dict(ids=ids, targets=targets, starts=starts, config=config, rng_key=KEY, same=same)


def _model(module, a):
    return randomised(module.GPT2(a.config, seed=0, dtype="float64"))


def _own_forward(module, a):
    kind = _same(module.GPT2) if a.same else _changed(module.GPT2)
    return randomised(kind(a.config, seed=0, dtype="float64"))


def _doubled(model: GPT2) -> GPT2:
    return randomised(_changed(GPT2)(model.config, seed=0, dtype="float64"))


def _same(gpt2: type) -> type:
    """A class whose forward does more than that of GPT-2, and gives the same logits."""

    class Watched(gpt2):
        def forward(self, ids, rng_key=None):
            return super().forward(ids, rng_key)

    return Watched


def _changed(gpt2: type) -> type:
    """A class with a forward of its own: the logits of GPT-2, doubled."""

    class Doubled(gpt2):
        def forward(self, ids, rng_key=None):
            return 2 * super().forward(ids, rng_key)

        def backward(self, dlogits):
            super().backward(2 * dlogits)

    return Doubled


PARTS_OF_MODELS = (
    Case(
        "blocks in a row",
        home="minillm.layers.recompute",
        inputs=lambda rng, *shape, recompute: residual_norm_inputs(rng, *shape) | dict(recompute=recompute),
        layer=lambda module, a: Blocks(
            module, tuple(NormBlock(LayerNorm(w)) for w in (a.weight, a.bias, a.delta_bias)), a.recompute
        ),
        gradcheck=[at(2, 3, 4, label="recomputed", recompute=True), at(2, 3, 4, label="kept", recompute=False)],
    ),
    Case(
        "gpt2 with packed documents",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=lambda module, a: PackedModel(_model(module, a), a.starts),
        layer_inputs=("ids", "targets"),
        gradcheck=[at()],
    ),
    Case(
        "logits of gpt2",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=lambda module, a: LogitsOfModel(_model(module, a)),
        layer_inputs=("ids",),
        gradcheck=[at(tie_embeddings=False)],
    ),
    Case(
        "gpt2 with a forward of its own",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=_own_forward,
        layer_inputs=("ids", "targets"),
        gradcheck=[at(label="doubled"), at(label="the same", same=True)],
    ),
    Case(
        "preferences of a forward of its own",
        home="minillm.models.preference",
        inputs=lambda rng: preference_inputs(rng, GPT2.__name__),
        layer=lambda module, a: module.PreferenceModel(_doubled(a.model), beta=0.7),
        layer_inputs=("ids", "targets", "reference"),
        gradcheck=[at()],
    ),
)
