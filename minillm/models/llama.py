"""Llama: GPT-2 with four parts exchanged, and the shape of most models of today.

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023), section 2.2; the Llama team, "The
Llama 3 Herd of Models" (2024).

    x = embed_tokens[ids]                                       (B, T, C); no table of positions
    x = x + attention(norm(x))        n_layer times             rotary_attention.py: q and k are turned by their position
    x = x + swiglu(norm(x))                                     swiglu.py: a gated MLP
    logits = norm(x) W_head^T                                   rms_norm.py: no mean, no shift; (B, T, C) @ (C, V)

and no biases, unless the configuration asks for them. Weights are stored as (out, in).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.errors import UserError
from minillm.layers.embedding import Embedding
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear
from minillm.layers.recompute import run_blocks, run_blocks_backward
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention
from minillm.layers.rotary_scaling import Scaling, TableScaling, scaling_from_fields
from minillm.layers.swiglu import SwiGLU
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
class LlamaConfig:
    """The shape of a Llama. Raises UserError for a shape that cannot be built.

    vocab_size V; context_length: the longest T; n_layer blocks; n_head query heads H; n_kv_head key/value heads, n_head if
    None; d_model C; d_ff: width of the MLP, 8/3 d_model rounded up to a multiple of 32 if None; head_dim D,
    d_model / n_head if None; rope_theta: the base of the angles; rope_scaling: one of rotary_scaling.py's, a dict of its
    fields, or None; rope_interleaved: pairs are (2i, 2i + 1), as in Meta's files, and not (i, i + D/2); dropout: probability of
    dropping an attention probability; attention_bias, mlp_bias: biases on those linear layers; tie_embeddings: the output
    head is the token embedding.
    """

    vocab_size: int = 32000
    context_length: int = option(2048, "Tokens that the model can look back on.")
    n_layer: int = option(12, "Transformer blocks.")
    n_head: int = option(12, "Attention heads in each block.")
    n_kv_head: int | None = option(None, "Llama: key/value heads, each shared by several attention heads.")
    d_model: int = option(768, "Width of a token's vector; divisible by --n-head.")
    d_ff: int | None = option(None, "Width inside the MLP; 4 (Llama: 8/3) times --d-model if not given.")
    head_dim: int | None = option(None, "Llama: width of a head, if not d-model / n-head.")
    dropout: float = option(0.0, "Probability of dropping a value, from 0 to below 1.")
    tie_embeddings: bool = option(False, "One matrix reads tokens and scores them.")
    attention_bias: bool = option(False, "Llama: biases in attention.")
    mlp_bias: bool = option(False, "Llama: biases in the MLP.")
    rms_norm_eps: float = option(1e-5, "Llama: added to the mean square in RMS norm.")
    rope_theta: float = option(10000.0, "Llama: base of the rotary embedding's angles.")
    rope_scaling: Scaling | None = None
    rope_interleaved: bool = option(False, "Llama: rotary pairs side by side.")

    def __post_init__(self):
        check_positive_integers(self, ("vocab_size", "context_length", "n_layer", "n_head", "d_model"))
        if self.head_dim is None:
            check_heads(self)
        defaults = {
            "n_kv_head": self.n_head,
            "head_dim": self.d_model // self.n_head,
            "d_ff": math.ceil(self.d_model * 8 / 3 / 32) * 32,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_positive_integers(self, tuple(defaults))
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", scaling_from_fields(self.rope_scaling))
        check_numbers(self, ("rms_norm_eps", "rope_theta"))
        check_flags(self, ("tie_embeddings", "attention_bias", "mlp_bias", "rope_interleaved"))
        check_dropout(self)
        if self.n_head % self.n_kv_head:
            raise UserError(
                f"n_head ({self.n_head}) is not divisible by n_kv_head ({self.n_kv_head}): "
                "every key/value head serves the same number of query heads"
            )
        if isinstance(self.rope_scaling, TableScaling) and len(self.rope_scaling.factors) != self.head_dim // 2:
            raise UserError(
                f"rope_scaling has {len(self.rope_scaling.factors)} factors, a head has {self.head_dim // 2} pairs"
            )
        if self.head_dim % 2:
            raise UserError(f"a head is {self.head_dim} wide: rotary embedding turns pairs, so the width must be even")


class Llama(LanguageModel):
    """A Llama language model.

    seed: initial weights N(0, 0.02), those that write to the residual stream divided by sqrt(2 n_layer); the same seed
    gives the same weights. With seed=None the weights hold no memory, to be loaded. dtype: a name of precision.py.
    """

    body_name = "model"
    initial_std = INITIAL_STD

    def _make_body(self) -> LlamaBody:
        config = self.config
        positions = RotaryPositions(config.head_dim, config.rope_theta, config.rope_scaling, config.rope_interleaved)
        return LlamaBody(
            embed_tokens=Embedding(self._normal("embed_tokens", (config.vocab_size, config.d_model), INITIAL_STD)),
            blocks=[self._make_block(f"layers.{index}", positions) for index in range(config.n_layer)],
            norm=self._make_norm(),
        )

    def _make_block(self, path: str, positions: RotaryPositions) -> LlamaBlock:
        config = self.config
        width, heads, kv_heads = (n * config.head_dim for n in (1, config.n_head, config.n_kv_head))
        residual_std = INITIAL_STD / math.sqrt(2 * config.n_layer)  # 2 n_layer branches add up to the last x

        def linear(name, inputs, outputs, bias, std=INITIAL_STD) -> Linear:
            offsets = self._constant(outputs, 0) if bias else None
            return Linear(self._normal(f"{path}.{name}", (outputs, inputs), std), offsets, transposed=True)

        attention = RotarySelfAttention(
            q_proj=linear("q_proj", config.d_model, heads, config.attention_bias),
            k_proj=linear("k_proj", config.d_model, kv_heads, config.attention_bias),
            v_proj=linear("v_proj", config.d_model, kv_heads, config.attention_bias),
            o_proj=linear("o_proj", heads, config.d_model, config.attention_bias, residual_std),
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            positions=positions,
            dropout=config.dropout,
        )
        mlp = SwiGLU(
            gate_proj=linear("gate_proj", config.d_model, config.d_ff, config.mlp_bias),
            up_proj=linear("up_proj", config.d_model, config.d_ff, config.mlp_bias),
            down_proj=linear("down_proj", config.d_ff, config.d_model, config.mlp_bias, residual_std),
        )
        return LlamaBlock(self._make_norm(), attention, self._make_norm(), mlp)

    def _make_norm(self) -> RMSNorm:
        return RMSNorm(self._constant(self.config.d_model, 1), self.config.rms_norm_eps)

    def _token_embedding(self) -> Embedding:
        return self.model.embed_tokens


class LlamaBody(Layer):
    """Everything below the head: ids (B, T) -> x (B, T, C).

    recompute: keep the blocks' inputs only, and compute the blocks once more in backward (layers/recompute.py).
    """

    recompute = False
    activations = None  # the dtype of x, if not that of the weights

    def __init__(self, embed_tokens: Embedding, blocks: list[LlamaBlock], norm: RMSNorm):
        self.embed_tokens = embed_tokens
        self.blocks = blocks
        self.norm = norm

    def children(self):
        """The blocks bear Hugging Face's name for them, "layers", which is a method of every Layer here."""
        for name, child in super().children():
            yield name.replace("blocks.", "layers."), child

    def forward(self, ids, rng_key):
        x = self.embed_tokens.forward(ids, self.activations)
        x, saved = run_blocks(self.blocks, x, rng_key, self.recompute and self.training)
        self.save_for_backward(saved)
        return self.norm.forward(x)

    def backward(self, dx) -> None:
        dx = run_blocks_backward(self.blocks, self.norm.backward(dx), self.take_saved())
        # forward: x = embed_tokens[ids]
        self.embed_tokens.backward(dx)


