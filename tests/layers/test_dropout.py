import numpy as np
import pytest
from planting import assert_caught

from minillm.checks.cases import KEY, array
from minillm.layers import dropout
from minillm.layers.dropout import Dropout, dropout_backward, dropout_factor, dropout_forward


@pytest.mark.parametrize("wrong", ["return dy", "return dy * (factor != 0)"])  # no mask; no scale
def test_faults_are_caught(wrong):
    assert_caught(
        dropout,
        "return downcast(upcast(dy) * factor, dy)",
        wrong,
        lambda m: m.Dropout(0.4),
        array("x", 3, 4, 5),
        rng_key=KEY,
    )


def test_the_key_decides():
    x = array("x", 50, 20)
    assert (dropout_forward(x, 0.5, (1, 2))[0] == dropout_forward(x, 0.5, (1, 2))[0]).all()
    assert (dropout_forward(x, 0.5, (1, 2))[0] != dropout_forward(x, 0.5, (1, 3))[0]).any()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_fraction_and_scale(p):
    y, saved = dropout_forward(np.ones((400, 250)), p, (3,))
    kept = y != 0
    assert np.unique(y[kept]) == pytest.approx(1 / (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / y.size) + 1e-12
    assert (dropout_backward(np.ones_like(y), saved) == y).all()


def test_mask_of_a_part_is_the_part_of_the_mask():
    whole = dropout_factor((7, 3, 5), 0.5, (4,), np.zeros(1))
    for first, last in [(0, 7), (1, 4), (3, 7), (6, 7)]:
        part = dropout_factor((last - first, 3, 5), 0.5, (4,), np.zeros(1), first)
        assert (part == whole[first:last]).all()


def test_layers_of_different_names_drop_differently():
    first, second = Dropout(0.5), Dropout(0.5)
    first.name, second.name = "h.0", "h.1"
    x = array("x", 20, 20)
    assert (first.forward(x, KEY) != second.forward(x, KEY)).any()


def test_evaluation_mode_and_zero_probability_do_nothing():
    x = array("x", 4, 4)
    assert Dropout(0.5).eval().forward(x) is x
    assert Dropout(0.0).forward(x) is x


def test_a_key_is_needed():
    with pytest.raises(ValueError, match=r"needs an rng_key in training mode: pass rng_key=\(seed, step\)"):
        Dropout(0.5).forward(array("x", 4))
