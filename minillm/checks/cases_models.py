"""The cases of whole models, one entry for each architecture, and of their blocks."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import numpy as np

from minillm.checks.case import KEY, Case, Problem, at, randomised
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.documents import packed_starts
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.mlp import MLP
from minillm.models.gpt2 import GPT2
from minillm.models.llama import Llama
from minillm.models.mistral import Mistral
from minillm.models.qwen2 import Qwen2
from minillm.models.qwen3 import Qwen3


def model_case(kind: type, variants: list[Problem], **shape) -> Case:
    """Every parameter of a small model, through its loss.

    kind: the class of the model. shape: the fields of its config, for a few hundred parameters.
    variants: `at(label=..., **fields that differ)`.
    """

    def inputs(rng, **fields):
        config = kind.config_class(**{**shape, **fields})
        ids, targets = rng.integers(config.vocab_size, size=(2, 2, 5))
        return dict(ids=ids, targets=targets, config=config, rng_key=KEY)

    def layer(module, a):
        return randomised(getattr(module, kind.__name__)(a.config, seed=0, dtype="float64"))

    name, home = kind.__module__.rpartition(".")[2], kind.__module__
    return Case(name, home=home, inputs=inputs, layer=layer, layer_inputs=("ids", "targets"), gradcheck=variants)


SMALL = dict(vocab_size=5, context_length=6, n_layer=2, n_head=2, d_model=4, d_ff=5)
SMALL_LLAMA = SMALL | dict(n_kv_head=1, head_dim=4, rope_theta=50.0)

MODELS = (
    model_case(
        GPT2,
        [
            at(
                label=f"{'tied' if tied else 'untied'}, {'' if bias else 'no '}bias, {'' if dropout else 'no '}dropout",
                tie_embeddings=tied, bias=bias, dropout=dropout,
            )
            for tied, bias, dropout in product((True, False), (True, False), (0.0, 0.25))
        ],
        **SMALL,
    ),
    model_case(
        Llama,
        [
            at(label="tied, no bias", tie_embeddings=True),
            at(
                label="untied, bias, dropout",
                tie_embeddings=False, attention_bias=True, mlp_bias=True, dropout=0.25, rope_interleaved=True,
            ),
        ],
        **SMALL_LLAMA,
    ),
    model_case(
        Qwen2,
        [at(label="tied", tie_embeddings=True), at(label="untied, dropout", n_kv_head=2, dropout=0.25)],
        **SMALL_LLAMA,
    ),
    model_case(
        Qwen3,
        [
            at(label="tied, wide heads", tie_embeddings=True, head_dim=6),
            at(label="untied, bias, dropout", attention_bias=True, dropout=0.25),
        ],
        **SMALL_LLAMA,
    ),
    model_case(
        Mistral,
        [
            at(label="window of 3", sliding_window=3, tie_embeddings=True),
            at(label="window of 2, dropout", sliding_window=2, dropout=0.25),
            at(label="no window"),
        ],
        **SMALL_LLAMA,
    ),
)  # fmt: skip


class PackedModel(Layer):
    """A model that always gets the same packed documents."""

    def __init__(self, model: Layer, starts):
        self.model, self.starts = model, starts

    def forward(self, ids, rng_key=None):
        return self.model.forward(ids, rng_key, starts=self.starts)

    def loss(self, ids, targets, rng_key=None):
        return self.model.loss(ids, targets, rng_key, starts=self.starts)

    def backward(self, dlogits=None):
        self.model.backward(dlogits)


def small(kind: type) -> dict:
    """The small shape of a family: those of the fields above that its configuration has."""
    return {name: value for name, value in SMALL_LLAMA.items() if name in {f.name for f in fields(kind.config_class)}}


def documents_inputs(rng, kind: type, documents=((2, 3), (1, 4)), recompute=False, **changes):
    """documents: for each row of the batch the lengths of those that are packed into it."""
    shape = small(kind)
    starts = np.stack([packed_starts(lengths, 5) for lengths in documents])
    ids, targets = rng.integers(shape["vocab_size"], size=(2, *starts.shape))
    config = kind.config_class(**shape | changes)
    return dict(ids=ids, targets=targets, starts=starts, model=kind, config=config, recompute=recompute, rng_key=KEY)


def documents_model(module, a):
    """A small model of a family, which gets packed documents."""
    model = randomised(a.model(a.config, seed=0, dtype="float64"))
    model.body.recompute = a.recompute
    return PackedModel(model, a.starts)


DOCUMENTS = Case(
    "documents",
    inputs=documents_inputs,
    layer=documents_model,
    layer_inputs=("ids", "targets"),
    gradcheck=[
        at(GPT2, label="GPT-2, dropout", dropout=0.25),
        at(GPT2, label="GPT-2, recomputed", recompute=True),
        *(at(kind, label=kind.display_name) for kind in (Llama, Qwen2, Qwen3)),
        at(Mistral, label="Mistral, a window of 3", sliding_window=3),
    ],
)


def residual_block_inputs(rng, B, T, C):
    shapes = {"qkv": (C, 3 * C), "o": (C, C), "fc": (C, 2 * C), "fc_bias": 2 * C, "proj": (2 * C, C)}
    norms = {name: C for name in ("weight_1", "bias_1", "weight_2", "bias_2")}
    arrays = {name: rng.normal(size=shape) for name, shape in {"x": (B, T, C), **shapes, **norms}.items()}
    return {**arrays, "rng_key": KEY}


def residual_block(module, a):
    """A block of a GPT-2: attention and MLP, each behind a norm, with dropout."""
    return module.ResidualBlock(
        LayerNorm(a.weight_1, a.bias_1),
        CausalSelfAttention(Linear(a.qkv), Linear(a.o), n_head=2, dropout=0.1),
        LayerNorm(a.weight_2, a.bias_2),
        MLP(Linear(a.fc, a.fc_bias), Linear(a.proj)),
        dropout=0.2,
    )


RESIDUAL_BLOCK = Case(
    "residual block",
    home="minillm.models.gpt2",
    inputs=residual_block_inputs,
    layer=residual_block,
    gradcheck=[at(2, 3, 4)],
)


class FusedBlock(Layer):
    """A block by the functions that fuse it, on any device.

    module: minillm.layers.fused_block, or a copy with a fault.
    """

    def __init__(self, module, block: Layer):
        self.module, self.block = module, block

    def forward(self, x, rng_key):
        y, saved = self.module.fused_block_forward(self.block.parts(), x, rng_key)
        self.save_for_backward(saved)
        return y

    def backward(self, dy):
        return self.module.fused_block_backward(dy, self.take_saved())


def fused_block_inputs(rng, *shape, kind, **fields):
    """x of a model's block. kind: the class of the model; fields: of its config."""
    return dict(x=rng.normal(size=shape), model=kind, config=kind.config_class(**BLOCK, **fields), rng_key=KEY)


