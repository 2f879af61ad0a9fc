"""Vocabulary-parallel head: gradients, the formula, and the faults that these tests notice."""

import pytest
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases_ranks import VOCABULARY_HEAD

FAULTS = {
    "dx is not summed over ranks": ("    dx = sum_over_ranks(dx, communicator)", "    pass"),
    "every rank takes the first columns in backward": (
        "dz = dlogits[..., own.start : own.stop]", "dz = dlogits[..., : own.stop - own.start]"),
    "scores are not exchanged": ("return sum_over_ranks(logits, communicator),", "return logits,"),
}  # fmt: skip


@pytest.mark.parametrize("problem", VOCABULARY_HEAD.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(VOCABULARY_HEAD, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(VOCABULARY_HEAD, *FAULTS[fault], VOCABULARY_HEAD.gradcheck[:1])


@pytest.mark.parametrize("problem", VOCABULARY_HEAD.gradcheck, ids=str)
def test_scores_are_those_of_the_whole_head(problem):
    case, a = VOCABULARY_HEAD, VOCABULARY_HEAD.make(problem)
    assert_close(case.layer(case.module, a).forward(a.x), a.x @ a.weight.T)
