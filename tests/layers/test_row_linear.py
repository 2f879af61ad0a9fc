"""Row-parallel linear: gradients with several ranks, and the faults that these tests notice."""

import pytest
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.cases_ranks import ROW_LINEAR

FAULTS = {
    "no sum over ranks in forward": ("    y = sum_over_ranks(y, communicator)\n", "    pass\n"),
    "the bias is added by every rank": (
        "linear_forward(x, weight, None, transposed, dtype)  # (N, I_r)",
        "linear_forward(x, weight, bias, transposed, dtype)  # (N, I_r)"),
    "dbias is summed over ranks": (
        "self.bias.add_grad(dbias)", "self.bias.add_grad(sum_over_ranks(dbias, self._communicator))"),
    "dx is summed over ranks": (
        "            self.bias.add_grad(dbias)\n        return dx",
        "            self.bias.add_grad(dbias)\n        return sum_over_ranks(dx, self._communicator)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", ROW_LINEAR.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(ROW_LINEAR, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(ROW_LINEAR, *FAULTS[fault], ROW_LINEAR.gradcheck[:1])
