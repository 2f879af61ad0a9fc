"""Vocabulary-parallel embedding: gradients, the formula, and the faults that these tests notice."""

import numpy as np
import pytest
from planting import assert_gradcheck_catches, assert_gradients, planted

from minillm.checks.cases_ranks import VOCABULARY_EMBEDDING

FAULTS = {
    "no sum over ranks in forward": (
        "    y = sum_over_ranks(rows * own[..., None].astype(rows.dtype), communicator)\n    return",
        "    y = rows * own[..., None].astype(rows.dtype)\n    return"),
    "the rows of backward begin elsewhere": ("(ids[own] - first, weight_shape)", "(ids[own] - first - 1, weight_shape)"),
}  # fmt: skip
FORMULA_FAULTS = {
    "the first row of a part is not its own": ("own = (ids >= first)", "own = (ids > first)"),
}


@pytest.mark.parametrize("problem", VOCABULARY_EMBEDDING.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(VOCABULARY_EMBEDDING, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(VOCABULARY_EMBEDDING, *FAULTS[fault])


def is_the_table(problem, module) -> bool:
    a = VOCABULARY_EMBEDDING.make(problem)
    return np.array_equal(VOCABULARY_EMBEDDING.layer(module, a).forward(a.ids), a.weight[a.ids])


@pytest.mark.parametrize("problem", VOCABULARY_EMBEDDING.gradcheck, ids=str)
def test_rows_are_those_of_the_table(problem):
    assert is_the_table(problem, VOCABULARY_EMBEDDING.module)


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_of_the_formula_are_noticed(fault):
    faulty = planted(VOCABULARY_EMBEDDING.module, *FORMULA_FAULTS[fault])
    assert not is_the_table(VOCABULARY_EMBEDDING.gradcheck[0], faulty)
