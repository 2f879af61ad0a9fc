"""Models that were changed in Python, in the ways in which people change them: each a function of no arguments."""

import functools
import types
from dataclasses import replace

import numpy as np

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.embedding import Embedding
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear
from minillm.layers.mlp import MLP
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary_attention import RotaryPositions
from minillm.models.gpt2 import ResidualBlock

CONTEXT, VOCABULARY, WIDTH = 8, 11, 8
SHAPE = dict(vocab_size=VOCABULARY, context_length=CONTEXT, n_layer=2, n_head=2, d_model=WIDTH)


def gpt2(kind=minillm.GPT2, **shape):
    return randomised(kind(minillm.GPT2Config(**SHAPE | shape), dtype="float64"), 0.3)


def llama(**shape):
    return randomised(minillm.Llama(minillm.LlamaConfig(**SHAPE | shape), dtype="float64"), 0.3)


def numbers(name, *shape):
    return 0.3 * stream("changed models", name).normal(shape)


# ---------------------------------------------------------------------------------------------------------- own layers


class CausalConv(Layer):
    """y_t = x_t + w x_{t-1}"""

    def __init__(self, name="conv"):
        self.weight = Parameter(numbers(name, WIDTH))

    def forward(self, x):
        before = np.zeros_like(x)
        before[:, 1:] = x[:, :-1]
        self.save_for_backward(before)
        return x + before * self.weight.value

    def backward(self, dy):
        before = self.take_saved()
        self.weight.add_grad((dy * before).sum(axis=(0, 1)))
        dx = dy.copy()
        dx[:, :-1] += dy[:, 1:] * self.weight.value
        return dx


class DecodingConv(CausalConv):
    """The same, which keeps x of the last token in the cache. `columns`: how many it computed, by forward and by decode."""

    columns = (0, 0)

    def forward(self, x):
        self.columns = self.columns[0] + x.shape[1], self.columns[1]
        return super().forward(x)

    def decode(self, x, cache):
        self.columns = self.columns[0], self.columns[1] + x.shape[1]
        (seen,) = cache.append(self, x, window=2)
        before = np.zeros_like(x)
        before[:, x.shape[1] - seen.shape[1] + 1 :] = seen[:, :-1]
        return x + before * self.weight.value


class ConvBlock(ResidualBlock):
    """A block with a convolution before it, and a dropout that does nothing when it is not asked to."""

    def __init__(self, block, conv):
        vars(self).update(vars(block))
        self.conv = conv

    def forward(self, x, rng_key=None):
        return super().forward(self.conv.forward(x), rng_key)

    def backward(self, dy):
        return self.conv.backward(super().backward(dy))


class DecodingConvBlock(ConvBlock):
    def decode(self, x, cache):
        return super(ConvBlock, self).decode(self.conv.decode(x, cache), cache)


class SquaredReLU(MLP):
    def forward(self, x):
        h = np.maximum(self.c_fc.forward(x), 0)
        self.save_for_backward(h)
        return self.c_proj.forward(h * h)

    def backward(self, dy):
        h = self.take_saved()
        return self.c_fc.backward(self.c_proj.backward(dy) * 2 * h)


class PerTokenSquaredReLU(SquaredReLU):
    per_token = True


class DecodingSquaredReLU(SquaredReLU):
    def decode(self, x, cache):
        h = np.maximum(self.c_fc.decode(x, cache), 0)
        return self.c_proj.decode(h * h, cache)


class Capped(minillm.GPT2):
    """Logits c tanh(z / c), as in Gemma 2."""

    cap = 0.5

    def forward(self, ids, rng_key=None):
        y = self.cap * np.tanh(super().forward(ids, rng_key) / self.cap)
        self.save_for_backward(y)
        return y

    def backward(self, dlogits=None):
        super().backward(dlogits * (1 - (self.take_saved() / self.cap) ** 2))


class WithHidden(Layer):
    """A head of two layers, with parameters in a list, which is no Linear."""

    def __init__(self):
        self.layers_of_head = [Linear(numbers("h0", WIDTH, 6)), Linear(numbers("h1", 6, VOCABULARY))]

    def forward(self, x):
        h = self.layers_of_head[0].forward(x)
        self.save_for_backward(h)
        return self.layers_of_head[1].forward(np.tanh(h))

    def backward(self, dy):
        h = self.take_saved()
        return self.layers_of_head[0].backward(self.layers_of_head[1].backward(dy) * (1 - np.tanh(h) ** 2))


class ScaledEmbedding(Embedding):
    def forward(self, ids, dtype=None):
        return 2 * super().forward(ids, dtype)

    def backward(self, dy):
        super().backward(2 * dy)


class OwnAttention(CausalSelfAttention):
    """Its result is doubled."""

    def forward(self, x, rng_key=None):
        return 2 * super().forward(x, rng_key)

    def backward(self, dy):
        return super().backward(2 * dy)


# ------------------------------------------------------------------------------------------------------------- changes


def added_layer():
    model = gpt2()
    model.transformer.h[1] = ConvBlock(model.transformer.h[1], CausalConv())
    return model


def subclassed_mlp():
    model = gpt2()
    for block in model.transformer.h:
        block.mlp = SquaredReLU(block.mlp.c_fc, block.mlp.c_proj)
    return model