class LlamaBlock(Layer):
    """One transformer block, x (B, T, C) -> y (B, T, C):

    x = x + self_attn(input_layernorm(x))
    x = x + mlp(post_attention_layernorm(x))
    """

    def __init__(
        self,
        input_layernorm: RMSNorm,
        self_attn: RotarySelfAttention,
        post_attention_layernorm: RMSNorm,
        mlp: SwiGLU,
    ):
        self.input_layernorm = input_layernorm
        self.self_attn = self_attn
        self.post_attention_layernorm = post_attention_layernorm
        self.mlp = mlp

    def forward(self, x, rng_key=None):
        x, saved_attn = residual_forward(x, self.self_attn.forward(self.input_layernorm.forward(x), rng_key))
        x, saved_mlp = residual_forward(x, self.mlp.forward(self.post_attention_layernorm.forward(x)))
        self.save_for_backward((saved_attn, saved_mlp))
        return x

    def backward(self, dy):
        saved_attn, saved_mlp = self.take_saved()
        # forward: x = x + mlp(post_attention_layernorm(x))
        dx, dthought = residual_backward(dy, saved_mlp)
        dx = dx + self.post_attention_layernorm.backward(self.mlp.backward(dthought))
        # forward: x = x + self_attn(input_layernorm(x))
        dx, dattended = residual_backward(dx, saved_attn)
        return dx + self.input_layernorm.backward(self.self_attn.backward(dattended))
