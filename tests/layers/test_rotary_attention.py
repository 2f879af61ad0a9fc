import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import KEY, array
from minillm.layers import rotary_attention
from minillm.layers.linear import Linear
from minillm.layers.rotary import rotary_tables
from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention

FAULTS = [
    ("    dx += self.k_proj", "    self.k_proj"),
    ("    dx += self.v_proj", "    self.v_proj"),
    ("turn_back(contiguous(dq), saved_q)", "dq"),  # not turned back
    ("turn_back(contiguous(dk), saved_k)", "dk"),
    ("dq, dk, dv = ", "dq, dv, dk = "),
]


def layer(module=rotary_attention, width=6, n_kv_head=2, **settings):
    sizes = (("q", 8, width), ("k", 2 * n_kv_head, width), ("v", 2 * n_kv_head, width), ("o", width, 8))
    linears = (Linear(array(name, rows, columns), transposed=True) for name, rows, columns in sizes)
    return module.RotarySelfAttention(*linears, 4, n_kv_head, RotaryPositions(2, base=100.0), **settings)


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(rotary_attention, right, wrong, layer, array("x", 2, 5, 6), rng_key=KEY)


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
