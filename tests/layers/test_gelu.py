import math

import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import array
from minillm.layers import gelu
from minillm.layers.gelu import GELU, erf, gelu_forward

FAULTS = {
    "tanh": [
        ("slope += gate", "pass"),
        ("slope *= x\n    slope += gate", "slope += gate"),
        ("slope *= 1 - gate", "pass"),
        ("slope *= 3 * A * C * 2", "slope *= A * C * 2"),
    ],
    "none": [("slope *= -0.5", "slope *= 0.5"), ("slope *= 1 / math.sqrt(2 * math.pi)", "pass")],
}


@pytest.mark.parametrize("form, right, wrong", [(form, *fault) for form, faults in FAULTS.items() for fault in faults])
def test_faults_are_caught(form, right, wrong):
    assert_caught(gelu, right, wrong, lambda m: m.GELU(form), array("x", 4, 5))


def test_fault_in_the_bias_is_caught():
    fault = ("dtype=dx.dtype) @ dx_rows if", "dtype=dx.dtype) @ dx_rows / len(dx_rows) if")
    assert_caught(gelu, *fault, lambda m: (m.gelu_forward, m.gelu_backward), array("x", 4, 5), array("b", 5))


def test_forms():
    x = np.linspace(-6, 6, 101)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    tanh = np.array([0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x])
    assert_close(gelu_forward(x, approximate="none")[0], exact, 1e-14)
    assert_close(gelu_forward(x)[0], tanh, 1e-14)
    assert 1e-4 < np.abs(exact - tanh).max() < 6e-4  # not the same function


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 4e-14), (np.float32, 3e-7)])
def test_erf(dtype, tolerance):
    x = np.concatenate([np.linspace(-8, 8, 4001), [0.0, 1e-300, -1e-30, 1e-8, 30, -1e6]]).astype(dtype)
    expected = np.array([math.erf(float(v)) for v in x])
    assert np.abs(erf(x) - expected).max() <= tolerance
    small = np.array([1e-30, -1e-8], dtype)
    assert np.allclose(erf(small) / small, 2 / math.sqrt(math.pi), rtol=1e-6)


def test_unknown_form():
    with pytest.raises(ValueError, match="approximate is 'relu'"):
        GELU("relu").forward(array("x", 3))
