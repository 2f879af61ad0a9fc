"""Llama: GPT-2 with four parts exchanged, and the shape of most models of today.

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023), section 2.2;
the Llama team, "The Llama 3 Herd of Models" (2024).

    x = embed_tokens[ids]                                       (B, T, C); no table of positions
    x = x + attention(norm(x))        n_layer times             rotary_attention.py: q and k are rotated by their position
    x = x + swiglu(norm(x))                                     swiglu.py: a gated MLP
    logits = norm(x) W_head^T                                   rms_norm.py: no mean, no shift; (B, T, C) @ (C, V)

and no biases, unless the configuration asks for them. Weights are stored as (out, in).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.errors import UserError
from minillm.layers.decoding import decoded_onto
from minillm.layers.documents import forward_with
from minillm.layers.embedding import Embedding
from minillm.layers.fused_block import BlockParts, FusedBlockSaved, fused_block_backward, fused_block_forward, fuses
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear
from minillm.layers.made_again import forget_output, remember_output
from minillm.layers.recompute import run_blocks, run_blocks_backward
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention
from minillm.layers.rotary_scaling import RotaryScaling, scaling_from_fields
from minillm.layers.sections import ALL_HERE
from minillm.layers.swiglu import SwiGLU
from minillm.models import llama_names, rope_gguf, rope_names
from minillm.models.architecture import gguf_has_bias
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

    vocab_size V; context_length: the longest T; n_layer blocks; n_head query heads H; n_kv_head
    key/value heads, n_head if None; d_model C; d_ff: width of the MLP, 8/3 d_model rounded up to a
    multiple of 32 if None; head_dim D, d_model / n_head if None; rope_theta: the base of the
    angles; rope_scaling: one of rotary_scaling.py's, a dict of its fields, or None;
    rope_interleaved: pairs are (2i, 2i + 1), as in Meta's files, and not (i, i + D/2); dropout:
    probability of dropping an attention probability; attention_bias, mlp_bias: biases on those
    linear layers; tie_embeddings: the output head is the token embedding.
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
    rope_scaling: RotaryScaling | None = None
    rope_interleaved: bool = option(False, "Llama: rotary pairs side by side.")

    def __post_init__(self):
        complete_llama_shape(self)
        check_flags(self, ("tie_embeddings", "attention_bias", "mlp_bias", "rope_interleaved"))


def complete_llama_shape(config) -> None:
    """Fill in the fields that are None, and check those that every relative of Llama has. Raises
    UserError.
    """
    check_positive_integers(config, ("vocab_size", "context_length", "n_layer", "n_head", "d_model"))
    if config.head_dim is None:
        check_heads(config)
    defaults = {
        "n_kv_head": config.n_head,
        "head_dim": config.d_model // config.n_head,
        "d_ff": math.ceil(config.d_model * 8 / 3 / 32) * 32,
    }
    for name, value in defaults.items():
        if getattr(config, name) is None:
            object.__setattr__(config, name, value)
    check_positive_integers(config, tuple(defaults))
    if isinstance(config.rope_scaling, dict):
        object.__setattr__(config, "rope_scaling", scaling_from_fields(config.rope_scaling))
    check_numbers(config, ("rms_norm_eps", "rope_theta"))
    check_dropout(config)
    if config.n_head % config.n_kv_head:
        raise UserError(
            f"n_head ({config.n_head}) is not divisible by n_kv_head ({config.n_kv_head}): "
            "every key/value head serves the same number of query heads"
        )
    if config.head_dim % 2:
        raise UserError(f"a head is {config.head_dim} wide: rotary embedding rotates pairs, so the width must be even")
    if config.rope_scaling is not None:
        if not isinstance(config.rope_scaling, RotaryScaling):
            raise UserError(f"rope_scaling is {config.rope_scaling!r:.99}: it must be a rotary scaling or its fields")
        config.rope_scaling.check_head(config.head_dim, config.rope_theta)


class Llama(LanguageModel):
    """A Llama language model.

    seed: initial weights N(0, 0.02), those that write to the residual stream divided by sqrt(2
    n_layer); the same seed gives the same weights. With seed=None the weights hold no memory, to be
    loaded. dtype: a name of precision.py.
    """

    model_type, display_name = "llama", "Llama"
    config_class = LlamaConfig
    body_name = "model"
    initial_std = INITIAL_STD

    names = llama_names.LLAMA_NAMES
    transformers_class = "LlamaForCausalLM"
    fields = llama_names.LLAMA_FIELDS
    defaults = llama_names.LLAMA_DEFAULTS
    required = llama_names.LLAMA_REQUIRED
    former_fields = {"head_width": "head_dim"}
    computed_tensors = llama_names.INVERSE_FREQUENCIES
    gguf_name = "llama"
    gguf_keys = llama_names.LLAMA_GGUF_KEYS
    gguf_extra_keys = llama_names.LLAMA_GGUF_EXTRA_KEYS
    gguf_extra_tensors = llama_names.LLAMA_GGUF_EXTRA_TENSORS
    gguf_moves_rows = gguf_zero_biases = True
    end_of_text = ("<|endoftext|>", "<|end_of_text|>")

    # -------------------------------------------------------------------------------------------------- construction

    def _make_body(self) -> LlamaBody:
        config = self.config
        positions = self._make_positions()
        return LlamaBody(
            embed_tokens=Embedding(self._normal("embed_tokens", (config.vocab_size, config.d_model), INITIAL_STD)),
            blocks=[self._make_block(f"layers.{index}", positions) for index in range(config.n_layer)],
            norm=self._make_norm(config.d_model),
        )

    def _make_positions(self) -> RotaryPositions:
        config = self.config
        return RotaryPositions(config.head_dim, config.rope_theta, config.rope_scaling, config.rope_interleaved)

    def _make_block(self, path: str, positions: RotaryPositions) -> LlamaBlock:
        width = self.config.d_model
        attention, mlp = self._make_attention(path, positions), self._make_mlp(path)
        return LlamaBlock(self._make_norm(width), attention, self._make_norm(width), mlp)

    def _make_attention(self, path: str, positions: RotaryPositions, **parts) -> RotarySelfAttention:
        """parts: what the attention of a relative has besides."""
        config = self.config
        heads, kv_heads = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        return RotarySelfAttention(
            q_proj=self._make_linear(path, "q_proj", config.d_model, heads),
            k_proj=self._make_linear(path, "k_proj", config.d_model, kv_heads),
            v_proj=self._make_linear(path, "v_proj", config.d_model, kv_heads),
            o_proj=self._make_linear(path, "o_proj", heads, config.d_model, self._residual_std),
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            positions=positions,
            dropout=config.dropout,
            **parts,
        )

    def _make_mlp(self, path: str) -> SwiGLU:
        width, inner = self.config.d_model, self.config.d_ff
        return SwiGLU(
            gate_proj=self._make_linear(path, "gate_proj", width, inner),
            up_proj=self._make_linear(path, "up_proj", width, inner),
            down_proj=self._make_linear(path, "down_proj", inner, width, self._residual_std),
        )

    def _make_linear(self, path: str, name: str, inputs: int, outputs: int, std: float = INITIAL_STD) -> Linear:
        bias = self._constant(outputs, 0) if self.has_bias(self.config, name) else None
        return Linear(self._normal(f"{path}.{name}", (outputs, inputs), std), bias, transposed=True)

    @property
    def _residual_std(self) -> float:
        return INITIAL_STD / math.sqrt(2 * self.config.n_layer)  # 2 n_layer branches add up to the last x

    @staticmethod
    def has_bias(config, name: str) -> bool:
        """Whether the linear layer of a name, such as "q_proj", has a bias."""
        return config.attention_bias if name in ("q_proj", "k_proj", "v_proj", "o_proj") else config.mlp_bias

    def _make_norm(self, width: int) -> RMSNorm:
        return RMSNorm(self._constant(width, 1), self.config.rms_norm_eps)

    def _token_embedding(self) -> Embedding:
        return self.model.embed_tokens

    def share(self, sharing) -> None:
        D = self.config.head_dim
        for block in self.model.blocks:
            sharing.heads(block.self_attn)
            sharing.columns(block.self_attn, "q_proj", "k_proj", "v_proj", unit=D)
            sharing.rows(block.self_attn, "o_proj", unit=D)
            sharing.columns(block.mlp, "gate_proj", "up_proj")
            sharing.rows(block.mlp, "down_proj")
        sharing.tokens(self.model, "embed_tokens")
        sharing.head(self)

    # --------------------------------------------------------------------------------------------------------- files

    @classmethod
    def extra_to_hugging_face(cls, config):
        return rope_names.rope_to_hugging_face(config.rope_scaling, config.context_length) | {"hidden_act": "silu"}

    @classmethod
    def extra_from_hugging_face(cls, contents):
        llama_names.check_llama_keys(contents, cls.fields)
        return rope_names.rope_from_hugging_face(contents)

    @classmethod
    def extra_from_gguf(cls, file, fields):
        biases = {
            "attention_bias": gguf_has_bias(file, "attn_(q|k|v|output)"),
            "mlp_bias": gguf_has_bias(file, "ffn_(gate|up|down)"),
        }
        return biases | cls.rope_from_gguf(file, fields)

    @classmethod
    def rope_from_gguf(cls, file, fields: dict) -> dict:
        """head_dim, rope_scaling and the context_length that it gives. fields: the plain ones of
        the configuration.
        """
        head_dim = fields.get("head_dim", fields["d_model"] // max(fields["n_head"], 1))
        return {"head_dim": head_dim, **rope_gguf.rope_from_gguf(file, cls.gguf_name, {**fields, "head_dim": head_dim})}

    @classmethod
    def extra_to_gguf(cls, config):
        keys = {"vocab_size": config.vocab_size, "rope.dimension_count": config.head_dim}
        keys |= {"attention.value_length": config.head_dim}
        return keys | cls._rope_to_gguf(config)[0]

    @classmethod
    def extra_tensors_to_gguf(cls, config):
        return cls._rope_to_gguf(config)[1]

    @classmethod
    def _rope_to_gguf(cls, config) -> tuple[dict, dict]:
        return rope_gguf.rope_to_gguf(config.rope_scaling, cls.gguf_name, config.head_dim, config.rope_theta)

    @classmethod
    def check_computed(cls, tensor, config):
        rope_names.check_frequencies(tensor, config.head_dim, config.rope_theta, config.rope_scaling)

    def stored_tensors(self):
        tensors = super().stored_tensors()
        if self.model.blocks[0].self_attn.positions.interleaved:
            return llama_names.rows_to_halves(tensors, self.heads_of_rows(self.config))
        return tensors

    @classmethod
    def heads_of_rows(cls, config):
        return {"q_proj": config.n_head, "k_proj": config.n_kv_head}


class LlamaBody(Layer):
    """Everything below the head: ids (B, T) -> x (B, T, C).

    recompute: keep the blocks' inputs only, and compute the blocks once more in backward
    (layers/recompute.py).
    """

    recompute = False
    activations = None  # the dtype of x, if not that of the weights
    sections = ALL_HERE  # who has the weights and takes the gradients of the blocks

    def __init__(self, embed_tokens: Embedding, blocks: list[LlamaBlock], norm: RMSNorm):
        self.embed_tokens = embed_tokens
        self.blocks = blocks
        self.norm = norm

    def children(self):
        """The blocks bear Hugging Face's name for them, "layers", which is a method of every Layer
        here.
        """
        for name, child in super().children():
            yield name.replace("blocks.", "layers."), child

    def forward(self, ids, rng_key, starts=None):
        """ids (B, T) int -> x (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents.
        """
        x = self.embed_tokens.forward(ids, self.activations)
        x, saved = run_blocks(self.blocks, x, rng_key, self.recompute and self.training, starts, self.sections)
        self.save_for_backward(saved)
        return self.norm.forward(x)

    def backward(self, dx) -> None:
        """dx (B, T, C): adds to the gradients of all parameters below the head.

        RuntimeError without a forward.
        """
        # forward: self.norm.forward(x)
        # forward: x, saved = run_blocks(self.blocks, x, rng_key, ...)
        dx = run_blocks_backward(self.blocks, self.norm.backward(dx), self.take_saved(), self.sections)
        # forward: x = self.embed_tokens.forward(ids, self.activations)
        self.embed_tokens.backward(dx)

    def decode(self, ids, cache):
        """The new ids (B, t) -> x (B, t, C)."""
        x = self.embed_tokens.decode(ids, cache)
        for block in self.blocks:
            x = block.decode(x, cache)
        return self.norm.decode(x, cache)


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

    def forward(self, x, rng_key=None, starts=None):
        """x (B, T, C) -> y (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents.
        """
        if fuses(self.parts(), x):  # the same in fewer passes over memory (fused_block.py)
            y, saved = fused_block_forward(self.parts(), x, rng_key, starts)
            self.save_for_backward(saved)
            return y
        n = self.input_layernorm.forward(x)
        attn_out = forward_with(self.self_attn, n, rng_key, starts)
        forget_output(self.input_layernorm, n, self.self_attn)
        x, saved_attn = residual_forward(x, attn_out)
        n = self.post_attention_layernorm.forward(x)
        x, saved_mlp = residual_forward(x, self.mlp.forward(n))
        forget_output(self.post_attention_layernorm, n, self.mlp)
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
        # forward: x, saved_mlp = residual_forward(x, ...): x = x + mlp(post_attention_layernorm(x))
        dx, dmlp_out = residual_backward(dy, saved_mlp)
        # forward: x, saved_mlp = residual_forward(x, self.mlp.forward(n))
        # forward: n = self.post_attention_layernorm.forward(x)
        remember_output(self.post_attention_layernorm, self.mlp)
        dx = dx + self.post_attention_layernorm.backward(self.mlp.backward(dmlp_out))
        # forward: x, saved_attn = residual_forward(x, attn_out)
        dx, dattn_out = residual_backward(dx, saved_attn)
        # forward: attn_out = forward_with(self.self_attn, n, rng_key, starts)
        # forward: n = self.input_layernorm.forward(x)
        remember_output(self.input_layernorm, self.self_attn)
        return dx + self.input_layernorm.backward(self.self_attn.backward(dattn_out))

    def parts(self) -> BlockParts:
        """The layers, in the order of forward."""
        residual = residual_forward, residual_backward
        return BlockParts(self.input_layernorm, self.self_attn, self.post_attention_layernorm, self.mlp, residual)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        # x + self_attn(input_layernorm(x)), and of that x + mlp(post_attention_layernorm(x))
        x = decoded_onto(x, self.input_layernorm.decode(x, cache), cache, self.self_attn)
        return decoded_onto(x, self.post_attention_layernorm.decode(x, cache), cache, self.mlp)
