"""decode, the third direction of every layer: what forward computes, for new tokens, with nothing saved."""

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.arrays import SimulatedArray, to_device
from minillm.backend.random_streams import stream
from minillm.checks.cases import array, randomised
from minillm.layers import (
    attention,
    cache,
    cached_attention,
    layer_norm,
    linear,
    mlp,
    packed_linear,
    rms_norm,
    rotary,
    rotary_attention,
    swiglu,
)
from minillm.layers.cache import Cache
from minillm.layers.dropout import Dropout
from minillm.layers.gelu import GELU
from minillm.layers.layer import Layer, Parameter, decode_problem
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.layers.mlp import MLP
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.swiglu import SwiGLU
from minillm.models import gpt2, llama

C, V = 8, 11
SHAPE = dict(vocab_size=V, context_length=32, n_layer=2, n_head=4, d_model=C, dropout=0.2)
GPT2_MODELS = [dict(), dict(bias=False, tie_embeddings=False, activation="gelu")]
LLAMA_MODELS = [
    dict(n_kv_head=2),
    dict(n_kv_head=1, attention_bias=True, mlp_bias=True, rope_interleaved=True, head_dim=6),
]


def gpt2_model(**shape):
    return randomised(minillm.GPT2(minillm.GPT2Config(**SHAPE | shape), dtype="float64"), 0.3)


def llama_model(**shape):
    return randomised(minillm.Llama(minillm.LlamaConfig(**SHAPE | shape), dtype="float64"), 0.3)


def linears(*shapes, transposed=True):
    return [
        Linear(array(f"w{i}", *s), array(f"b{i}", s[0 if transposed else 1]), transposed) for i, s in enumerate(shapes)
    ]


LAYERS = {
    "linear": lambda: linears((C, 6), transposed=False)[0],
    "linear transposed": lambda: linears((6, C))[0],
    "linear without bias": lambda: Linear(array("w", C, 6)),
    "lora": lambda: LoRALinear(linears((6, C))[0], array("a", 2, C), array("b", 6, 2), 3.0),
    "layer norm": lambda: LayerNorm(array("w", C), array("b", C), eps=0.1),
    "layer norm without bias": lambda: LayerNorm(array("w", C)),
    "rms norm": lambda: RMSNorm(array("w", C), eps=0.1),
    "gelu": lambda: GELU("none"),
    "dropout": lambda: Dropout(0.5),
    "mlp": lambda: MLP(*linears((C, 12), (12, C), transposed=False), "none"),
    "swiglu": lambda: SwiGLU(*linears((12, C), (12, C), (C, 12))),
    **{f"gpt2 block {i}": lambda f=f: gpt2_model(**f).transformer.h[1] for i, f in enumerate(GPT2_MODELS)},
    **{f"llama block {i}": lambda f=f: llama_model(**f).model.blocks[1] for i, f in enumerate(LLAMA_MODELS)},
    **{f"gpt2 {i}": lambda f=f: gpt2_model(**f).transformer for i, f in enumerate(GPT2_MODELS)},
    **{f"llama {i}": lambda f=f: llama_model(**f).model for i, f in enumerate(LLAMA_MODELS)},
}
layers = pytest.mark.parametrize("name", LAYERS)
CHUNKS = [(9,), (1,) * 9, (4, 1, 3, 1), (1, 8)]


def new_tokens(layer, B, T):
    return stream("test", "decode").integers(V, (B, T)) if is_body(layer) else array("x", B, T, C)


def forward(layer, x):
    return layer.forward(x, None) if is_body(layer) else layer.forward(x)


def is_body(layer):
    return hasattr(layer, "activations")


def decoded(layer, x, chunks, padding=None):
    """decode of x, so many columns at a time."""
    parts, at, kept = [], 0, Cache(np.zeros(1), len(x), padding)
    for count in chunks:
        kept.start(count)
        parts.append(layer.decode(x[:, at : at + count], kept))
        kept.advance()
        at += count
    return np.concatenate(parts, axis=1)


def to_dtype(layer, dtype):
    for parameter in layer.parameters().values():
        parameter.value = parameter.value.astype(dtype)
    if is_body(layer):
        layer.activations = None
    return layer


