import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import layer_norm
from minillm.layers.layer_norm import layer_norm_forward

FAULTS = [
    ("dx -= (dnormed @ average)[:, None]", "pass"),  # the path through the mean
    ("dx -= xp.multiply(normed, along_normed[:, None], out=product)", "pass"),  # the path through the variance
    ("dx *= rstd[:, None]", "pass"),
    ("dweight = ones @ product", "dweight = ones @ dy_rows"),
    ("dbias = ones @ dy_rows", "dbias = ones @ product"),
    ("dnormed = dy_rows * weight", "dnormed = dy_rows.copy()"),
    ("dweight = ones @ product", "dweight = ones @ product / count"),  # mean in place of sum
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    if right == "dnormed = dy_rows * weight":
        right += "\n"
        wrong += "\n"
    assert_caught(layer_norm, right, wrong, lambda m: m.LayerNorm(array("w", 8), array("b", 8)), array("x", 2, 3, 8))


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (2, 3, 7)])
def test_forward_is_the_formula(shape):
    x, weight, bias = array("x", *shape), array("w", shape[-1]), array("b", shape[-1])
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    assert_close(layer_norm_forward(x, weight, bias)[0], expected, 1e-10)


def test_large_mean_does_not_cancel():
    x = array("x", 4, 64) + 1e4
    y, _ = layer_norm_forward(x.astype(np.float32), np.ones(64, np.float32))
    expected = layer_norm_forward(x, np.ones(64))[0]
    assert_close(y, expected, 2e-3)
