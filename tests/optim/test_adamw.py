"""AdamW and Adam against their papers, one number at a time, and against two steps worked out by hand."""

import importlib
import inspect
import math

import numpy as np
import pytest
from planting import assert_close, planted

from minillm.checks.cases import array
from minillm.errors import UserError
from minillm.layers.layer import Parameter
from minillm.optim import Adam, AdamW, adamw
from minillm.optim.adamw import adamw_formula, adamw_update

SETTINGS = dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)


def adamw_by_the_paper(theta, gradients, lr, betas, eps, weight_decay):
    """Loshchilov, Hutter (2019), algorithm 2 with alpha = 1 and eta_t = lr, for one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        theta = theta - lr * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * theta)
    return theta


def adam_by_the_paper(theta, gradients, lr, betas, eps, weight_decay):
    """Kingma, Ba (2015), algorithm 1, of the loss plus weight_decay / 2 theta^2, for one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        g = g + weight_decay * theta
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        theta = theta - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return theta


def train(optimizer_class, shapes, gradients, scale=1.0, **settings):
    """Parameters after a step for each set of gradients."""
    parameters = {name: Parameter(array(name, *shape)) for name, shape in shapes.items()}
    optimizer = optimizer_class(parameters, **{**SETTINGS, **settings})
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.add_grad(step[name].copy())
        optimizer.step(scale)
        optimizer.zero_grad()
    return {name: parameter.value for name, parameter in parameters.items()}


PAPERS = [(AdamW, adamw_by_the_paper), (Adam, adam_by_the_paper)]
SHAPES = {"matrix": (3, 4), "norm": (5,), "cube": (2, 2, 2)}


@pytest.mark.parametrize("optimizer_class, paper", PAPERS)
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("block", [1, 5, 1 << 15])
def test_equals_the_paper(monkeypatch, optimizer_class, paper, scale, block):
    monkeypatch.setattr(adamw, "BLOCK", block)
    gradients = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(20)]
    values = train(optimizer_class, SHAPES, gradients, scale)
    for name, shape in SHAPES.items():
        decay = SETTINGS["weight_decay"] if len(shape) >= 2 else 0.0  # norms and biases are not decayed
        for index in np.ndindex(*shape):
            history = [scale * step[name][index] for step in gradients]
            expected = paper(array(name, *shape)[index], history, 0.1, (0.9, 0.99), 1e-8, decay)
            assert values[name][index] == pytest.approx(expected, rel=1e-12)


def two_steps(optimizer_class):
    """w = 1, gradients 2 and -1, lr 0.1, betas 0.9 and 0.99, eps 0, weight decay 0.5."""
    parameter = Parameter(np.ones((1, 1)))
    optimizer = optimizer_class({"w": parameter}, lr=0.1, betas=(0.9, 0.99), eps=1e-300, weight_decay=0.5)
    for gradient in (2.0, -1.0):
        parameter.grad = np.full((1, 1), gradient)
        optimizer.step()
        yield parameter.value.item()


def test_adamw_by_hand():
    # step 1: m = 0.2, m^ = 2; v = 0.04, v^ = 4; m^ / sqrt(v^) = 1; w = 1 - 0.1 (1 + 0.5 * 1) = 0.85
    # step 2: m = 0.18 - 0.1 = 0.08, m^ = 0.08 / 0.19 = 0.4210526316; v = 0.0396 + 0.01 = 0.0496,
    #         v^ = 0.0496 / 0.0199 = 2.4924623116, root 1.5787534043; quotient 0.2666994287
    #         w = 0.85 - 0.1 (0.2666994287 + 0.425) = 0.7808300571
    assert list(two_steps(AdamW)) == pytest.approx([0.85, 0.7808300571], abs=1e-9)


def test_adam_by_hand():
    # step 1: g = 2 + 0.5 = 2.5; m^ / sqrt(v^) = 1; w = 1 - 0.1 = 0.9
    # step 2: g = -1 + 0.45 = -0.55; m = 0.9 * 0.25 - 0.055 = 0.17, m^ = 0.17 / 0.19 = 0.8947368421
    #         v = 0.99 * 0.0625 + 0.01 * 0.3025 = 0.0649, v^ = 0.0649 / 0.0199 = 3.2613065327, root 1.8059087829
    #         quotient 0.4954496338; w = 0.9 - 0.0495449634 = 0.8504550366
    assert list(two_steps(Adam)) == pytest.approx([0.9, 0.8504550366], abs=1e-9)


@pytest.mark.parametrize("block", [1, 5, 1 << 15])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_update_in_blocks_is_the_formula(monkeypatch, block, decay):
    monkeypatch.setattr(adamw, "BLOCK", block)
    values, gradients, m, v = ([array(f"{name} {i}", 3, 2 + i) for i in range(2)] for name in ("w", "g", "m", "v"))
    v = [x * x for x in v]
    expected = [adamw_formula(*arrays, 0.1, (0.9, 0.99), 1e-8, decay, 7) for arrays in zip(values, gradients, m, v)]
    adamw_update(values, gradients, m, v, 0.1, (0.9, 0.99), 1e-8, [decay, decay], 7)
    for found, wanted in zip(zip(values, m, v), expected):
        for one, other in zip(found, wanted):
            assert_close(one, other)


def test_it_has_the_arguments_of_its_kernel():
    kernel = importlib.import_module("minillm.kernels.adamw").adamw_update
    assert inspect.signature(adamw_update) == inspect.signature(kernel)


FAULTS = {
    "m^ without its correction": ("term *= lr / (1 - b1**t)", "term *= lr"),
    "v^ without its correction": ("term *= 1 / math.sqrt(1 - b2**t)", "pass"),
    "decay not times the learning rate": ("w *= 1 - lr * decay", "w *= 1 - decay"),
    "no eps": ("term += eps", "pass"),
    "beta1 for v": ("v *= b2", "v *= b1"),
    "beta2 for m": ("m *= b1", "m *= b2"),
    "the gradient not scaled": ("xp.multiply(gradient, gradient_scale, out=g)", "g[...] = gradient"),
}


@pytest.mark.parametrize("right, wrong", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_caught(right, wrong):
    gradients = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(3)]
    values = train(AdamW, SHAPES, gradients, 0.5, eps=0.1)
    faulty = train(planted(adamw, right, wrong).AdamW, SHAPES, gradients, 0.5, eps=0.1)
    assert any(np.abs(values[name] - faulty[name]).max() > 1e-6 for name in SHAPES)


def test_without_decay_adam_and_adamw_are_the_same():
    gradients = [{"w": array(f"w {t}", 3, 4)} for t in range(5)]
    results = [train(cls, {"w": (3, 4)}, gradients, weight_decay=0.0)["w"] for cls in (Adam, AdamW)]
    assert_close(*results)


def test_a_parameter_without_gradient_is_named_and_nothing_changes():
    parameters = {"a": Parameter(array("a", 2, 2)), "b": Parameter(array("b", 2))}
    optimizer = AdamW(parameters)
    parameters["a"].grad = array("g", 2, 2)
    with pytest.raises(RuntimeError, match="no gradient for b: call backward"):
        optimizer.step()
    assert (parameters["a"].value == array("a", 2, 2)).all() and optimizer.step_count == 0


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=-1), "learning rate is -1"),
        (dict(lr=math.nan), "learning rate is nan"),
        (dict(betas=(1.0, 0.9)), "beta1 is 1.0"),
        (dict(betas=(0.9, -0.1)), "beta2 is -0.1"),
        (dict(eps=0), "eps is 0"),
        (dict(weight_decay=-0.1), "weight decay is -0.1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        AdamW({}, **settings)
