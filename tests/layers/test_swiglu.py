import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import swiglu
from minillm.layers.linear import Linear
from minillm.layers.swiglu import swiglu_forward


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("    dup *= dh\n", ""),
        ("    dgate = 1 - s\n", "    dgate = s.copy()\n"),
        ("    dgate += 1\n", ""),
        ("    dgate *= s\n", ""),
        ("    dgate *= up\n", ""),
        ("    dgate *= dh\n", ""),
        ("return downcast(dgate, like), downcast(dup, like)", "return downcast(dup, like), downcast(dgate, like)"),
    ],
)
def test_faults_are_caught(right, wrong):
    inputs = array("gate", 2, 3), array("up", 2, 3)
    assert_caught(swiglu, right, wrong, lambda m: (m.swiglu_forward, m.swiglu_backward), *inputs)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dx += self.up_proj.backward(dup)", "self.up_proj.backward(dup)"),  # one of the two ways forgotten
        ("self.gate_proj.backward(dgate)", "self.gate_proj.backward(dup)"),
    ],
)
def test_faults_in_the_layer_are_caught(right, wrong):
    def layer(module):
        shapes = (("gate", 7, 4), ("up", 7, 4), ("down", 4, 7))
        return module.SwiGLU(*(Linear(array(name, o, i), transposed=True) for name, o, i in shapes))

    assert_caught(swiglu, right, wrong, layer, array("x", 2, 3, 4))


def test_forward_is_the_formula():
    gate, up = 5 * array("gate", 4, 5), array("up", 4, 5)
    assert_close(swiglu_forward(gate, up)[0], gate / (1 + np.exp(-gate)) * up)


def test_large_values_do_not_overflow():
    gate = np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)
    h = swiglu_forward(gate, np.ones_like(gate))[0]
    assert_close(h, [0, 0, 0, 100, 1e4], 1e-6)
