"""Vocabulary-parallel embedding: gradients, the formula, and the faults that these tests notice."""

import numpy as np
import pytest
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.cases_ranks import VOCABULARY_EMBEDDING

FAULTS = {
    "no sum over ranks in forward": (
        "y = sum_over_ranks(rows * own[..., None].astype(rows.dtype), communicator)",
        "y = rows * own[..., None].astype(rows.dtype)"),
    "the first row of a part is not its own": ("own = (ids >= first)", "own = (ids > first)"),
    "the rows of backward begin elsewhere": ("(ids[own] - first, weight_shape)", "(ids[own] - first - 1, weight_shape)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", VOCABULARY_EMBEDDING.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(VOCABULARY_EMBEDDING, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(VOCABULARY_EMBEDDING, *FAULTS[fault])


@pytest.mark.parametrize("problem", VOCABULARY_EMBEDDING.gradcheck, ids=str)
def test_rows_are_those_of_the_table(problem):
    case, a = VOCABULARY_EMBEDDING, VOCABULARY_EMBEDDING.make(problem)
    assert np.array_equal(case.layer(case.module, a).forward(a.ids), a.weight[a.ids])
