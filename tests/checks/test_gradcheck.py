import numpy as np
import pytest

import minillm
from minillm.checks.cases import array, run
from minillm.checks.gradcheck import GradientError, finite_differences
from minillm.errors import UserError
from minillm.layers.linear import Linear


def test_finite_differences_of_a_known_function():
    x = array("x", 3, 4)
    assert np.abs(finite_differences(lambda: float(np.sin(x).sum()), x) - np.cos(x)).max() < 1e-11


def test_the_error_names_everything():
    class Wrong(Linear):
        def backward(self, dy):
            dx = super().backward(dy)
            self.weight.grad[2, 1] += 1e-4
            return dx

    with pytest.raises(GradientError) as caught:
        minillm.gradcheck(Wrong(array("w", 4, 5)), array("x", 2, 4))
    message = str(caught.value)
    assert "Wrong: the gradient of weight (4, 5) is wrong at (2, 1): backward gives" in message
    assert "finite differences with step 0.001 give" in message
    row = caught.value.report.worst
    assert row.analytic - row.numeric == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("size", [1e-5, -1e-5])
def test_an_error_in_the_sixth_digit_is_seen(size):
    class Wrong(Linear):
        def backward(self, dy):
            return super().backward(dy) * (1 + size)

    with pytest.raises(GradientError):
        minillm.gradcheck(Wrong(array("w", 4, 5)), array("x", 2, 4))


def test_not_a_number_fails():
    class Wrong(Linear):
        def backward(self, dy):
            return super().backward(dy) * np.nan

    with pytest.raises(GradientError):
        minillm.gradcheck(Wrong(array("w", 4, 5)), array("x", 2, 4))


def test_wrong_shape_fails():
    with pytest.raises(GradientError):
        minillm.gradcheck((lambda x: (2 * x, None), lambda dy, saved: 2 * dy[:1]), array("x", 2, 3))


def test_float32_is_refused():
    with pytest.raises(TypeError, match="weight is float32, gradients are checked in float64"):
        minillm.gradcheck(Linear(array("w", 4, 5).astype(np.float32)), array("x", 2, 4))


def test_layer_is_left_without_gradients():
    layer = Linear(array("w", 4, 5))
    report = minillm.gradcheck(layer, array("x", 2, 4))
    assert layer.weight.grad is None
    assert [row.tensor for row in report.rows] == ["input 0", "weight"]
    assert "weight" in str(report)


def test_a_report_says_that_it_passed_wherever_it_is_shown():
    report = minillm.gradcheck(Linear(array("w", 4, 5)), array("x", 2, 4))
    assert repr(report) == str(report)
    assert str(report).startswith("Linear, step 0.001: 1 input, 1 parameter: passed, largest relative error ")


def test_inputs_have_the_names_they_are_given():
    report = minillm.gradcheck(Linear(array("w", 4, 5)), array("x", 2, 4), input_names=["x"])
    assert [row.tensor for row in report.rows] == ["x", "weight"]
    with pytest.raises(TypeError, match="input_names has 2 names for 1 input"):
        minillm.gradcheck(Linear(array("w", 4, 5)), array("x", 2, 4), input_names=["x", "y"])


def test_reports_name_the_inputs_of_an_operation():
    reports = {report.name: report for _, report in run(["residual_layer_norm"])}
    norm, plain = reports["residual_layer_norm"], reports["residual_layer_norm, no biases"]
    assert [row.tensor for row in norm.rows] == ["x", "delta", "weight", "bias", "delta_bias"]
    assert [row.tensor for row in plain.rows] == ["x", "delta", "weight"]
    assert [report.name for _, report in run(["swiglu"])] == ["swiglu", "swiglu MLP, no bias", "swiglu MLP, bias"]


def test_unknown_name():
    with pytest.raises(UserError, match='no gradient check is named "relu"'):
        list(run(["linear", "relu"]))