def added_layer_that_decodes():
    """At two places of the model, one of which is used twice."""
    model = gpt2()
    for index in range(2):
        model.transformer.h[index] = DecodingConvBlock(model.transformer.h[index], DecodingConv(f"conv {index}"))
    model.transformer.h.append(model.transformer.h[0])
    return model


def subclassed_mlps_that_decode():
    model = llama()
    for block, kind in zip(model.model.blocks, (DecodingSquaredReLU, PerTokenSquaredReLU)):
        block.mlp = kind(Linear(numbers("fc", WIDTH, 16)), Linear(numbers("proj", 16, WIDTH)))
    return model


def replaced_mlp():
    model = gpt2()
    model.transformer.h[0].mlp = Linear(numbers("mlp", WIDTH, WIDTH))
    return model


def own_attention():
    model = gpt2()
    attention = model.transformer.h[0].attn
    model.transformer.h[0].attn = OwnAttention(attention.c_attn, attention.c_proj, 2)
    return model


def replaced_norm():
    model = gpt2()
    model.transformer.h[0].ln_1 = RMSNorm(1 + numbers("norm", WIDTH))
    return model


def changed_embedding():
    model = gpt2(tie_embeddings=False)
    model.transformer.wte = ScaledEmbedding(model.transformer.wte.weight.value)
    return model


def overridden_forward():
    return gpt2(Capped)


def own_head():
    model = gpt2()
    model.lm_head = WithHidden()
    return model


def untied_head():
    model = gpt2()
    model.lm_head = Linear(numbers("head", VOCABULARY, WIDTH), transposed=True)
    return model


def exchanged_method():
    """A lambda on an instance that calls the method that was there."""
    model = gpt2()
    block = model.transformer.h[0]
    forward, backward = block.forward, block.backward
    block.forward = lambda x, rng_key=None: 2 * forward(x, rng_key)
    block.backward = lambda dy: backward(2 * dy)
    return model


def exchanged_method_by_binding():
    model = gpt2()

    def forward(self, x):
        return 3 * MLP.forward(self, x)

    def backward(self, dy):
        return MLP.backward(self, 3 * dy)

    mlp = model.transformer.h[1].mlp
    mlp.forward, mlp.backward = types.MethodType(forward, mlp), functools.partial(backward, mlp)
    return model


def hook_on_the_model():
    """It looks, and changes nothing."""
    model, seen = gpt2(), []
    forward = model.forward

    def hooked(ids, rng_key=None):
        logits = forward(ids, rng_key)
        seen.append(logits.shape)
        return logits

    model.forward = hooked
    return model


def other_constants():
    model = gpt2()
    model.transformer.h[0].mlp.approximate = "none"
    model.transformer.h[1].ln_2.eps = 0.3
    return model


def other_positions():
    model = llama()
    for block in model.model.blocks:
        block.self_attn.positions = RotaryPositions(WIDTH // 2, base=3.0)
    return model


def other_number_of_heads():
    model = gpt2()
    model.transformer.h[0].attn.n_head = 4
    return model


def removed_block():
    model = llama()
    del model.model.blocks[0]
    return model


def block_twice():
    model = gpt2()
    model.transformer.h.insert(1, model.transformer.h[0])
    return model


def shared_mlp():
    model = llama()
    model.model.blocks[1].mlp = model.model.blocks[0].mlp
    return model


def llama_with_a_layer():
    model = llama()
    norm, conv = model.model.norm, CausalConv("llama")
    model.model.norm = Chain([conv, norm])
    return model


class Chain(Layer):
    def __init__(self, parts):
        self.parts = parts

    def forward(self, x):
        for part in self.parts:
            x = part.forward(x)
        return x

    def backward(self, dy):
        for part in reversed(self.parts):
            dy = part.backward(dy)
        return dy


def added_dropout():
    """Two of them, set after the model was made: each has a mask of its own."""
    model = gpt2(dropout=0.0)
    for block in model.transformer.h:
        block.mlp_resid_dropout = Chain([Dropout(0.5)])
        block.mlp_resid_dropout.forward = types.MethodType(
            lambda self, x, rng_key=None: self.parts[0].forward(x, rng_key), block.mlp_resid_dropout
        )
    return model


def tied_by_hand():
    model = gpt2(tie_embeddings=False)
    model.lm_head.weight = model.transformer.wte.weight
    return model


def another_configuration():
    model = gpt2()
    model.config = replace(model.config, n_layer=1)
    return model


CHANGES = [
    added_layer,
    subclassed_mlp,
    added_layer_that_decodes,
    subclassed_mlps_that_decode,
    replaced_mlp,
    own_attention,
    replaced_norm,
    changed_embedding,
    overridden_forward,
    own_head,
    untied_head,
    exchanged_method,
    exchanged_method_by_binding,
    hook_on_the_model,
    other_constants,
    other_positions,
    other_number_of_heads,
    removed_block,
    block_twice,
    shared_mlp,
    llama_with_a_layer,
    added_dropout,
    tied_by_hand,
    another_configuration,
]

# Those in which every layer has a decode that belongs to its forward.
WITH_CACHE = [
    added_layer_that_decodes,
    subclassed_mlps_that_decode,
    replaced_mlp,
    replaced_norm,
    untied_head,
    other_constants,
    other_positions,
    other_number_of_heads,
    removed_block,
    block_twice,
    shared_mlp,
    tied_by_hand,
    another_configuration,
]
