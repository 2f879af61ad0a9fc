"""The head fused with its loss: gradients, formula, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_caught, assert_close, assert_gradients

from minillm.checks.cases import LINEAR_CROSS_ENTROPY, array
from minillm.layers import linear_cross_entropy
from minillm.layers.cross_entropy import cross_entropy_forward
from minillm.layers.layer import Parameter
from minillm.layers.linear import linear_backward, linear_forward
from minillm.layers.linear_cross_entropy import LinearCrossEntropy, linear_cross_entropy_forward

TARGETS = np.array([[1, 0, 5], [3, -100, 1]])

FAULTS = {
    "only the last chunk counts": ("out=dweight[strip], add=start > 0)", "out=dweight[strip])"),
    "no gradient of x": ("matmul(dlogits, weight, out=dx[chunk])", "dx[chunk] = 0"),
}


@pytest.mark.parametrize("problem", LINEAR_CROSS_ENTROPY.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(LINEAR_CROSS_ENTROPY, problem)


def smallest_chunks(module):
    """The layer of a module, a row of logits at a time."""
    module.CHUNK_LOGITS, module.STRIP_ROWS = dict.fromkeys(module.CHUNK_LOGITS, 1), 4
    return module.LinearCrossEntropy(Parameter(array("w", 6, 4)))


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault, monkeypatch):
    for name in ("CHUNK_LOGITS", "STRIP_ROWS"):
        monkeypatch.setattr(linear_cross_entropy, name, getattr(linear_cross_entropy, name))
    assert_caught(linear_cross_entropy, *FAULTS[fault], smallest_chunks, array("x", 2, 3, 4), TARGETS)


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("strip_rows", [1, 4, 6, 100])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_forward_is_the_formula(monkeypatch, chunk_rows, strip_rows, label_smoothing):
    monkeypatch.setattr(linear_cross_entropy, "STRIP_ROWS", strip_rows)
    x, weight = array("x", 2, 3, 4), array("w", 6, 4)
    logits, saved = linear_forward(x, weight, transposed=True)
    loss, dlogits = cross_entropy_forward(logits, TARGETS, label_smoothing=label_smoothing)
    dx, dweight, _ = linear_backward(dlogits, saved)

    fused = linear_cross_entropy_forward(x, weight, TARGETS, label_smoothing=label_smoothing, chunk_rows=chunk_rows)
    assert fused[0] == pytest.approx(loss, rel=1e-13)
    assert_close(fused[1][0], dx)
    assert_close(fused[1][1], dweight)


def test_gradient_is_linear_in_dloss():
    layer = LinearCrossEntropy(Parameter(array("w", 6, 4)))
    layer.forward(array("x", 2, 3, 4), TARGETS)
    dx = layer.backward()
    dweight = layer.weight.grad.copy()
    layer.zero_grad()
    layer.forward(array("x", 2, 3, 4), TARGETS)
    assert_close(layer.backward(3.0), 3 * dx)
    assert_close(layer.weight.grad, 3 * dweight)


def test_evaluation_computes_the_loss_only_and_without_smoothing():
    layer = LinearCrossEntropy(Parameter(array("w", 6, 4)), label_smoothing=0.3).eval()
    loss = layer.forward(array("x", 2, 3, 4), TARGETS)
    assert loss == linear_cross_entropy_forward(array("x", 2, 3, 4), array("w", 6, 4), TARGETS)[0]
    assert layer.weight.grad is None
    with pytest.raises(RuntimeError):
        layer.backward()


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LINEAR_CROSS_ENTROPY)
