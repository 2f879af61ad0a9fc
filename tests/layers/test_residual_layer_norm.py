import numpy as np
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import residual_layer_norm
from minillm.layers.layer_norm import layer_norm_forward
from minillm.layers.residual_layer_norm import residual_layer_norm_forward

INPUTS = (array("x", 2, 3, 8), array("delta", 2, 3, 8), array("w", 8), array("b", 8))


def test_fault_is_caught():
    def pair(module):
        def forward(*inputs):
            results, saved = module.residual_layer_norm_forward(*inputs)
            return np.stack(results), saved

        def backward(dresults, saved):
            dx, dweight, dbias = module.residual_layer_norm_backward(*dresults, saved)
            return dx, dx, dweight, dbias

        return forward, backward

    assert_caught(residual_layer_norm, "dx += upcast(dsum)", "pass", pair, *INPUTS)


def test_forward_is_a_sum_and_its_norm():
    x, delta, weight, bias = INPUTS
    (total, y), _ = residual_layer_norm_forward(x, delta, weight, bias)
    assert_close(total, x + delta)
    assert_close(y, layer_norm_forward(x + delta, weight, bias)[0])
