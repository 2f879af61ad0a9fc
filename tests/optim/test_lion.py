"""Lion against its formula, a number at a time, and by hand."""

import numpy as np
import pytest
from planting import planted

from minillm.backend.arrays import to_device, to_host
from minillm.checks.cases import array
from minillm.layers.layer import Parameter
from minillm.optim import Lion, lion

SHAPES = {"matrix": (3, 4), "norm": (5,)}
GRADIENTS = [{name: array(f"{name} {t}", *shape) for name, shape in SHAPES.items()} for t in range(5)]


def train(kind=Lion, scale=1.0, device="cpu"):
    parameters = {name: Parameter(to_device(array(name, *shape), device)) for name, shape in SHAPES.items()}
    optimizer = kind(parameters, lr=0.1, betas=(0.6, 0.9), weight_decay=0.5)
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
                g = scale * gradients[name][index]
                w = w - 0.1 * (np.sign(0.6 * m + 0.4 * g) + decay * w)
                m = 0.9 * m + 0.1 * g
            assert found[name][index] == pytest.approx(w, rel=1e-12)


def test_by_hand():
    """w = 1, gradients 2 and -1, lr 0.1, betas 0.9 and 0.5: both steps go down, for m = 1 outweighs the second gradient."""
    parameter = Parameter(np.ones(1))
    optimizer = Lion({"w": parameter}, lr=0.1, betas=(0.9, 0.5))
    for gradient, expected in ((2.0, 0.9), (-1.0, 0.8)):
        parameter.grad = np.full(1, gradient)
        optimizer.step()
        assert parameter.value.item() == pytest.approx(expected)


FORMULA_FAULTS = {
    "no sign": ("array_module(w).sign(b1 * m + (1 - b1) * g)", "(b1 * m + (1 - b1) * g)"),
    "one beta for both": ("m = b2 * m + (1 - b2) * g", "m = b1 * m + (1 - b1) * g"),
    "a step uphill": ("w = w - lr *", "w = w + lr *"),
    "no decay": (" + decay * w)", ")"),
    "the new momentum decides": ("sign(b1 * m + (1 - b1) * g)", "sign(b2 * m + (1 - b2) * g)"),
}


@pytest.mark.parametrize("right, wrong", FORMULA_FAULTS.values(), ids=FORMULA_FAULTS.keys())
def test_faults_are_caught(right, wrong):
    expected, faulty = train(), train(planted(lion, right, wrong).Lion)
    assert any(np.abs(faulty[name] - expected[name]).max() > 1e-6 for name in SHAPES)
