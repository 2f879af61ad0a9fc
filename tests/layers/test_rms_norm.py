import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import rms_norm
from minillm.layers.rms_norm import rms_norm_forward

FAULTS = [
    ("dx -= xp.multiply(normed, along_normed[:, None], out=product)", "pass"),  # the path through the root mean square
    ("dx *= rstd[:, None]", "pass"),
    ("dx = dy_rows * weight\n", "dx = dy_rows.copy()\n"),
    ("dtype=dy_rows.dtype) @ product  #", "dtype=dy_rows.dtype) @ product / count  #"),  # mean in place of sum
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(rms_norm, right, wrong, lambda m: m.RMSNorm(array("w", 8)), array("x", 2, 3, 8))


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (2, 3, 7)])
def test_forward_is_the_formula(shape):
    x, weight = array("x", *shape), array("w", shape[-1])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
    assert_close(rms_norm_forward(x, weight)[0], expected)
