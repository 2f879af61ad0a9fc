import importlib
import inspect

import numpy as np
import pytest

from minillm.checks.cases import array
from minillm.layers.layer import Parameter
from minillm.optim import clip
from minillm.optim import global_norm as clipping
from minillm.optim.global_norm import clip_scale, clipped_norm, global_norm


def gradients():
    return [array(f"gradient {name}", *shape) for name, shape in {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}.items()]


def together():
    return np.linalg.norm(np.concatenate([gradient.ravel() for gradient in gradients()]))


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_norm_is_that_of_all_gradients_as_one_vector(monkeypatch, block):
    monkeypatch.setattr(clipping, "BLOCK", block)
    assert global_norm(gradients()) == pytest.approx(together(), rel=1e-14)


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("share", [0.25, 2.0])
def test_clipped_gradients_have_the_largest_norm_and_their_direction(share, accumulated):
    largest = share * together() / accumulated
    norm, scale = clipped_norm(gradients(), largest, accumulated)
    assert norm == pytest.approx(together() / accumulated)
    clipped = [scale * gradient for gradient in gradients()]
    assert global_norm(clipped) == pytest.approx(min(1, share) * norm)
    assert clipped_norm(gradients(), 0.0, accumulated) == (norm, 1 / accumulated)


def test_clip_takes_the_gradients_of_parameters():
    parameters = {str(i): Parameter(np.zeros_like(gradient)) for i, gradient in enumerate(gradients())}
    for parameter, gradient in zip(parameters.values(), gradients()):
        parameter.grad = gradient
    assert clip(parameters, 0.5, 2) == clipped_norm(gradients(), 0.5, 2)
    assert clip(parameters, None) == (global_norm(gradients()), 1.0)
    assert clip({}, 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["global_norm", "clipped_norm"])
def test_it_has_the_arguments_of_its_kernel(name):
    kernel = importlib.import_module("minillm.kernels.global_norm")
    assert inspect.signature(getattr(clipping, name)) == inspect.signature(getattr(kernel, name))


@pytest.mark.parametrize("max_norm", [None, 0, 5.0, 6.0])
def test_no_clipping(max_norm):
    assert clip_scale(5.0, max_norm) == 1.0
