import math

import numpy as np
import pytest

from minillm.layers.layer_norm import LayerNorm
from minillm.lessons import wrong_gradient
from minillm.lessons.wrong_gradient import WithoutMean, WrongGPT2, check, figures_of, findings_of
from minillm.models.gpt2 import GPT2, GPT2Config

RIGHT = [6.2, 5.2, 4.6, 4.2, 3.9]
WRONG = [6.2, 5.4, 4.7, 4.3, 4.0]
SEED = [6.2, 5.1, 4.7, 4.2, 3.95]


@pytest.fixture(scope="module")
def checks():
    return {"right": check(LayerNorm), "without mean": check(WithoutMean)}


def findings(checks, right=RIGHT, wrong=WRONG):
    histories = {"right": right, "without mean": wrong, "another seed": SEED}
    return [finding.holds for finding in findings_of(figures_of(histories, checks))]


def test_what_the_lesson_claims(draw):
    measured = wrong_gradient.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["wrong: perplexity"] > 1.03 * figures["right: perplexity"]
    assert figures["wrong: last"] < 4.6 and figures["behind"] >= 8
    curves, bars = draw(measured).axes
    assert [len(line.get_xdata()) for line in curves.lines] == [wrong_gradient.STEPS // wrong_gradient.EVERY + 1] * 3
    assert [math.exp(line.get_ydata()[-1]) for line in curves.lines[:2]] == pytest.approx(
        [figures["right: perplexity"], figures["wrong: perplexity"]]
    )
    assert [bar.get_height() for bar in bars.patches] == [figures["right: error"], figures["wrong: error"]]
    assert bars.get_yscale() == "log"


def test_each_finding_can_fail(checks):
    assert findings(checks) == [True] * 4
    assert findings(checks, wrong=[6.2, 6.1, 6.0, 5.9, 5.8])[0] is False  # it does not learn
    assert findings(checks, wrong=[6.2, 5.4, 4.7, 5.1, 4.0])[0] is False  # a jump
    assert findings(checks, wrong=[6.2, 5.9, 5.4, 5.0, 4.6])[1] is False  # far from the right one
    assert findings(checks, wrong=RIGHT)[2] is False  # nothing is lost
    assert findings({"right": checks["right"], "without mean": checks["right"]})[3] is False  # the check sees nothing
    assert findings({"right": checks["without mean"], "without mean": checks["without mean"]})[3] is False


def test_the_term_is_left_out_and_nothing_else(checks):
    """dx by the formula without the mean; the forward pass and the other gradients are those of a layer norm."""
    rng = np.random.default_rng(0)
    x, dy, weight, bias = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 3, 8)), rng.normal(size=8), rng.normal(size=8)
    right, wrong = LayerNorm(weight, bias), WithoutMean(weight, bias)
    np.testing.assert_array_equal(wrong.forward(x), right.forward(x))
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + right.eps)
    n, g = (x - x.mean(-1, keepdims=True)) * rstd, dy * weight
    expected = rstd * (g - n * (g * n).mean(-1, keepdims=True))
    np.testing.assert_allclose(wrong.backward(dy), expected, rtol=1e-12)
    assert np.abs(right.backward(dy) - expected).max() > 0.1
    for name, parameter in right.parameters().items():
        np.testing.assert_array_equal(wrong.parameters()[name].grad, parameter.grad)
    assert checks["right"].verdict == "passed" and checks["without mean"].verdict == "wrong"
    assert checks["without mean"].errors["x"] > 0.1 and checks["right"].worst < 1e-8


@pytest.mark.parametrize("bias", [True, False])
def test_both_models_begin_alike(bias):
    config = GPT2Config(11, 8, n_layer=2, n_head=2, d_model=8, bias=bias)
    right, wrong = GPT2(config, seed=1), WrongGPT2(config, seed=1)
    ids = np.arange(8)[None] % 11
    np.testing.assert_array_equal(right.forward(ids), wrong.forward(ids))
    assert sum(type(layer) is WithoutMean for _, layer in wrong.layers()) == 5
    assert right.parameters().keys() == wrong.parameters().keys()
