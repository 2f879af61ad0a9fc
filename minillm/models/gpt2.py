"""GPT-2: token and position embeddings, a stack of residual blocks, a last norm, and a head that
scores every token.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

    x = wte[ids] + wpe[0 .. T-1]                                (B, T, C); packed documents: wpe[i - starts_i]
    x = x + attention(norm(x))        n_layer times             attention.py, layer_norm.py
    x = x + mlp(norm(x))                                        mlp.py, residual.py
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
from minillm.layers.decoding import decoded_onto
from minillm.layers.documents import forward_with
from minillm.layers.dropout import Dropout
from minillm.layers.embedding import Embedding
from minillm.layers.fused_block import BlockParts, FusedBlockSaved, fused_block_backward, fused_block_forward, fuses
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.made_again import forget_output, remember_output
from minillm.layers.mlp import MLP
from minillm.layers.recompute import run_blocks, run_blocks_backward
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.sections import ALL_HERE
from minillm.models import gpt2_names
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

    vocab_size V; context_length: the longest T; n_layer blocks; n_head heads H; d_model C; d_ff:
    width of the MLP, 4 * d_model if None; dropout: probability after embeddings, attention and each
    branch; bias: on linear layers and norms; tie_embeddings: the output head is the token
    embedding; activation: "gelu_new" (tanh) or "gelu" (exact).
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

    seed: initial weights N(0, 0.02), those that write to the residual stream divided by sqrt(2
    n_layer); the same seed gives the same weights. With seed=None the weights hold no memory, to be
    loaded. dtype: a name of precision.py.
    """

    model_type, display_name = "gpt2", "GPT-2"
    config_class = GPT2Config
    body_name = "transformer"
    initial_std = INITIAL_STD

    names = gpt2_names.GPT2_NAMES
    transformers_class = "GPT2LMHeadModel"
    fields = gpt2_names.GPT2_FIELDS
    nullable = frozenset(gpt2_names.GPT2_FIELDS.values())
    required = gpt2_names.GPT2_REQUIRED
    aliases = gpt2_names.GPT2_ALIASES
    computed_tensors = gpt2_names.CAUSAL_MASK_BUFFERS
    gguf_name = "gpt2"
    gguf_keys = gpt2_names.GPT2_GGUF_KEYS

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

    def share(self, sharing) -> None:
        D = self.config.d_model // self.config.n_head
        for block in self.transformer.h:
            sharing.heads(block.attn)
            sharing.columns(block.attn, "c_attn", unit=D, groups=3)  # queries, keys and values side by side
            sharing.rows(block.attn, "c_proj", unit=D)
            sharing.columns(block.mlp, "c_fc")
            sharing.rows(block.mlp, "c_proj")
        sharing.tokens(self.transformer, "wte")
        sharing.head(self)

    # --------------------------------------------------------------------------------------------------------- files

    @classmethod
    def extra_to_hugging_face(cls, config):
        return gpt2_names.dropout_and_bias_to_hugging_face(config.dropout, config.bias)

    @classmethod
    def extra_from_hugging_face(cls, contents):
        return gpt2_names.dropout_and_bias_from_hugging_face(contents)

    @classmethod
    def extra_from_gguf(cls, file, fields):
        return {"bias": any(name.endswith(".bias") for name in file.names())}

    @classmethod
    def extra_to_gguf(cls, config):
        return {"vocab_size": config.vocab_size}  # llama.cpp needs it in a file without a tokenizer

    @classmethod
    def gguf_refusal(cls, config):
        if GELU_FORMS[config.activation] != "tanh":
            return (
                f"activation {config.activation}, the exact form of GELU: llama.cpp computes GPT-2 with the tanh form"
            )
        return None

    @classmethod
    def check_computed(cls, tensor, config):
        if not gpt2_names.is_causal_mask(tensor.name, tensor.shape, config.context_length):
            raise UserError(f"{tensor.path}: {tensor.name} of shape {tensor.shape} is no causal mask of this model")

    @classmethod
    def zero_tensors(cls, config):
        """Biases, which GPT-2 in transformers always has."""
        return {} if config.bias else gpt2_names.zero_biases(config.n_layer, config.d_model, config.d_ff)


