import cmath

import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.errors import UserError
from minillm.layers import rotary
from minillm.layers.rotary import (
    Llama3Scaling,
    halves_to_interleaved,
    interleaved_to_halves,
    rotary_forward,
    rotary_tables,
)

TABLES = rotary_tables(5, 6, dtype="float64")


@pytest.mark.parametrize("interleaved", [False, True])
def test_faults_are_caught(interleaved):
    def pair(module):
        return (lambda x: module.rotary_forward(x, *TABLES, interleaved)), module.rotary_backward

    assert_caught(
        rotary,
        "_rotate(upcast(dy), cos, -sin, interleaved)",
        "_rotate(upcast(dy), cos, sin, interleaved)",
        pair,
        array("x", 1, 2, 5, 6),
    )


@pytest.mark.parametrize("interleaved", [False, True])
def test_pairs_are_rotated_as_complex_numbers(interleaved):
    """Equation 34: a pair, as one complex number, times exp(i t theta)."""
    x = array("x", 1, 1, 5, 6)
    y, _ = rotary_forward(x, *TABLES, interleaved)
    for t in range(5):
        for i in range(3):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
            turned = complex(x[0, 0, t, a], x[0, 0, t, b]) * cmath.exp(1j * t * 10000.0 ** (-2 * i / 6))
            assert_close([y[0, 0, t, a], y[0, 0, t, b]], [turned.real, turned.imag])


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_depend_on_the_distance_only(interleaved):
    q, k = np.tile(array("q", 6), (1, 1, 5, 1)), np.tile(array("k", 6), (1, 1, 5, 1))
    products = rotary_forward(q, *TABLES, interleaved)[0][0, 0] @ rotary_forward(k, *TABLES, interleaved)[0][0, 0].T
    for distance in range(-4, 5):
        diagonal = np.diagonal(products, distance)
        assert_close(diagonal, np.full_like(diagonal, diagonal[0]))


def test_length_is_kept():
    x = array("x", 2, 2, 5, 6)
    assert_close(np.linalg.norm(rotary_forward(x, *TABLES)[0], axis=-1), np.linalg.norm(x, axis=-1))


def test_the_order_of_pairs_is_a_matter_of_rows():
    """Projected, turned, multiplied: with rows moved, halves give the products that interleaved pairs gave."""
    weights = {name: array(name, 12, 4) for name in "qk"}  # 2 heads of width 6
    x = array("x", 1, 5, 4)

    def products(interleaved, weights):
        q, k = ((x @ w.T).reshape(1, 5, 2, 6).transpose(0, 2, 1, 3) for w in weights.values())
        q, k = (rotary_forward(y, *TABLES, interleaved)[0] for y in (q, k))
        return q @ k.transpose(0, 1, 3, 2)

    moved = {name: interleaved_to_halves(weight, 2) for name, weight in weights.items()}
    assert_close(products(False, moved), products(True, weights))
    assert np.abs(products(False, weights) - products(True, weights)).max() > 0.1
    assert (halves_to_interleaved(moved["q"], 2) == weights["q"]).all()
    assert (interleaved_to_halves(np.arange(12), 2) == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]).all()


def test_llama_3_scaling():
    """Fast pairs keep their angle, slow ones get 1/8 of it, and the change between is continuous and monotonic."""
    theta = 500_000.0 ** (-2 * np.arange(64) / 128)
    ratio = Llama3Scaling(8.0, 1.0, 4.0, 8192).stretched(theta) / theta
    turns = 8192 * theta / (2 * np.pi)
    assert (ratio[turns >= 4] == 1).all() and (ratio[turns <= 1] == 1 / 8).all()
    between = (turns > 1) & (turns < 4)
    assert between.sum() > 3 and (np.diff(ratio[between]) < 0).all()
    for n, got in zip(turns[between], ratio[between]):
        s = (n - 1) / 3
        assert got == pytest.approx((1 - s) / 8 + s, rel=1e-12)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(factor=0), "finite numbers above 0"),
        (dict(high_freq_factor=1.0), "must be above"),
        (dict(factor="8"), "fin"),
    ],
)
def test_impossible_scaling(fields, message):
    with pytest.raises(UserError, match=message):
        Llama3Scaling(**fields)
