"""LoRA: gradients, formula, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import LORA, LORA_LINEAR, array
from minillm.layers.cache import Cache
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear, lora_forward

FAULTS = {
    "dh not scaled": ("    dh *= scale\n", ""),
    "db scaled twice": ("db = matmul(dy_rows.T, h,", "db = matmul(dy_rows.T, h * scale,"),
    "da is a mean in place of a sum": ("da = matmul(dh.T, rows,", "da = matmul(dh.T, rows / len(rows),"),
    "no path to x": ("matmul(dh, a).reshape", "matmul(0 * dh, a).reshape"),
}

LAYER_FAULTS = {
    "the added path is left out of dx": ("dx += dx_added", "pass"),
    "the base path is left out of dx": ("dx = super().backward(dy, dx)", "dx = 0 * super().backward(dy)"),
}


@pytest.mark.parametrize("case, problem", [(case, p) for case in (LORA, LORA_LINEAR) for p in case.gradcheck], ids=str)
def test_gradients(case, problem):
    assert_gradients(case, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(LORA, *FAULTS[fault])


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_faults_in_the_layer_are_caught(fault):
    assert_gradcheck_catches(LORA_LINEAR, *LAYER_FAULTS[fault])


def test_forward_is_the_formula():
    x, a, b = array("x", 2, 3, 4), array("a", 2, 4), array("b", 5, 2)
    assert_close(lora_forward(x, a, b, 0.7)[0], 0.7 * np.einsum("bti,ri,or->bto", x, a, b))


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


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LORA)
