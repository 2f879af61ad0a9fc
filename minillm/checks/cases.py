"""Every layer and a whole small model, ready to be checked: what `minillm gradcheck` runs, and the tests too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.gradcheck import GradientError, Report, gradcheck
from minillm.errors import UserError
from minillm.layers.attention import CausalSelfAttention, attention_backward, attention_forward
from minillm.layers.cross_entropy import CrossEntropy
from minillm.layers.dropout import Dropout
from minillm.layers.embedding import Embedding
from minillm.layers.gelu import GELU, gelu_backward, gelu_forward
from minillm.layers.layer import Layer, Parameter
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.linear_cross_entropy import LinearCrossEntropy
from minillm.layers.lora import LoRALinear, lora_backward, lora_forward
from minillm.layers.mlp import MLP
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.residual_layer_norm import residual_layer_norm_backward, residual_layer_norm_forward
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import rotary_backward, rotary_forward, rotary_tables
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention
from minillm.layers.softmax import Softmax
from minillm.layers.swiglu import SwiGLU, swiglu_backward, swiglu_forward
from minillm.models.gpt2 import GPT2, GPT2Config, ResidualBlock
from minillm.models.llama import Llama, LlamaConfig
from minillm.models.mistral import Mistral
from minillm.models.qwen2 import Qwen2
from minillm.models.qwen3 import Qwen3

KEY = (0, "gradcheck")  # dropout draws the same mask in every forward


def run(names: list[str] | None = None) -> Iterator[tuple[str, Report | GradientError]]:
    """Check the layers of these names, or all; yields (name, report or error). Raises UserError for an unknown name."""
    for name in names or CATALOGUE:
        if name not in CATALOGUE:
            raise UserError(f'no gradient check is named "{name}": use {", ".join(CATALOGUE)}')
    for name in names or CATALOGUE:
        for label, subject, inputs, key in CATALOGUE[name]():
            try:
                yield name, gradcheck(subject, *inputs, rng_key=key, name=label, progress=False)
            except GradientError as error:
                yield name, error


def array(name: str, *shape: int) -> np.ndarray:
    """Standard normal numbers that depend on the name only, float64."""
    return stream("catalogue", name).normal(shape)


def randomised(layer: Layer, scale: float = 0.5) -> Layer:
    """The layer with random parameters: at their initial values some gradients vanish, and a fault would not show."""
    for name, parameter in layer.parameters().items():
        parameter.value[...] = scale * array(name, *parameter.value.shape)
    return layer


# ---------------------------------------------------------------- cases: (label, layer or pair, inputs, key for dropout)


def linear():
    x, weight, bias = array("x", 2, 3, 4), array("w", 4, 5), array("b", 5)
    yield "linear", Linear(weight, bias), (x,), None
    yield "linear, no bias", Linear(weight), (x,), None
    yield "linear, transposed weight", Linear(array("wt", 5, 4), bias, transposed=True), (x,), None


def embedding():
    ids = np.array([[2, 0, 2, 4], [2, 2, 1, 0]])  # 2 occurs four times, 3 never
    yield "embedding", Embedding(array("w", 5, 3)), (ids,), None


def layer_norm():
    x, weight, bias = array("x", 2, 3, 8), array("w", 8), array("b", 8)
    yield "layer_norm", LayerNorm(weight, bias), (x,), None
    yield "layer_norm, no bias", LayerNorm(weight), (x,), None
    yield "layer_norm, small variance", LayerNorm(weight, bias, eps=0.1), (0.1 * x,), None


def rms_norm():
    yield "rms_norm", RMSNorm(array("w", 8)), (array("x", 2, 3, 8),), None
    yield "rms_norm, small values", RMSNorm(array("w", 8), eps=0.1), (0.1 * array("x", 2, 3, 8),), None


def residual_layer_norm():
    def forward(x, delta, weight, bias):
        results, saved = residual_layer_norm_forward(x, delta, weight, bias)
        return np.stack(results), saved  # sum and y

    def backward(dresults, saved):
        dx, dweight, dbias = residual_layer_norm_backward(*dresults, saved)
        return dx, dx, dweight, dbias

    inputs = (array("x", 2, 3, 8), array("delta", 2, 3, 8), array("w", 8), array("b", 8))
    yield "residual_layer_norm", (forward, backward), inputs, None


def rotary():
    tables = rotary_tables(5, 6, dtype="float64")
    for interleaved in (False, True):

        def forward(x, interleaved=interleaved):
            return rotary_forward(x, *tables, interleaved)

        label = f"rotary, {'interleaved' if interleaved else 'halves'}"
        yield label, (forward, rotary_backward), (array("x", 2, 2, 5, 6),), None


def gelu():
    for form in ("tanh", "none"):
        yield f"gelu, {form}", GELU(form), (3 * array("x", 4, 5),), None

        def forward(x, bias, form=form):
            return gelu_forward(x, bias, form)

        yield f"gelu, {form}, with bias", (forward, gelu_backward), (array("x", 2, 4, 5), array("b", 5)), None


def softmax():
    yield "softmax", Softmax(), (array("x", 2, 3, 5),), None


def dropout():
    yield "dropout", Dropout(0.4), (array("x", 3, 4, 5),), KEY


def attention():
    def pair(**settings):
        return (lambda q, k, v: attention_forward(q, k, v, **settings)), attention_backward

    q, k, v = (array(name, 2, 4, 5, 3) for name in "qkv")
    yield "attention, causal", pair(causal=True), (q, k, v), None
    yield "attention, full", pair(causal=False), (q, k, v), None
    yield "attention, dropout", pair(causal=True, dropout=0.3, rng_key=KEY), (q, k, v), None
    grouped = (q, k[:, :2].copy(), v[:, :2].copy())
    yield "attention, 4 query heads on 2 key/value heads", pair(causal=True), grouped, None
    layer = CausalSelfAttention(
        Linear(array("qkv", 6, 18), array("qkv_b", 18)),
        Linear(array("o", 6, 6), array("o_b", 6)),
        n_head=2,
        dropout=0.2,
    )
    yield "causal self-attention", layer, (array("x", 2, 5, 6),), KEY


def mlp():
    layer = MLP(Linear(array("fc", 4, 8), array("fc_b", 8)), Linear(array("proj", 8, 4), array("proj_b", 4)))
    yield "mlp", layer, (array("x", 2, 3, 4),), None
    yield "mlp, no bias", MLP(Linear(array("fc", 4, 8)), Linear(array("proj", 8, 4))), (array("x", 2, 3, 4),), None


def rotary_attention():
    for n_kv_head, bias, interleaved in product((4, 2, 1), (False, True), (False, True)):
        layer = RotarySelfAttention(
            *(
                Linear(array(name, rows, columns), array(f"{name}_b", rows) if bias else None, transposed=True)
                for name, rows, columns in (
                    ("q", 8, 6),
                    ("k", 2 * n_kv_head, 6),
                    ("v", 2 * n_kv_head, 6),
                    ("o", 6, 8),
                )
            ),
            n_head=4,
            n_kv_head=n_kv_head,
            positions=RotaryPositions(2, base=100.0, interleaved=interleaved),
            dropout=0.2 if bias else 0.0,
        )
        order = "interleaved" if interleaved else "halves"
        label = f"rotary attention, 4 heads on {n_kv_head}, {order}, {'bias, dropout' if bias else 'no bias'}"
        yield label, layer, (array("x", 2, 5, 6),), KEY


def swiglu():
    yield "swiglu", (swiglu_forward, swiglu_backward), (3 * array("gate", 2, 3, 5), array("up", 2, 3, 5)), None
    shapes = (("gate", 7, 4), ("up", 7, 4), ("down", 4, 7))
    for bias in (False, True):
        parts = [Linear(array(n, o, i), array(f"{n}_b", o) if bias else None, transposed=True) for n, o, i in shapes]
        yield f"swiglu MLP, {'' if bias else 'no '}bias", SwiGLU(*parts), (array("x", 2, 3, 4),), None


def lora():
    a, b = array("a", 2, 4), array("b", 5, 2)

    def forward(x, a, b):
        return lora_forward(x, a, b, 0.7)

    yield "lora", (forward, lora_backward), (array("x", 2, 3, 4), a, b), None
    for transposed, bias in product((False, True), (False, True)):
        weight = array("w", 5, 4) if transposed else array("w", 4, 5)
        base = Linear(weight, array("bias", 5) if bias else None, transposed)
        label = f"linear with lora, {'out, in' if transposed else 'in, out'}, {'' if bias else 'no '}bias"
        yield label, LoRALinear(base, a, b, alpha=3.0), (array("x", 2, 3, 4),), None


def residual():
    def backward(dy, saved):
        return residual_backward(dy, saved)

    yield "residual", (residual_forward, backward), (array("x", 2, 3, 4), array("branch", 2, 3, 4)), None
    width = 4
    attention = CausalSelfAttention(
        Linear(array("qkv", width, 12)), Linear(array("o", width, width)), n_head=2, dropout=0.1
    )
    feed_forward = MLP(Linear(array("fc", width, 8), array("fc_b", 8)), Linear(array("proj", 8, width)))
    norms = [LayerNorm(array(name, width), array(name + "b", width)) for name in ("n1", "n2")]
    block = ResidualBlock(norms[0], attention, norms[1], feed_forward, dropout=0.2)
    yield "residual block", block, (array("x", 2, 3, width),), KEY


def cross_entropy():
    targets = np.array([[1, 0, 5], [3, -100, 1]])
    yield "cross_entropy, an ignored target", CrossEntropy(), (array("z", 2, 3, 6), targets), None
    yield "cross_entropy, label smoothing", CrossEntropy(label_smoothing=0.1), (array("z", 2, 3, 6), targets), None


def linear_cross_entropy():
    targets = np.array([[1, 0, 5], [3, -100, 1]])
    layer = LinearCrossEntropy(Parameter(array("w", 6, 4)))
    yield "linear_cross_entropy", layer, (array("x", 2, 3, 4), targets), None
    smoothed = LinearCrossEntropy(Parameter(array("w", 6, 4)), label_smoothing=0.1)
    yield "linear_cross_entropy, label smoothing", smoothed, (array("x", 2, 3, 4), targets), None


def gpt2():
    ids, targets = (stream("catalogue", name).integers(7, (2, 5)) for name in ("ids", "targets"))
    for tied, bias, drop in product((True, False), (True, False), (0.0, 0.25)):
        config = GPT2Config(
            vocab_size=7,
            context_length=6,
            n_layer=2,
            n_head=2,
            d_model=4,
            d_ff=8,
            dropout=drop,
            bias=bias,
            tie_embeddings=tied,
        )
        label = (
            f"gpt2, {'tied' if tied else 'untied'}, {'' if bias else 'no '}bias, {'dropout' if drop else 'no dropout'}"
        )
        yield label, randomised(GPT2(config, seed=0, dtype="float64")), (ids, targets), KEY


def llama():
    ids, targets = (stream("catalogue", name).integers(7, (2, 5)) for name in ("ids", "targets"))
    for tied, bias, interleaved in ((True, False, False), (False, True, True)):
        config = LlamaConfig(
            vocab_size=7,
            context_length=6,
            n_layer=2,
            n_head=4,
            n_kv_head=2,
            d_model=8,
            d_ff=6,
            dropout=0.25 if bias else 0.0,
            tie_embeddings=tied,
            attention_bias=bias,
            mlp_bias=bias,
            rope_theta=50.0,
            rope_interleaved=interleaved,
        )
        label = f"llama, {'tied' if tied else 'untied'}, {'bias, dropout' if bias else 'no bias'}"
        yield label, randomised(Llama(config, seed=0, dtype="float64")), (ids, targets), KEY


def relative_of_llama(kind, label, **fields):
    """A case of an architecture whose configuration has the fields of Llama's."""
    ids, targets = (stream("catalogue", name).integers(7, (2, 5)) for name in ("ids", "targets"))
    sizes = dict(vocab_size=7, context_length=6, n_layer=2, n_head=2, n_kv_head=1, d_model=4, d_ff=5)
    config = kind.config_class(**{**sizes, "head_dim": 4, "rope_theta": 50.0, **fields})
    label = f"{kind.model_type}, {label}"
    return label, randomised(kind(config, seed=0, dtype="float64")), (ids, targets), KEY


def qwen2():
    yield relative_of_llama(Qwen2, "tied", tie_embeddings=True)
    yield relative_of_llama(Qwen2, "untied, dropout", n_kv_head=2, dropout=0.25)


def qwen3():
    yield relative_of_llama(Qwen3, "tied, wide heads", tie_embeddings=True, head_dim=6)
    yield relative_of_llama(Qwen3, "untied, bias, dropout", n_kv_head=2, attention_bias=True, dropout=0.25)


def mistral():
    yield relative_of_llama(Mistral, "window of 3", sliding_window=3, tie_embeddings=True)
    yield relative_of_llama(Mistral, "window of 2, dropout", sliding_window=2, dropout=0.25)
    yield relative_of_llama(Mistral, "no window")


CATALOGUE = {
    case.__name__: case
    for case in (
        linear,
        embedding,
        layer_norm,
        rms_norm,
        residual_layer_norm,
        rotary,
        gelu,
        softmax,
        dropout,
        attention,
        rotary_attention,
        lora,
        mlp,
        swiglu,
        residual,
        cross_entropy,
        linear_cross_entropy,
        gpt2,
        llama,
        qwen2,
        qwen3,
        mistral,
    )
}