@layers
def test_decode_is_forward(name):
    """For any way in which the tokens come, in both dtypes; one token alone takes ways of its own."""
    for dtype, tolerance in (("float64", 1e-12), ("float32", 3e-6)):
        layer = to_dtype(LAYERS[name](), dtype).eval()
        for B in (1, 3):
            x = new_tokens(layer, B, 9)
            x = x.astype(dtype) if x.dtype.kind == "f" else x
            expected = forward(layer, x)
            for chunks in CHUNKS:
                y = decoded(layer, x, chunks)
                assert y.dtype == expected.dtype == dtype
                assert_close(y, expected, tolerance)


@layers
def test_padding_changes_no_token(name):
    layer = LAYERS[name]().eval()
    x, padding = new_tokens(layer, 3, 9), np.array([0, 4, 6])
    for chunks in CHUNKS:
        y = decoded(layer, x, chunks, padding)
        for row in range(3):
            assert_close(y[row : row + 1, padding[row] :], forward(layer, x[row : row + 1, padding[row] :]))


@layers
def test_nothing_is_saved_and_the_mode_stays(name):
    layer = LAYERS[name]().train()
    for _, each in layer.layers():
        each._saved = each
    y = decoded(layer, new_tokens(layer, 1, 9), (4, 1, 4))
    assert all(each.training and each._saved is each for _, each in layer.layers())
    assert_close(y, forward(layer.eval(), new_tokens(layer, 1, 9)))


@layers
def test_on_the_simulated_device(name):
    layer = LAYERS[name]().eval()
    x = new_tokens(layer, 2, 5)
    expected = forward(layer, x)
    if layer.parameters():
        layer.to("cudasim")
    kept, x = Cache(to_device(np.zeros(1), "cudasim"), 2), to_device(x, "cudasim")
    for chunk in (slice(0, 3), slice(3, 4), slice(4, 5)):
        kept.start(chunk.stop - chunk.start)
        y = layer.decode(x[:, chunk], kept)
        kept.advance()
        assert isinstance(y, SimulatedArray)
        assert_close(y, expected[:, chunk])


FAULTS = [
    (linear, "y += self.bias.peek()", "pass", "linear"),
    (packed_linear, "y += self._bias", "pass", "linear transposed"),
    (packed_linear, "] = strip.T", "] = strip.T[::-1]", "linear transposed"),
    (packed_linear, "column += len(strip)", "column += 0", "swiglu"),
    (packed_linear, "copy[:, column : column", "copy[:, start : start", "llama block 0"),
    (layer_norm, "y = x - x.dtype.type(float(", "y = x - 0 * x.dtype.type(float(", "layer norm"),
    (layer_norm, "float(row.dot(row)) / row.size + eps", "float(row.dot(row)) / row.size", "layer norm"),
    (layer_norm, "y += bias\n    return y\n\n\nclass", "pass\n    return y\n\n\nclass", "layer norm"),
    (rms_norm, "float(row.dot(row)) / row.size + eps", "float(row.dot(row)) / row.size", "rms norm"),
    (rms_norm, "y = x * weight", "y = x + 0", "rms norm"),
    (mlp, "cache, with_bias=False)", "cache)", "mlp"),
    (swiglu, "gate.dtype.type(0.5)\n    h = t * up", "gate.dtype.type(1)\n    h = t * up", "swiglu"),
    (swiglu, "gate_up[..., :F], gate_up[..., F:]", "gate_up[..., F:], gate_up[..., :F]", "swiglu"),
    (attention, "q, k, v = qkv.transpose(2, 0, 3, 1, 4)", "k, q, v = qkv.transpose(2, 0, 3, 1, 4)", "gpt2 block 0"),
    (attention, "cache.padding_in(k.shape[2])", "None", "gpt2 block 0"),
    (cached_attention, "visible = j <= i", "visible = j < i + 2", "gpt2 block 0"),
    (cached_attention, "(j >= padding[", "(j > padding[", "gpt2 block 0"),
    (rotary_attention, "table[cache.length : T]", "table[: cache.count]", "llama block 0"),
    (rotary_attention, "xp.stack([-sin, sin], axis)", "xp.stack([sin, -sin], axis)", "llama block 1"),
    (rotary_attention, "qk[:, :H], qk[:, H:]", "qk[:, :H], qk[:, :H_kv]", "llama block 0"),
    (rotary, "pairs[..., ::-1, :]) * sin", "pairs) * sin", "llama block 0"),
    (
        cache,
        "arange(self.length, self.length + self.count)",
        "arange(self.length + 1, self.length + self.count + 1)",
        "gpt2 0",
    ),
    (cache, "columns - self.padding[:, None], 0)", "columns, 0)", "gpt2 0"),
    (gpt2, "self.h:\n            x = block.decode", "self.h[:1]:\n            x = block.decode", "gpt2 0"),
    (gpt2, "x = decoded_onto(x, self.ln_1", "x = decoded_onto(0, self.ln_1", "gpt2 block 0"),
    (gpt2, "return decoded_onto(x, self.ln_2.decode(x, cache), ", "return decoded_onto(x, x, ", "gpt2 block 0"),
    (llama, "x = decoded_onto(x, ", "x = decoded_onto(0, ", "llama block 0"),
    (llama, "return self.norm.decode(x, cache)", "return x", "llama 0"),
]


