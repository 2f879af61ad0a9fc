"""SGD against its formula, a number at a time, and by hand."""

import numpy as np
import pytest
from planting import planted

from minillm.backend.arrays import to_device, to_host
from minillm.checks.cases import array
from minillm.layers.layer import Parameter
from minillm.optim import SGD, sgd

SHAPES = {"matrix": (3, 4), "norm": (5,)}
GRADIENTS = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(5)]


def train(kind=SGD, scale=1.0, device="cpu", **settings):
    parameters = {name: Parameter(to_device(array(name, *shape), device)) for name, shape in SHAPES.items()}
    optimizer = kind(parameters, lr=0.1, betas=(0.8, 0.99), weight_decay=0.5, **settings)
    for gradients in GRADIENTS:
        for name, parameter in parameters.items():
            parameter.grad = to_device(gradients[name], device)
        optimizer.step(scale)
    return {name: to_host(parameter.value) for name, parameter in parameters.items()}


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("device", ["cpu", "cudasim"])
def test_equals_the_formula(scale, device):
    found = train(scale=scale, device=device)
    for name, shape in SHAPES.items():
        decay = 0.5 if len(shape) >= 2 else 0.0  # norms and biases are not decayed
        for index in np.ndindex(*shape):
            w, m = array(name, *shape)[index], 0.0
            for gradients in GRADIENTS:
                m = 0.8 * m + scale * gradients[name][index] + decay * w
                w = w - 0.1 * m
            assert found[name][index] == pytest.approx(w, rel=1e-12)


def test_by_hand():
    """w = 1, gradients 2 and -1, lr 0.1, beta 0.5, decay 0.5: m = 2.5, w = 0.75; m = 1.25 - 1 + 0.375, w = 0.6875."""
    parameter = Parameter(np.ones((1, 1)))
    optimizer = SGD({"w": parameter}, lr=0.1, betas=(0.5, 0.9), weight_decay=0.5)
    for gradient, expected in ((2.0, 0.75), (-1.0, 0.6875)):
        parameter.grad = np.full((1, 1), gradient)
        optimizer.step()
        assert parameter.value.item() == pytest.approx(expected)


def test_without_momentum_it_is_gradient_descent():
    parameter = Parameter(np.ones(3))
    optimizer = SGD({"w": parameter}, lr=0.5, betas=(0.0, 0.9))
    for _ in range(2):
        parameter.grad = np.array([1.0, 0.0, -2.0])
        optimizer.step()
    assert parameter.value.tolist() == [0.0, 1.0, 3.0]


FORMULA_FAULTS = {
    "no momentum": ("m = beta * m + g", "m = g"),
    "the older gradient gone": ("m = beta * m + g", "m = beta * m + (1 - beta) * g"),
    "a step uphill": ("w = w - lr * m", "w = w + lr * m"),
    "no decay": ("g = g + decay * w", "pass"),
    "the second beta": ("self.betas[0]", "self.betas[1]"),
}


@pytest.mark.parametrize("right, wrong", FORMULA_FAULTS.values(), ids=FORMULA_FAULTS.keys())
def test_faults_are_caught(right, wrong):
    expected, faulty = train(), train(planted(sgd, right, wrong).SGD)
    assert any(np.abs(faulty[name] - expected[name]).max() > 1e-6 for name in SHAPES)