BLOCK = dict(vocab_size=3, context_length=3, n_layer=1, n_head=2, d_model=4, d_ff=6)
FUSED_BLOCK = Case(
    "fused block",
    home="minillm.layers.fused_block",
    inputs=fused_block_inputs,
    layer=lambda module, a: FusedBlock(module, randomised(a.model(a.config, seed=0, dtype="float64").blocks[0])),
    gradcheck=[
        at(2, 3, 4, label="layer norm", kind=GPT2),
        at(2, 3, 4, label="layer norm, dropout", kind=GPT2, dropout=0.2),
        at(2, 3, 4, label="layer norm, no biases", kind=GPT2, bias=False),
        at(2, 3, 4, label="RMS norm", kind=Llama),
        at(2, 3, 4, label="RMS norm, biases", kind=Llama, attention_bias=True, mlp_bias=True),
    ],
)


class RecomputedBlock(Layer):
    """A block whose forward keeps its input alone.

    module: minillm.layers.recompute, or a copy with a fault.
    """

    def __init__(self, module, block: Layer):
        self.module, self.block = module, block

    def forward(self, x, rng_key):
        y, saved = self.module.recomputed_forward(self.block, x, rng_key)
        self.save_for_backward(saved)
        return y

    def backward(self, dy):
        return self.module.recomputed_backward(self.block, dy, self.take_saved())


RECOMPUTE = Case(
    "recompute",
    inputs=residual_block_inputs,
    layer=lambda module, a: RecomputedBlock(module, residual_block(RESIDUAL_BLOCK.module, a)),
    gradcheck=[at(2, 3, 4)],
)
