"""The lists of layers that a check keeps for its many forwards."""

import numpy as np
import pytest

import minillm
from minillm.checks.gradcheck import ContractError
from minillm.layers.layer import same_layers
from minillm.layers.linear import Linear

X = np.linspace(-2, 2, 20).reshape(4, 5)


class Row(minillm.Layer):
    def __init__(self, *inner):
        self.inner = list(inner)

    def forward(self, x):
        for layer in self.inner:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.inner):
            dy = layer.backward(dy)
        return dy


def linear(size=1.0):
    return Linear(size * np.eye(5))


def test_lists_are_those_of_the_first_walk_within_and_new_ones_after():
    row = Row(linear(), linear())
    with same_layers():
        before = list(row.layers("a"))
        assert [path for path, _ in before] == ["a", "a.inner.0", "a.inner.1"]
        row.inner.append(linear())
        assert list(row.layers("a")) == before and [path for path, _ in row.layers()][-1] == "inner.2"
    assert len(list(row.layers("a"))) == 4


def test_a_check_walks_over_the_layers_a_few_times(monkeypatch):
    walks, walk = [], minillm.Layer._walk
    monkeypatch.setattr(minillm.Layer, "_walk", lambda self, path: walks.append(path) or walk(self, path))
    config = minillm.GPT2Config(vocab_size=5, context_length=4, n_layer=1, n_head=1, d_model=2, d_ff=2)
    model = minillm.GPT2(config, dtype="float64")
    minillm.gradcheck(model, *np.random.default_rng(0).integers(5, size=(2, 1, 3)))
    assert len(walks) < 40  # and not two for each of the hundreds of forwards


def test_a_forward_that_becomes_another_one_is_noticed():
    class Growing(Row):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 20:
                self.inner.append(linear(2.0))
            return super().forward(x)

    with pytest.raises(ContractError, match="forward gives different results for the same input"):
        minillm.gradcheck(Growing(linear()), X, intermediates=False)