@pytest.mark.parametrize("module, right, wrong, name", FAULTS)
def test_faults_are_caught(monkeypatch, module, right, wrong, name):
    faulty = planted(module, right, wrong)

    def plant(layer):
        for _, each in layer.layers():
            for value in (each, getattr(each, "positions", None)):
                if type(value).__module__ == module.__name__:
                    value.__class__ = getattr(faulty, type(value).__name__)
        return layer

    original = LAYERS[name]
    for user in (attention, rotary_attention, swiglu, cache):  # functions and classes that they import
        for imported in ("cached_attention", "rotate_tokens", "packed_linear", "PackedLinear"):
            if getattr(vars(user).get(imported), "__module__", None) == module.__name__:
                monkeypatch.setattr(user, imported, getattr(faulty, imported))
    if module is cache:
        monkeypatch.setitem(globals(), "Cache", faulty.Cache)
    monkeypatch.setitem(LAYERS, name, lambda: plant(original()))
    with np.errstate(all="ignore"), pytest.raises((AssertionError, IndexError, ValueError)):
        test_decode_is_forward(name)
        test_padding_changes_no_token(name)


# ------------------------------------------------------------------------------------------- which decode belongs to forward


class Doubled(Layer):
    per_token = True

    def forward(self, x):
        return 2 * x


class Mixing(Layer):
    def forward(self, x):
        return x.cumsum(axis=1)


class MixingMLP(MLP):
    def forward(self, x):
        return super().forward(x.cumsum(axis=1))


class TripledMLP(MLP):
    per_token = True

    def forward(self, x):
        return 3 * super().forward(x)


def mlp_layer(kind=MLP):
    return kind(*linears((C, 12), (12, C), transposed=False))


def test_forward_alone_inherits_no_decode():
    for layer in (Mixing(), mlp_layer(MixingMLP), type("Again", (MixingMLP,), {})(*linears((C, 2), (2, C)))):
        assert "which has no decode" in decode_problem(layer)
        with pytest.raises(NotImplementedError, match="has no decode: define decode"):
            layer.decode(array("x", 1, 1, C), Cache(np.zeros(1), 1))
    deep = gpt2_model()
    deep.transformer.h[1].mlp = mlp_layer(MixingMLP)
    assert decode_problem(deep.transformer, "transformer").startswith("its layer transformer.h.1.mlp is a MixingMLP")


@pytest.mark.parametrize("make", [Doubled, lambda: mlp_layer(TripledMLP), lambda: type("Same", (Doubled,), {})()])
def test_per_token_makes_decode_forward(make):
    layer, x = make().train(), array("x", 2, 5, C)
    assert decode_problem(layer) is None
    y = decoded(layer, x, (3, 1, 1))
    assert all(each.training and each._saved is None for _, each in layer.layers())
    assert_close(y, layer.eval().forward(x))


