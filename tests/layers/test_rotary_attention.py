"""The attention of Llama: gradients, formula, and the faults that these tests notice."""

import cmath

import numpy as np
import pytest
from planting import assert_caught, assert_close, assert_gradcheck_catches, assert_gradients

from minillm.backend.arrays import to_device, to_host
from minillm.checks.cases import KEY, ROTARY_ATTENTION, array
from minillm.checks.gradcheck import gradcheck
from minillm.layers import rotary_attention
from minillm.layers.attention import attention_backward
from minillm.layers.documents import packed_starts
from minillm.layers.linear import Linear
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import rotary_tables
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention

FAULTS = {
    "no path through the keys": (
        "dx = backward_onto(self.k_proj, dk, dx)",
        "self.k_proj.backward(dk)",
    ),
    "no path through the values": ("return backward_onto(self.v_proj, merge_heads(dv), dx)", "return dx"),
    "dq not rotated back": ("rotate_backward(dq, saved_q)", "dq"),
    "dk not rotated back": ("rotate_backward(dk, saved_k)", "dk"),
    "dk and dv exchanged": ("dq, dk, dv = ", "dq, dv, dk = "),
}
FAULTS_OF_NORMS = {
    "no norm in backward": (
        "dq, dk = self.q_norm.backward(cut_heads(dq, D)), self.k_norm.backward(cut_heads(dk, D))",
        "dq, dk = cut_heads(dq, D), cut_heads(dk, D)",
    ),
    "norm after the rotation": (
        "            dq, dk = joined_heads(dq), ",
        "            dq = rotate_backward(heads_apart(dq, self.n_head), saved_q)\n"
        "            dq, dk = merge_heads(dq), ",
    ),
}


