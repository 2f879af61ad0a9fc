"""Column-parallel linear: gradients with several ranks, and the faults that these tests notice."""

import numpy as np
import pytest
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.case import array
from minillm.checks.cases_ranks import COLUMN_LINEAR
from minillm.checks.ranks import imitated_ranks, together
from minillm.layers.column_linear import ColumnLinear
from minillm.layers.linear import Linear

FAULTS = {
    "no sum over ranks in backward": ("        dx = sum_over_ranks(dx, communicator)", "        pass"),
    "x is divided among the ranks, as if it were a sum": (
        "return linear_forward(x, weight,", "return linear_forward(x / 2, weight,"),
    "dbias is summed over ranks": (
        "self.bias.add_grad(dbias)", "self.bias.add_grad(sum_over_ranks(dbias, self._communicator))"),
}  # fmt: skip


@pytest.mark.parametrize("problem", COLUMN_LINEAR.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(COLUMN_LINEAR, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(COLUMN_LINEAR, *FAULTS[fault], COLUMN_LINEAR.gradcheck[:1])


def three_readers(communicator, exchange=True):
    """dx of three layers that read one x, as in attention; and what was exchanged."""
    x, dx = array("x", 2, 3, 4), None
    for reader in (1, 2, 3):
        weight = array(f"w{reader}", 4, 6)
        if communicator is None:
            layer, dy = Linear(weight), array(f"dy{reader}", 2, 3, 6)
        else:
            own = slice(3 * communicator.rank, 3 * communicator.rank + 3)
            layer = ColumnLinear(weight[:, own].copy(), None, False, communicator, reader, 3)
            dy = array(f"dy{reader}", 2, 3, 6)[..., own].copy()
        layer.forward(x)
        dx = layer.backward(dy, dx)
    return dx, communicator and communicator.exchanged


def test_several_readers_of_one_input_exchange_their_gradient_once():
    expected, _ = three_readers(None)
    for dx, exchanged in together(imitated_ranks(2), three_readers):
        assert_close(dx, expected)
        assert exchanged == [("sum", 24)]


def test_a_reader_without_the_terms_of_those_before_it_is_refused():
    (communicator,) = imitated_ranks(1)
    layer = ColumnLinear(array("w", 4, 6), None, False, communicator, 3, 3)
    layer.forward(array("x", 2, 4))
    with pytest.raises(RuntimeError, match="reader 3 of 3 of one x, and its backward needs dx"):
        layer.backward(array("dy", 2, 6))
    first = ColumnLinear(array("w", 4, 6), None, False, communicator, 1, 3)
    first.forward(array("x", 2, 4))
    with pytest.raises(RuntimeError, match="reader 1 of 3 of one x, and its backward begins dx"):
        first.backward(array("dy", 2, 6), np.zeros((2, 4)))
