"""Linear: gradients, formula, and the faults that these tests notice. The products are the BLAS's, or cuBLAS's."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import LINEAR, array
from minillm.layers.linear import Linear, linear_forward

FAULTS = {
    "dx is half of what it should be": ("dx = matmul(dy_rows, w.T,", "dx = matmul(dy_rows, w.T * 0.5,"),
    "dweight is a mean in place of a sum": (
        "dweight = matmul(rows.T, dy_rows,", "dweight = matmul(rows.T, dy_rows / len(rows),"),
    "dbias is a mean in place of a sum": (
        "dbias = sum_over_rows(dy_rows)", "dbias = sum_over_rows(dy_rows / len(dy_rows))"),
    "transposed: dweight is twice what it should be": (
        "dweight = matmul(dy_rows.T, rows,", "dweight = matmul(dy_rows.T, rows * 2,"),
}  # fmt: skip


@pytest.mark.parametrize("problem", LINEAR.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(LINEAR, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(LINEAR, *FAULTS[fault])


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_forward_is_the_formula(shape):
    x, w, b = array("x", *shape), array("w", shape[-1], 5), array("b", 5)
    expected = np.empty((*shape[:-1], 5))
    for position in np.ndindex(*shape[:-1]):
        for j in range(5):
            expected[(*position, j)] = sum(x[(*position, i)] * w[i, j] for i in range(shape[-1])) + b[j]
    assert_close(linear_forward(x, w, b)[0], expected)
    assert_close(linear_forward(x, np.ascontiguousarray(w.T), b, transposed=True)[0], expected)


def test_input_that_is_not_contiguous():
    x = array("x", 4, 3, 2).transpose(1, 0, 2)
    assert_close(linear_forward(x, array("w", 2, 5))[0], x @ array("w", 2, 5))


class TestOrderOfCalls:
    def test_backward_before_forward(self):
        with pytest.raises(RuntimeError, match="Linear: backward has nothing to work from: call forward first"):
            Linear(array("w", 4, 5)).backward(array("dy", 2, 5))

    def test_backward_twice(self):
        layer = Linear(array("w", 4, 5))
        layer.forward(array("x", 2, 4))
        layer.backward(array("dy", 2, 5))
        with pytest.raises(RuntimeError, match="once for each forward"):
            layer.backward(array("dy", 2, 5))

    def test_backward_in_evaluation_mode(self):
        layer = Linear(array("w", 4, 5)).eval()
        layer.forward(array("x", 2, 4))
        with pytest.raises(RuntimeError, match=r"call train\(\) first"):
            layer.backward(array("dy", 2, 5))

    def test_gradients_add_up_until_zero_grad(self):
        layer, x, dy = Linear(array("w", 4, 5)), array("x", 2, 4), array("dy", 2, 5)
        layer.forward(x)
        layer.backward(dy)
        once = layer.weight.grad.copy()
        layer.forward(x)
        layer.backward(dy)
        assert_close(layer.weight.grad, 2 * once)
        layer.zero_grad()
        assert layer.weight.grad is None


def test_gradient_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"gradient of shape \(5, 4\) for a parameter of shape \(4, 5\)"):
        Linear(array("w", 4, 5)).weight.add_grad(array("g", 5, 4))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LINEAR)
