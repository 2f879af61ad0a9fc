"""The attention of Llama: gradients, formula, and the faults that these tests notice."""

import cmath

import numpy as np
import pytest
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import KEY, ROTARY_ATTENTION, array
from minillm.layers.linear import Linear
from minillm.layers.rotary import rotary_tables
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention

FAULTS = {
    "no path through the keys": ("    dx += self.k_proj", "    self.k_proj"),
    "no path through the values": ("    dx += self.v_proj", "    self.v_proj"),
    "dq not rotated back": ("turn_back(contiguous(dq), saved_q)", "dq"),
    "dk not rotated back": ("turn_back(contiguous(dk), saved_k)", "dk"),
    "dk and dv exchanged": ("dq, dk, dv = ", "dq, dv, dk = "),
}


@pytest.mark.parametrize("problem", ROTARY_ATTENTION.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(ROTARY_ATTENTION, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(ROTARY_ATTENTION, *FAULTS[fault])


def layer(width=6, n_kv_head=2, **settings):
    sizes = (("q", 8, width), ("k", 2 * n_kv_head, width), ("v", 2 * n_kv_head, width), ("o", width, 8))
    linears = (Linear(array(name, rows, columns), transposed=True) for name, rows, columns in sizes)
    return RotarySelfAttention(*linears, 4, n_kv_head, RotaryPositions(2, base=100.0), **settings)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_forward_is_the_formula(n_kv_head):
    """Heads of width 2 are complex numbers: the score of q and k is Re(q e^(is) conj(k e^(it))) / sqrt(2)."""
    attention, x = layer(n_kv_head=n_kv_head).eval(), array("x", 1, 5, 6)
    q, k, v = (
        (x[0] @ linear.weight.value.T).reshape(5, -1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    y = np.zeros((5, 4, 2))
    for h, t in np.ndindex(4, 5):
        g = h * n_kv_head // 4
        turned = complex(*q[t, h]) * cmath.exp(1j * t)
        scores = [(turned * (complex(*k[s, g]) * cmath.exp(1j * s)).conjugate()).real / 2**0.5 for s in range(t + 1)]
        y[t, h] = np.exp(scores) @ v[: t + 1, g] / np.exp(scores).sum()
    assert_close(attention.forward(x)[0], y.reshape(5, 8) @ attention.o_proj.weight.value.T)


def test_later_tokens_do_not_matter_and_the_order_does():
    attention, x = layer().eval(), array("x", 1, 5, 6)
    changed = x.copy()
    changed[:, 3:] += 1
    assert (attention.forward(x)[:, :3] == attention.forward(changed)[:, :3]).all()
    swapped = x[:, [1, 0, 2, 3, 4]]
    assert np.abs(attention.forward(swapped)[:, 4] - attention.forward(x)[:, 4]).max() > 1e-3


def test_only_distances_matter():
    """The same tokens, later: the same result, as long as nothing stands before them that they can see."""
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
