import cmath

import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.gradcheck_catalogue import array
from minillm.layers import rotary
from minillm.layers.rotary import rotary_forward, rotary_tables

TABLES = rotary_tables(5, 6, dtype="float64")


@pytest.mark.parametrize("interleaved", [False, True])
def test_faults_are_caught(interleaved):
    def pair(module):
        return (lambda x: module.rotary_forward(x, *TABLES, interleaved)), module.rotary_backward

    assert_caught(
        rotary,
        "_turned(dy, cos, -sin, interleaved)",
        "_turned(dy, cos, sin, interleaved)",
        pair,
        array("x", 1, 2, 5, 6),
    )


@pytest.mark.parametrize("interleaved", [False, True])
def test_pairs_are_turned_as_complex_numbers(interleaved):
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
