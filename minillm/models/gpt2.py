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

import numpy as np

from minillm.backend import array_module, device_of, float_dtype, stream, to_device
from minillm.errors import UserError
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.embedding import Embedding
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.linear_cross_entropy import LinearCrossEntropy
from minillm.layers.mlp import MLP
from minillm.layers.residual import ResidualBlock
from minillm.models.config import check_dropout, check_heads, check_positive_integers

INITIAL_STD = 0.02


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2. Raises UserError for a shape that cannot be built.

    vocab_size V; context_length: the longest T; n_layer blocks; n_head heads H; d_model C; d_ff: width of the MLP,
    4 * d_model if None; dropout: probability after embeddings, attention and each branch; bias: on linear layers and
    norms; tie_embeddings: the output head is the token embedding; activation: "gelu_new" (tanh) or "gelu" (exact).
    """

    vocab_size: int = 50257
    context_length: int = 1024
    n_layer: int = 12
    n_head: int = 12
    d_model: int = 768
    d_ff: int | None = None
    dropout: float = 0.0
    bias: bool = True
    tie_embeddings: bool = True
    activation: str = "gelu_new"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        check_positive_integers(self, ("vocab_size", "context_length", "n_layer", "n_head", "d_model", "d_ff"))
        check_heads(self)
        check_dropout(self)
        if self.activation not in GELU_FORMS:
            raise UserError(f'activation is "{self.activation}": use one of {", ".join(GELU_FORMS)}')


GELU_FORMS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}  # Hugging Face's names


class GPT2(Layer):
    """A GPT-2 language model.

    seed: initial weights N(0, 0.02), those that write to the residual stream divided by sqrt(2 n_layer); the same seed
    gives the same weights. With seed=None the weights are left unset, to be loaded. dtype: "float32" or "float64".
    """

    def __init__(self, config: GPT2Config, seed: int | None = 0, dtype="float32"):
        self.config = config
        self._seed, self._dtype = seed, float_dtype(dtype)
        self.transformer = self._make_transformer()
        self.lm_head = self._make_head()
        self.loss_head = LinearCrossEntropy(self.lm_head.weight)
        for path, layer in self.layers():
            layer.name = path.removeprefix("transformer.")

    # ---------------------------------------------------------------------------------------------- from ids to loss

    def forward(self, ids, key=None):
        """ids (B, T) int  ->  logits (B, T, V). `key`: see `loss`."""
        return self.lm_head.forward(self._hidden(ids, key))  # (B, T, C) @ (C, V)

    def loss(self, ids, targets, key=None, count=None):
        """ids and targets (B, T) int  ->  mean cross-entropy in nats (0-d); `backward()` may follow.

        key: a tuple such as (seed, step), from which dropout draws its masks; needed only in training mode with
        dropout > 0. Targets of -100 are not counted. count: what the sum of losses is divided by, if not by the number of
        targets that count. Raises UserError for ids outside the vocabulary.
        """
        targets = self._ids_on_device(targets, "targets", ignored=self.loss_head.ignore_index)
        return self.loss_head.forward(self._hidden(ids, key), targets, count)

    def next_token_logits(self, ids):
        """ids (B, T) int  ->  logits (B, V) of the token that follows the last one."""
        return self.lm_head.forward(self._hidden(ids, None)[:, -1])

    def backward(self, dlogits=None) -> None:
        """Add the gradient of the loss to `.grad` of every parameter.

        After `loss(...)` without an argument; after `forward(...)` with the gradient of the logits (B, T, V).
        """
        # forward: loss = cross_entropy(logits), logits = ln_f(x) @ W_head.T
        dx = self.loss_head.backward() if dlogits is None else self.lm_head.backward(dlogits)
        self.transformer.backward(dx)

    def replica(self) -> GPT2:
        """A model that shares this one's weights and has gradients of its own."""
        copy = GPT2(self.config, seed=None, dtype=self._dtype)
        for name, parameter in self.parameters().items():
            copy.parameters()[name].value = parameter.value
        copy.loss_head.label_smoothing = self.loss_head.label_smoothing
        return copy.train(self.training)

    def save_pretrained(self, folder) -> None:
        """Write config.json, generation_config.json and model.safetensors as Hugging Face names them."""
        from minillm.models.gpt2_files import save_gpt2  # which imports this module

        save_gpt2(self, folder)

    def _hidden(self, ids, key):
        ids = self._ids_on_device(ids, "ids")
        if ids.shape[1] > self.config.context_length:
            raise UserError(
                f"{ids.shape[1]} tokens are more than the model's context_length of {self.config.context_length}"
            )
        return self.transformer.forward(ids, key)

    def _ids_on_device(self, ids, what, ignored=None):
        """ids as an array beside the parameters; ids that come from the host are checked."""
        if array_module(ids) is np:
            ids = np.asarray(ids)
            if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.size == 0:
                raise UserError(f"{what} must be whole numbers of shape (B, T), not {ids.dtype} of shape {ids.shape}")
            wrong = (ids < 0) | (ids >= self.config.vocab_size)
            if ignored is not None:
                wrong &= ids != ignored
            if wrong.any():
                row, position = np.argwhere(wrong)[0]
                raise UserError(
                    f"{what}[{row}, {position}] is {ids[row, position]}, outside the vocabulary of "
                    f"{self.config.vocab_size} tokens: was the text encoded with another tokenizer?"
                )
        return to_device(ids, device_of(self.lm_head.weight.value))

    # -------------------------------------------------------------------------------------------------- construction

    def _make_transformer(self) -> Transformer:
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

    def _make_head(self) -> Linear:
        if self.config.tie_embeddings:
            return Linear(self.transformer.wte.weight, transposed=True)
        shape = (self.config.vocab_size, self.config.d_model)
        return Linear(self._normal("lm_head", shape, INITIAL_STD), transposed=True)

    def _make_linear(self, path, inputs, outputs, std) -> Linear:
        bias = np.zeros(outputs, self._dtype) if self.config.bias else None
        return Linear(self._normal(path, (inputs, outputs), std), bias)

    def _make_norm(self) -> LayerNorm:
        width = self.config.d_model
        bias = np.zeros(width, self._dtype) if self.config.bias else None
        return LayerNorm(np.ones(width, self._dtype), bias, self.config.layer_norm_eps)

    def _normal(self, path, shape, std):
        if self._seed is None:
            return np.empty(shape, self._dtype)
        return (std * stream(self._seed, "init", path).normal(shape)).astype(self._dtype)


class Transformer(Layer):
    """Everything below the head: ids (B, T) -> x (B, T, C)."""

    def __init__(self, wte: Embedding, wpe: Embedding, blocks: list[ResidualBlock], ln_f: LayerNorm, dropout: float):
        self.wte = wte
        self.wpe = wpe
        self.embd_dropout = Dropout(dropout)
        self.h = blocks
        self.ln_f = ln_f

    def forward(self, ids, key):
        positions = array_module(ids).arange(ids.shape[1])
        x = self.wte.forward(ids) + self.wpe.forward(positions)  # (B, T, C) + (T, C): the same positions in every row
        x = self.embd_dropout.forward(x, key)
        for block in self.h:
            x = block.forward(x, key)
        return self.ln_f.forward(x)

    def backward(self, dx) -> None:
        dx = self.ln_f.backward(dx)
        for block in reversed(self.h):
            dx = block.backward(dx)
        dx = self.embd_dropout.backward(dx)
        # forward: x = wte[ids] + wpe[positions], the same positions in every row of the batch
        self.wpe.backward(dx.sum(axis=0))
        self.wte.backward(dx)
