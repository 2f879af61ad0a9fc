"""GPT-2: token and position embeddings, a stack of residual blocks, a last norm, and a head that scores every token.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

    x = wte[ids] + wpe[0 .. T-1]                                (B, T, C)
    x = block(x), n_layer times                                 residual.py
    logits = ln_f(x) W_head^T                                   (B, T, C) @ (C, V)
    loss = mean over B, T of -log softmax(logits)[target]

Read this file from top to bottom, then the layers in the order in which forward calls them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.backend.arrays import array_module, device_of, to_device
from minillm.errors import UserError
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.embedding import Embedding
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.mlp import MLP
from minillm.layers.recompute import run_blocks, run_blocks_backward
from minillm.layers.residual import ResidualBlock
from minillm.models.config import (
    check_dropout,
    check_flags,
    check_heads,
    check_numbers,
    check_positive_integers,
    option,
)
from minillm.models.language_model import LanguageModel

INITIAL_STD = 0.02


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2. Raises UserError for a shape that cannot be built.

    vocab_size V; context_length: the longest T; n_layer blocks; n_head heads H; d_model C; d_ff: width of the MLP,
    4 * d_model if None; dropout: probability after embeddings, attention and each branch; bias: on linear layers and
    norms; tie_embeddings: the output head is the token embedding; activation: "gelu_new" (tanh) or "gelu" (exact).
    """

    vocab_size: int = 50257
    context_length: int = option(1024, "Tokens that the model can look back on.")
    n_layer: int = option(12, "Transformer blocks.")
    n_head: int = option(12, "Attention heads in each block.")
    d_model: int = option(768, "Width of a token's vector; divisible by --n-head.")
    d_ff: int | None = option(None, "Width inside the MLP; 4 (Llama: 8/3) times --d-model if not given.")
    dropout: float = option(0.0, "Probability of dropping a value, from 0 to below 1.")
    bias: bool = option(True, "GPT-2: biases in linear layers and norms.")
    tie_embeddings: bool = option(True, "One matrix reads tokens and scores them.")
    activation: str = option("gelu_new", "gelu_new (tanh form, as GPT-2) or gelu (exact).")
    layer_norm_eps: float = option(1e-5, "GPT-2: added to the variance in layer norm.")

    def __post_init__(self):
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        check_positive_integers(self, ("vocab_size", "context_length", "n_layer", "n_head", "d_model", "d_ff"))
        check_heads(self)
        check_dropout(self)
        check_numbers(self, ("layer_norm_eps",))
        check_flags(self, ("bias", "tie_embeddings"))
        if not isinstance(self.activation, str) or self.activation not in GELU_FORMS:
            raise UserError(f'activation is "{self.activation!s:.99}": use one of {", ".join(GELU_FORMS)}')


GELU_FORMS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}  # Hugging Face's names


class GPT2(LanguageModel):
    """A GPT-2 language model.

    seed: initial weights N(0, 0.02), those that write to the residual stream divided by sqrt(2 n_layer); the same seed
    gives the same weights. With seed=None the weights hold no memory, to be loaded. dtype: a name of precision.py.
    """

    body_name = "transformer"
    initial_std = INITIAL_STD

    # -------------------------------------------------------------------------------------------------- construction

    def _make_body(self) -> Transformer:
        config, width = self.config, self.config.d_model
        residual_std = INITIAL_STD / math.sqrt(2 * config.n_layer)  # 2 n_layer branches add up to the last x
        blocks = []
        for index in range(config.n_layer):
            path = f"h.{index}"
            attention = CausalSelfAttention(
                c_attn=self._make_linear(f"{path}.attn.c_attn", width, 3 * width, INITIAL_STD),
                c_proj=self._make_linear(f"{path}.attn.c_proj", width, width, residual_std),
                n_head=config.n_head,
                dropout=config.dropout,
            )
            mlp = MLP(
                c_fc=self._make_linear(f"{path}.mlp.c_fc", width, config.d_ff, INITIAL_STD),
                c_proj=self._make_linear(f"{path}.mlp.c_proj", config.d_ff, width, residual_std),
                approximate=GELU_FORMS[config.activation],
            )
            blocks.append(ResidualBlock(self._make_norm(), attention, self._make_norm(), mlp, config.dropout))
        return Transformer(
            wte=Embedding(self._normal("wte", (config.vocab_size, width), INITIAL_STD)),
            wpe=Embedding(self._normal("wpe", (config.context_length, width), INITIAL_STD)),
            blocks=blocks,
            ln_f=self._make_norm(),
            dropout=config.dropout,
        )

    def _token_embedding(self) -> Embedding:
        return self.transformer.wte

    def _make_linear(self, path, inputs, outputs, std) -> Linear:
        bias = self._constant(outputs, 0) if self.config.bias else None
        return Linear(self._normal(path, (inputs, outputs), std), bias)

    def _make_norm(self) -> LayerNorm:
        width = self.config.d_model
        bias = self._constant(width, 0) if self.config.bias else None
        return LayerNorm(self._constant(width, 1), bias, self.config.layer_norm_eps)


class Transformer(Layer):
    """Everything below the head: ids (B, T) -> x (B, T, C).

    recompute: keep the blocks' inputs only, and compute the blocks once more in backward (layers/recompute.py).
    """

    recompute = False
    activations = None  # the dtype of x, if not that of the weights

    def __init__(self, wte: Embedding, wpe: Embedding, blocks: list[ResidualBlock], ln_f: LayerNorm, dropout: float):
        self.wte = wte
        self.wpe = wpe
        self.embd_dropout = Dropout(dropout)
        self.h = blocks
        self.ln_f = ln_f

    def forward(self, ids, rng_key):
        positions = to_device(array_module(ids).arange(ids.shape[1]), device_of(ids))
        # (B, T, C) + (T, C): the same positions in every row
        x = self.wte.forward(ids, self.activations) + self.wpe.forward(positions, self.activations)
        x = self.embd_dropout.forward(x, rng_key)
        x, saved = run_blocks(self.h, x, rng_key, self.recompute and self.training)
        self.save_for_backward(saved)
        return self.ln_f.forward(x)

    def backward(self, dx) -> None:
        dx = run_blocks_backward(self.h, self.ln_f.backward(dx), self.take_saved())
        dx = self.embd_dropout.backward(dx)
        # forward: x = wte[ids] + wpe[positions], the same positions in every row of the batch
        self.wpe.backward(dx.sum(axis=0, dtype=self.wpe.weight.value.dtype))
        self.wte.backward(dx)
