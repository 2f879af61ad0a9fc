"""LoRA of layers that ranks share: gradients, and the faults that these tests notice."""

import pytest
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.cases_ranks import COLUMN_LORA, ROW_LORA

COLUMN_FAULTS = {
    "column-parallel: da is not summed over ranks": ("    da = sum_over_ranks(da, communicator)", "    pass"),
    "column-parallel: dx is not summed over ranks": (
        "return sum_over_ranks(dx, self._communicator) if self.reader == self.readers else dx", "return dx"),
}  # fmt: skip
ROW_FAULTS = {
    "row-parallel: db is not summed over ranks": ("    db = sum_over_ranks(db, communicator)", "    pass"),
    "row-parallel: no sum over ranks in forward": (
        "        y = sum_over_ranks(y, self._communicator)\n        if with_bias",
        "        if with_bias"),
}  # fmt: skip


@pytest.mark.parametrize("problem", COLUMN_LORA.gradcheck, ids=str)
def test_gradients_of_columns(problem):
    assert_gradients(COLUMN_LORA, problem)


@pytest.mark.parametrize("problem", ROW_LORA.gradcheck, ids=str)
def test_gradients_of_rows(problem):
    assert_gradients(ROW_LORA, problem)


@pytest.mark.parametrize("fault", COLUMN_FAULTS)
def test_faults_of_columns_are_caught(fault):
    assert_gradcheck_catches(COLUMN_LORA, *COLUMN_FAULTS[fault], COLUMN_LORA.gradcheck[:1])


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_faults_of_rows_are_caught(fault):
    assert_gradcheck_catches(ROW_LORA, *ROW_FAULTS[fault], ROW_LORA.gradcheck[:1])
