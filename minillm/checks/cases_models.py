"""The cases of whole models, one entry for each architecture, and of their blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from minillm.checks.case import KEY, Case, Problem, at, randomised
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.mlp import MLP
from minillm.models.gpt2 import GPT2Config
from minillm.models.llama import LlamaConfig
from minillm.models.mistral import MistralConfig
from minillm.models.qwen2 import Qwen2Config
from minillm.models.qwen3 import Qwen3Config


def model_case(name: str, model: str, config, variants: list[Problem]) -> Case:
    """Every parameter of a small model, through its loss.

    name: of the file in minillm/models. model: the name of its class in this file. config: one of a
    few hundred parameters. variants: `at(label=..., **fields of the config that differ)`.
    """

    def inputs(rng, **fields):
        chosen = replace(config, **fields)
        ids, targets = rng.integers(chosen.vocab_size, size=(2, 2, 5))
        return dict(ids=ids, targets=targets, config=chosen, rng_key=KEY)

    def layer(module, a):
        return randomised(getattr(module, model)(a.config, seed=0, dtype="float64"))

    home = f"minillm.models.{name}"
    return Case(name, home=home, inputs=inputs, layer=layer, layer_inputs=("ids", "targets"), gradcheck=variants)


GPT2 = model_case(
    "gpt2",
    "GPT2",
    GPT2Config(vocab_size=5, context_length=6, n_layer=2, n_head=2, d_model=4, d_ff=5),
    [
        at(
            label=f"{'tied' if tied else 'untied'}, {'' if bias else 'no '}bias, {'' if dropout else 'no '}dropout",
            tie_embeddings=tied, bias=bias, dropout=dropout,
        )
        for tied, bias, dropout in product((True, False), (True, False), (0.0, 0.25))
    ],
)  # fmt: skip

LLAMA = model_case(
    "llama",
    "Llama",
    LlamaConfig(
        vocab_size=5, context_length=6, n_layer=2, n_head=2, n_kv_head=1, d_model=4, d_ff=5, head_dim=4, rope_theta=50.0
    ),
    [
        at(label="tied, no bias", tie_embeddings=True),
        at(
            label="untied, bias, dropout",
            tie_embeddings=False, attention_bias=True, mlp_bias=True, dropout=0.25, rope_interleaved=True,
        ),
    ],
)  # fmt: skip


def llama_fields(**fields):
    """A small model with the fields of Llama's configuration."""
    shape = dict(vocab_size=5, context_length=6, n_layer=2, n_head=2, n_kv_head=1, d_model=4, d_ff=5, rope_theta=50.0)
    return {**shape, **fields}


QWEN2 = model_case(
    "qwen2",
    "Qwen2",
    Qwen2Config(**llama_fields()),
    [at(label="tied", tie_embeddings=True), at(label="untied, dropout", tie_embeddings=False, dropout=0.25)],
)

QWEN3 = model_case(
    "qwen3",
    "Qwen3",
    Qwen3Config(**llama_fields(head_dim=6)),
    [
        at(label="tied, wide heads", tie_embeddings=True),
        at(label="untied, bias, dropout", tie_embeddings=False, attention_bias=True, dropout=0.25),
    ],
)

MISTRAL = model_case(
    "mistral",
    "Mistral",
    MistralConfig(**llama_fields()),
    [
        at(label="window of 3, tied", sliding_window=3, tie_embeddings=True),
        at(label="window of 2, dropout", sliding_window=2, dropout=0.25),
        at(label="no window", sliding_window=None),
    ],
)

MODELS = (GPT2, LLAMA, QWEN2, QWEN3, MISTRAL)


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
