import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import softmax
from minillm.layers.softmax import row_max, row_sum, softmax_forward

FAULTS = [
    ("return p * (dp - average)", "return p * dp"),
    ("return p * (dp - average)", "return dp - average"),
    ("average = row_sum(dp * p)", "average = dp.mean(axis=-1, keepdims=True)"),
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(softmax, right, wrong, lambda m: m.Softmax(), array("x", 2, 3, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    large = softmax_forward(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]], dtype))[0]
    assert_close(large, np.array([[0.5, 0, 0.5], [1 / 3] * 3]), 1e-6)
    assert softmax_forward(np.array([[7.0]], dtype))[0] == 1  # one class
    masked = softmax_forward(np.array([[0.0, -np.inf]], dtype))[0]
    assert masked.tolist() == [[1, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 64), (2, 2, 2, 65)])
def test_rows(shape):
    x = array("x", *shape)
    assert (row_max(x) == x.max(axis=-1, keepdims=True)).all()
    assert_close(row_sum(x), x.sum(axis=-1, keepdims=True))
    assert_close(softmax_forward(x)[0].sum(axis=-1), np.ones(shape[:-1]))
