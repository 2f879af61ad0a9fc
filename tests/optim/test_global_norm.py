import numpy as np
import pytest

from minillm.checks.cases import array
from minillm.layers.layer import Parameter
from minillm.optim import clip_scale, global_norm
from minillm.optim import global_norm as clipping


def parameters():
    found = {name: Parameter(array(name, *shape)) for name, shape in {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}.items()}
    for name, parameter in found.items():
        parameter.grad = array(f"gradient {name}", *parameter.value.shape)
    return found


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_norm_is_that_of_all_gradients_as_one_vector(monkeypatch, block):
    monkeypatch.setattr(clipping, "BLOCK", block)
    together = np.concatenate([parameter.grad.ravel() for parameter in parameters().values()])
    assert global_norm(parameters()) == pytest.approx(np.linalg.norm(together), rel=1e-14)


def test_clipped_gradients_have_the_largest_norm_and_their_direction():
    norm = global_norm(parameters())
    scale = clip_scale(norm, norm / 4)
    assert scale == pytest.approx(0.25)
    clipped = parameters()
    for parameter in clipped.values():
        parameter.grad *= scale
    assert global_norm(clipped) == pytest.approx(norm / 4)


@pytest.mark.parametrize("max_norm", [None, 0, 5.0, 6.0])
def test_no_clipping(max_norm):
    assert clip_scale(5.0, max_norm) == 1.0