@pytest.mark.parametrize("problem", ROTARY_ATTENTION.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(ROTARY_ATTENTION, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(ROTARY_ATTENTION, *FAULTS[fault])


def layer(module=rotary_attention, width=6, n_kv_head=2, **settings):
    sizes = (("q", 8, width), ("k", 2 * n_kv_head, width), ("v", 2 * n_kv_head, width), ("o", width, 8))
    linears = (Linear(array(name, rows, columns), transposed=True) for name, rows, columns in sizes)
    return module.RotarySelfAttention(*linears, 4, n_kv_head, RotaryPositions(2, base=100.0), **settings)


def layer_with_norms(module=rotary_attention, **settings):
    return layer(module, q_norm=RMSNorm(array("q_norm", 2)), k_norm=RMSNorm(array("k_norm", 2)), **settings)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_scores_are_those_of_complex_numbers(n_kv_head):
    """Heads of width 2 are complex numbers: the score of q and k is Re(q e^(is) conj(k e^(it))) / sqrt(2)."""
    attention, x = layer(n_kv_head=n_kv_head).eval(), array("x", 1, 5, 6)
    q, k, v = (
        (x[0] @ linear.weight.value.T).reshape(5, -1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    y = np.zeros((5, 4, 2))
    for h, t in np.ndindex(4, 5):
        g = h * n_kv_head // 4
        rotated = complex(*q[t, h]) * cmath.exp(1j * t)
        scores = [(rotated * (complex(*k[s, g]) * cmath.exp(1j * s)).conjugate()).real / 2**0.5 for s in range(t + 1)]
        y[t, h] = np.exp(scores) @ v[: t + 1, g] / np.exp(scores).sum()
    assert_close(attention.forward(x)[0], y.reshape(5, 8) @ attention.o_proj.weight.value.T)


@pytest.mark.parametrize("right, wrong", FAULTS_OF_NORMS.values(), ids=FAULTS_OF_NORMS.keys())
def test_faults_of_norms_are_caught(right, wrong):
    assert_caught(rotary_attention, right, wrong, layer_with_norms, array("x", 2, 5, 6), rng_key=KEY)


@pytest.mark.parametrize("window", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("make", [layer, layer_with_norms])
def test_gradients_with_a_window(make, window):
    gradcheck(make(window=window, dropout=0.2), array("x", 2, 5, 6), rng_key=KEY)


@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("norms", [False, True])
def test_forward_is_the_formula(window, norms):
    """The whole (T, T) matrix, in textbook lines."""
    attention, x = (layer_with_norms if norms else layer)(window=window).eval(), array("x", 2, 5, 6)
    q, k, v = (
        (x @ part.weight.value.T).reshape(2, 5, -1, 2).transpose(0, 2, 1, 3)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if norms:
        q = q / np.sqrt((q * q).mean(-1, keepdims=True) + 1e-5) * array("q_norm", 2)
        k = k / np.sqrt((k * k).mean(-1, keepdims=True) + 1e-5) * array("k_norm", 2)
    angle = np.arange(5.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # (2, 2, T)
    q, k = (np.einsum("det,bhte->bhtd", rotation, part) for part in (q, k))
    k, v = k.repeat(2, axis=1), v.repeat(2, axis=1)
    i, j = np.indices((5, 5))
    p = np.where((j <= i) & (j > i - window), np.exp(q @ k.swapaxes(2, 3) / np.sqrt(2)), 0)
    y = p / p.sum(-1, keepdims=True) @ v
    assert_close(attention.forward(x), y.transpose(0, 2, 1, 3).reshape(2, 5, 8) @ attention.o_proj.weight.value.T)


@pytest.mark.parametrize("window", [2, 4, 5, None])
@pytest.mark.parametrize("lengths", [None, (2, 3)])
def test_kernels_have_windows_and_documents(window, lengths):
    starts = packed_starts(lengths, 5)[None] if lengths else None
    attention, x = layer(window=window).to("cudasim"), to_device(array("x", 1, 5, 6).astype("float32"), "cudasim")
    for parameter in attention.parameters().values():
        parameter.value = parameter.value.astype("float32")
    y = attention.forward(x, starts=None if starts is None else to_device(starts, "cudasim"))
    assert attention._saved[0].backward is not attention_backward
    on_host = layer(window=window)
    expected = on_host.forward(array("x", 1, 5, 6), starts=starts)
    assert_close(to_host(y), expected, 1e-5)
    assert_close(to_host(attention.backward(y)), on_host.backward(expected), 1e-5)


def test_later_tokens_do_not_matter_and_the_order_does():
    attention, x = layer().eval(), array("x", 1, 5, 6)
    changed = x.copy()
    changed[:, 3:] += 1
    assert (attention.forward(x)[:, :3] == attention.forward(changed)[:, :3]).all()
    swapped = x[:, [1, 0, 2, 3, 4]]
    assert np.abs(attention.forward(swapped)[:, 4] - attention.forward(x)[:, 4]).max() > 1e-3


def test_only_distances_matter():
    """The same tokens, later: the same result, as long as nothing comes before them that they can see."""
    attention, x = layer().eval(), array("x", 1, 3, 6)
    expected = attention.forward(x)
    positions = attention.positions
    cos, sin = positions.tables(7, x)
    attention.positions.tables = lambda time, like: (cos[4 : 4 + time], sin[4 : 4 + time])
    assert_close(attention.forward(x), expected)


def test_tables_grow_and_have_their_dtype():
    positions = RotaryPositions(6, base=50.0)
    for time, dtype in ((3, np.float32), (9, np.float32), (2, np.float64)):
        tables = positions.tables(time, np.zeros(1, dtype))
        for got, expected in zip(tables, rotary_tables(time, 6, 50.0, dtype)):
            assert got.shape == (time, 3) and got.dtype == dtype
            assert (got == expected).all()


def test_dropout_needs_a_key_and_uses_it():
    attention = layer(dropout=0.5)
    x = array("x", 1, 4, 6)
    with pytest.raises(ValueError, match="needs an rng_key"):
        attention.forward(x)
    assert (attention.forward(x, KEY) != attention.forward(x, (1, "other"))).any()
    assert isinstance(attention, RotarySelfAttention)