class Transformer(Layer):
    """Everything below the head: ids (B, T) -> x (B, T, C).

    recompute: keep the blocks' inputs only, and compute the blocks once more in backward
    (layers/recompute.py).
    """

    recompute = False
    activations = None  # the dtype of x, if not that of the weights
    sections = ALL_HERE  # who has the weights and takes the gradients of the blocks

    def __init__(self, wte: Embedding, wpe: Embedding, blocks: list[ResidualBlock], ln_f: LayerNorm, dropout: float):
        self.wte = wte
        self.wpe = wpe
        self.embd_dropout = Dropout(dropout)
        self.h = blocks
        self.ln_f = ln_f

    def forward(self, ids, rng_key, starts=None):
        """ids (B, T) int -> x (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents, each of which begins at position 0.

        Raises ValueError where dropout needs a key and there is none.
        """
        positions = slice(ids.shape[1])  # 0 .. T-1, the same in every row
        if starts is not None:
            positions = to_device(array_module(ids).arange(ids.shape[1]), device_of(ids)) - starts  # (B, T)
        x = self.wte.forward(ids, self.activations) + self.wpe.forward(positions, self.activations)
        x = self.embd_dropout.forward(x, rng_key)
        x, saved = run_blocks(self.h, x, rng_key, self.recompute and self.training, starts, self.sections)
        self.save_for_backward((saved, starts is not None))
        return self.ln_f.forward(x)

    def backward(self, dx) -> None:
        """dx (B, T, C): adds to the gradients of all parameters below the head.

        RuntimeError without a forward.
        """
        saved, is_packed = self.take_saved()
        # forward: self.ln_f.forward(x)
        # forward: x, saved = run_blocks(self.h, x, rng_key, ...)
        dx = run_blocks_backward(self.h, self.ln_f.backward(dx), saved, self.sections)
        # forward: x = self.embd_dropout.forward(x, rng_key)
        dx = self.embd_dropout.backward(dx)
        # forward: self.wpe.forward(positions, self.activations): the same positions in every row of
        # the batch, unless documents are packed
        self.wpe.backward(dx if is_packed else dx.sum(axis=0, dtype=self.wpe.weight.value.dtype))
        # forward: self.wte.forward(ids, self.activations)
        self.wte.backward(dx)

    def decode(self, ids, cache):
        """The new ids (B, t) -> x (B, t, C)."""
        x = self.wte.decode(ids, cache) + self.wpe.decode(cache.positions(), cache)
        x = self.embd_dropout.decode(x, cache)
        for block in self.h:
            x = block.decode(x, cache)
        return self.ln_f.decode(x, cache)


class ResidualBlock(Layer):
    """One transformer block, x (B, T, C) -> y (B, T, C):

    x = x + dropout(attn(ln_1(x)))        mixes information across tokens
    x = x + dropout(mlp(ln_2(x)))         applied to each token independently
    """

    def __init__(self, ln_1: LayerNorm, attn: CausalSelfAttention, ln_2: LayerNorm, mlp: MLP, dropout: float = 0.0):
        self.ln_1 = ln_1
        self.attn = attn
        self.attn_resid_dropout = Dropout(dropout)
        self.ln_2 = ln_2
        self.mlp = mlp
        self.mlp_resid_dropout = Dropout(dropout)

    def forward(self, x, rng_key=None, starts=None):
        """x (B, T, C) -> y (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents.
        """
        if fuses(self.parts(), x):  # the same in fewer passes over memory (fused_block.py)
            y, saved = fused_block_forward(self.parts(), x, rng_key, starts)
            self.save_for_backward(saved)
            return y
        n = self.ln_1.forward(x)
        attn_out = forward_with(self.attn, n, rng_key, starts)
        forget_output(self.ln_1, n, self.attn)
        attn_out = self.attn_resid_dropout.forward(attn_out, rng_key)
        x, saved_attn = residual_forward(x, attn_out)
        n = self.ln_2.forward(x)
        mlp_out = self.mlp_resid_dropout.forward(self.mlp.forward(n), rng_key)
        forget_output(self.ln_2, n, self.mlp)
        x, saved_mlp = residual_forward(x, mlp_out)
        self.save_for_backward((saved_attn, saved_mlp))
        return x

    def backward(self, dy):
        """dy (B, T, C) -> dx (B, T, C); adds to the gradients of the block's parameters.

        RuntimeError without a forward.
        """
        saved = self.take_saved()
        if isinstance(saved, FusedBlockSaved):
            # forward: y, saved = fused_block_forward(self.parts(), x, rng_key, starts)
            return fused_block_backward(dy, saved)
        saved_attn, saved_mlp = saved
        # forward: x, saved_mlp = residual_forward(x, mlp_out): x = x + dropout(mlp(ln_2(x)))
        dx, dmlp_out = residual_backward(dy, saved_mlp)
        # forward: mlp_out = self.mlp_resid_dropout.forward(self.mlp.forward(n), rng_key)
        # forward: n = self.ln_2.forward(x)
        remember_output(self.ln_2, self.mlp)
        dx = dx + self.ln_2.backward(self.mlp.backward(self.mlp_resid_dropout.backward(dmlp_out)))
        # forward: x, saved_attn = residual_forward(x, attn_out): x = x + dropout(attn(ln_1(x)))
        dx, dattn_out = residual_backward(dx, saved_attn)
        # forward: self.attn_resid_dropout.forward(...)
        # forward: attn_out = forward_with(self.attn, n, rng_key, starts)
        # forward: n = self.ln_1.forward(x)
        remember_output(self.ln_1, self.attn)
        return dx + self.ln_1.backward(self.attn.backward(self.attn_resid_dropout.backward(dattn_out)))

    def parts(self) -> BlockParts:
        """The layers, in the order of forward."""
        dropouts = self.attn_resid_dropout, self.mlp_resid_dropout
        residual = residual_forward, residual_backward
        return BlockParts(self.ln_1, self.attn, self.ln_2, self.mlp, residual, dropouts)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        # x + attn(ln_1(x)), and of that x + mlp(ln_2(x))
        x = decoded_onto(x, self.ln_1.decode(x, cache), cache, self.attn, self.attn_resid_dropout)
        return decoded_onto(x, self.ln_2.decode(x, cache), cache, self.mlp, self.mlp_resid_dropout)