def test_per_token_is_not_inherited_by_another_forward():
    class Shifted(Doubled):
        def forward(self, x):
            return np.roll(x, 1, axis=1)

    class Mixin:
        def forward(self, x):
            return x.cumsum(axis=1)

    assert "which has no decode" in decode_problem(Shifted())
    assert "whose class got another forward" in decode_problem(type("Both", (Mixin, Doubled), {})())


def test_what_was_exchanged_is_noticed(monkeypatch):
    layer = mlp_layer()
    assert decode_problem(layer) is None
    layer.forward = layer.forward
    assert "whose forward was exchanged" in decode_problem(layer)
    layer.decode = layer.decode
    assert decode_problem(layer) is None  # both were given
    layer = mlp_layer()
    with monkeypatch.context() as patch:
        patch.setattr(MLP, "forward", lambda self, x: x)
        assert "whose class got another forward" in decode_problem(layer)
    with monkeypatch.context() as patch:
        patch.setattr(mlp, "gelu_forward", lambda *inputs: inputs)
        assert "whose forward uses another gelu_forward" in decode_problem(layer)
    assert decode_problem(layer) is None
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "forward", lambda self, x, **settings: x)
        assert "its layer c_fc is a Linear, whose class got another forward" in decode_problem(layer)


def test_packed_weights_do_not_outlive_their_cache():
    """After a step of training a new cache is made, and sees the new weights; `restart` keeps the copies."""
    layer, x = LAYERS["swiglu"]().eval(), array("x", 1, 1, C)
    decoded(layer, x, (1,))
    for parameter in layer.parameters().values():
        parameter.value += 1
    assert_close(decoded(layer, x, (1,)), layer.forward(x))
    kept = Cache(np.zeros(1), 1)
    kept.start(1)
    packed = kept.packed(layer.gate_proj, layer.up_proj)
    kept.restart()
    kept.start(1)
    assert packed is not None and kept.packed(layer.gate_proj, layer.up_proj) is packed
    kept.start(2)
    assert kept.packed(layer.gate_proj, layer.up_proj) is None


def test_a_bias_of_some_is_packed():
    """As in Qwen2, where q, k and v have biases and others have none."""
    parts = linears((3, C), (4, C), (2, C))
    del parts[1].bias
    x = array("x", 1, 1, C)
    kept = Cache(np.zeros(1), 1)
    kept.start(1)
    expected = np.concatenate([part.eval().forward(x) for part in parts], axis=-1)
    assert_close(packed_linear.packed_linear(x, tuple(parts), kept), expected)


@pytest.mark.parametrize("width, outputs, packs", [(12, 8, True), (8, 8, True), (8, 12, False), (4, 4, False)])
def test_a_large_weight_with_short_rows_is_packed_the_other_way(monkeypatch, width, outputs, packs):
    """Weights that GPT-2 stores as (in, out): small ones, and those with rows longer than columns, stay."""
    monkeypatch.setattr(packed_linear, "LARGE", 64)
    layer, x = Linear(array("weight", width, outputs), array("bias", outputs)).eval(), array("x", 1, 1, width)
    kept = Cache(np.zeros(1), 1)
    kept.start(1)
    packed = kept.packed(layer)
    assert (packed is not None) == packs
    assert_close(layer.decode(x, kept), layer.forward(x))
    assert not packs or packed._weight.T.flags.c_contiguous


def test_parameters_of_a_layer_of_ones_own():
    """The example of layer.py's first page."""

    class Convolution(Layer):
        def __init__(self):
            self.w = Parameter(array("w", C))

        def forward(self, x):
            before = np.zeros_like(x)
            before[:, 1:] = x[:, :-1]
            return x + before * self.w.value

        def decode(self, x, cache):
            (seen,) = cache.append(self, x, window=2)
            before = np.zeros_like(x)
            before[:, x.shape[1] - seen.shape[1] + 1 :] = seen[:, :-1]
            return x + before * self.w.value

    layer, x, padding = Convolution().eval(), array("x", 3, 9, C), np.array([0, 4, 6])
    for chunks in CHUNKS:
        assert_close(decoded(layer, x, chunks), layer.forward(x))
        y = decoded(layer, x, chunks, padding)
        for row, first in enumerate(padding):
            assert_close(y[row : row + 1, first:], layer.forward(x[row : row + 1, first:]))
