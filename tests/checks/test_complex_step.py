"""The complex step: what it sees that finite differences do not, and where it has no say."""

import numpy as np
import pytest

import minillm
from minillm.checks.cases import CASES, GRADCHECKED, array, check_gradients
from minillm.checks.gradcheck import GradientError
from minillm.layers.linear import Linear

MODELS = [
    (case, problem)
    for name in ("gpt2", "llama", "qwen2", "qwen3", "mistral")
    for case in GRADCHECKED[name]
    for problem in case.gradcheck
]
# How forward computes these is not analytic for NumPy: finite differences check them.
BY_DIFFERENCES = {"dpo", "part of a DPO loss", "preference"}


@pytest.mark.parametrize("case, problem", MODELS, ids=[case.label(problem) for case, problem in MODELS])
def test_every_tensor_of_the_models_to_twelve_digits(case, problem):
    report = check_gradients(case, problem, method="complex", tolerance=1e-12)
    assert not any("by finite differences" in note for note in report.notes)
    assert report.worst.error <= 1e-12


@pytest.mark.parametrize("case", [case for case in CASES if case.gradcheck and "models" not in case.home], ids=str)
def test_every_layer(case):
    for problem in case.gradcheck[:1]:
        report = check_gradients(case, problem, method="complex")
        taken_over = any("by finite differences" in note for note in report.notes)
        assert taken_over == (case.name in BY_DIFFERENCES), report


class OffBy(Linear):
    """A gradient that is wrong by a part in 1e9."""

    error = 1e-9

    def backward(self, dy):
        return super().backward(dy) * (1 + self.error)


def test_an_error_that_finite_differences_cannot_see():
    layer, x = OffBy(array("w", 4, 5)), array("x", 2, 4)
    assert minillm.gradcheck(layer, x).verdict == "passed"
    with pytest.raises(
        GradientError, match=r"the gradient of input 0 \(2, 4\) is wrong .* the complex step gives"
    ) as caught:
        minillm.gradcheck(layer, x, method="complex")
    assert caught.value.report.worst.error == pytest.approx(1e-9, rel=1e-3)


def test_a_choice_by_comparison_is_seen_through():
    forward, backward = (lambda x: (np.maximum(x, 0), x)), (lambda dy, x: dy * (x > 0))
    report = minillm.gradcheck((forward, backward), array("x", 3, 4), method="complex")
    assert not report.notes and report.worst.error < 1e-15


@pytest.mark.parametrize(
    "function, derivative, why",
    [
        (np.abs, np.sign, "forward gives real numbers of complex ones"),
        (lambda x: 0.5 * (x + np.abs(x)), lambda x: (x > 0) * 1.0, "forward loses imaginary parts, as abs"),
        (np.cbrt, lambda x: 1 / (3 * np.cbrt(x) ** 2), "forward does not take complex numbers (TypeError"),
        (lambda x: x.astype(np.float64) ** 2, lambda x: 2 * x, "forward does not take complex numbers (ComplexWarning"),
    ],
    ids=["abs", "relu by abs", "cbrt", "cast"],
)
def test_finite_differences_take_over(function, derivative, why):
    x = array("x", 3, 4)
    report = minillm.gradcheck((lambda x: (function(x), x), lambda dy, x: dy * derivative(x)), x, method="complex")
    assert report.verdict == "passed"
    (note,) = report.notes
    assert note.startswith("input 0 by finite differences: ") and why in note


def test_a_wrong_gradient_that_the_lost_imaginary_part_would_confirm():
    """abs() of a complex number is real: the complex step alone would give 0, as this backward does."""
    forward, backward = (lambda x: (x + 0 * np.abs(x) + np.abs(x), x)), (lambda dy, x: dy)
    with pytest.raises(GradientError, match="finite differences with step 0.001"):
        minillm.gradcheck((forward, backward), array("x", 3, 4), method="complex")


def test_parameters_and_inputs_are_as_they_were():
    layer, x = Linear(array("w", 4, 5), array("b", 5)), array("x", 2, 4)
    weight, before = layer.weight.value, layer.weight.value.copy()
    minillm.gradcheck(layer, x, method="complex")
    assert layer.weight.value is weight and (weight == before).all() and weight.dtype == np.float64


def test_an_unknown_method():
    with pytest.raises(ValueError, match="method is 'exact': use differences or complex"):
        minillm.gradcheck(Linear(array("w", 4, 5)), array("x", 2, 4), method="exact")
