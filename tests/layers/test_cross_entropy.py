import math

import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import cross_entropy
from minillm.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward

TARGETS = np.array([[1, 0, 5], [3, -100, 1]])
FAULTS = [
    ("p[rows, t] -= (1 - label_smoothing) * scale", "pass"),  # softmax without the one-hot
    ("scale = (counted / count)", "scale = (counted / 1)"),  # sum in place of mean
    ("scale = (counted / count)", "scale = (1 / count + 0 * counted)"),  # ignored rows get a gradient
    ("p *= (scale / total)[:, None]", "p *= scale[:, None]"),
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(cross_entropy, right, wrong, lambda m: m.CrossEntropy(), array("z", 2, 3, 6), TARGETS)


def test_fault_in_label_smoothing_is_caught():
    fault = ("p -= (label_smoothing / vocabulary * scale)[:, None]", "pass")
    assert_caught(cross_entropy, *fault, lambda m: m.CrossEntropy(label_smoothing=0.2), array("z", 2, 3, 6), TARGETS)


def test_fault_in_dloss_is_caught():
    loss, saved = cross_entropy_forward(array("z", 2, 6), np.array([1, 2]))
    gradient = saved.copy()
    assert_close(cross_entropy_backward(3.0, saved), 3 * gradient)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_is_the_formula(label_smoothing):
    z = array("z", 2, 3, 6)
    losses = []
    for row, target in zip(z.reshape(-1, 6), TARGETS.ravel()):
        if target != -100:
            q = np.full(6, label_smoothing / 6)
            q[target] += 1 - label_smoothing
            losses.append(-sum(q * (row - math.log(sum(math.exp(v) for v in row)))))
    loss, _ = cross_entropy_forward(z.copy(), TARGETS, label_smoothing=label_smoothing)
    assert loss == pytest.approx(np.mean(losses), rel=1e-13)


@pytest.mark.parametrize("vocabulary", [1, 2, 65, 50257])
@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_prediction(vocabulary, level, dtype):
    """Identical logits: the loss is ln V and the perplexity V. With one class there is nothing to be unsure about."""
    loss, gradient = cross_entropy_forward(np.full((3, vocabulary), level, dtype), np.zeros(3, int))
    assert loss == pytest.approx(math.log(vocabulary), rel=1e-6, abs=1e-12)
    assert math.exp(loss) == pytest.approx(vocabulary, rel=1e-5)
    assert abs(gradient.sum()) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand(dtype):
    z = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    loss, gradient = cross_entropy_forward(z, np.array([0, 1]))
    assert loss == pytest.approx(1e4)  # 0 for the first row, 20,000 for the second
    assert_close(gradient, np.array([[0, 0, 0], [0.5, -0.5, 0]]))


def test_gradient_is_written_over_the_logits():
    z = array("z", 4, 6)
    assert np.shares_memory(cross_entropy_forward(z, np.array([0, 1, 2, 3]))[1], z)


def test_all_ignored():
    with pytest.raises(ValueError, match="all 2 targets are ignore_index"):
        cross_entropy_forward(array("z", 2, 6), np.array([-100, -100]))
