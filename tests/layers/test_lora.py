import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import lora
from minillm.layers.cache import Cache
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("    dh *= scale\n", ""),
        ("db = matmul(dy_rows.T, h,", "db = matmul(dy_rows.T, h * scale,"),  # scaled twice
        ("da = matmul(dh.T, rows,", "da = matmul(dh.T, rows / len(rows),"),
        ("matmul(dh, a).reshape", "matmul(0 * dh, a).reshape"),
    ],
)
def test_faults_are_caught(right, wrong):
    def pair(module):
        return (lambda x, a, b: module.lora_forward(x, a, b, 0.7)), module.lora_backward

    assert_caught(lora, right, wrong, pair, array("x", 2, 3, 4), array("a", 2, 4), array("b", 5, 2))


@pytest.mark.parametrize(
    "right, wrong", [("dx += dx_added", "pass"), ("dx = super().backward(dy)", "dx = 0 * x_of(saved)")]
)
def test_faults_in_the_layer_are_caught(right, wrong):
    def layer(module):
        module.x_of = lambda saved: saved[0]
        return module.LoRALinear(Linear(array("w", 4, 5)), array("a", 2, 4), array("b", 5, 2), alpha=3.0)

    assert_caught(lora, right, wrong, layer, array("x", 2, 3, 4))


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_merged_computes_the_same(transposed):
    weight = array("w", 5, 4) if transposed else array("w", 4, 5)
    layer = LoRALinear(Linear(weight, array("bias", 5), transposed), array("a", 2, 4), array("b", 5, 2), alpha=3.0)
    x = array("x", 2, 3, 4)
    expected = layer.forward(x)
    assert_close(Linear(layer.merged_weight(), array("bias", 5), transposed).forward(x), expected)
    assert_close(layer.decode(x, Cache(x, 2)), expected)
    assert np.abs(Linear(weight, array("bias", 5), transposed).forward(x) - expected).max() > 0.1


def test_the_weight_and_the_bias_get_no_gradient():
    layer = LoRALinear(Linear(array("w", 4, 5), array("bias", 5)), array("a", 2, 4), array("b", 5, 2), alpha=3.0)
    layer.forward(array("x", 3, 4))
    layer.backward(array("dy", 3, 5))
    got = {name for name, parameter in layer.parameters().items() if parameter.grad is not None}
    assert got == {"lora_A", "lora_B"}
