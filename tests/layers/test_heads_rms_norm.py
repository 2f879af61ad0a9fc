"""RMS norm over heads that ranks share: gradients, and the faults that these tests notice."""

import pytest
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.cases_ranks import HEADS_RMS_NORM

FAULTS = {
    "dweight is not summed over ranks": ("    dweight = sum_over_ranks(dweight, communicator)", "    pass"),
    "dx is summed over ranks": (
        "dx, dweight = backward(dy, saved, dsum)",
        "dx, dweight = backward(dy, saved, dsum); dx = sum_over_ranks(dx, communicator)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", HEADS_RMS_NORM.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(HEADS_RMS_NORM, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(HEADS_RMS_NORM, *FAULTS[fault])
