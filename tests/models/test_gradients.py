"""Whole models: every parameter against finite differences."""

from itertools import combinations

import pytest
from planting import assert_gradients

from minillm.checks.cases import MODELS


def every_pair(problems):
    """As few of the problems as show every pair of their settings: tied with a bias, tied with dropout, ..."""

    def pairs(problem):
        return set(combinations(problem.settings, 2))

    chosen, left = [], set().union(*map(pairs, problems))
    while left:
        chosen.append(max(problems, key=lambda problem: len(pairs(problem) & left)))
        left -= pairs(chosen[-1])
    return chosen


def variants():
    """All variants of each model: of more than three only those that show every pair of settings, the others if slow."""
    for case in MODELS:
        quick = every_pair(case.gradcheck) if len(case.gradcheck) > 3 else case.gradcheck
        for problem in case.gradcheck:
            marks = () if problem in quick else pytest.mark.slow
            yield pytest.param(case, problem, marks=marks, id=case.label(problem))


@pytest.mark.parametrize("case, problem", list(variants()))
def test_gradients_of_a_model(case, problem):
    assert_gradients(case, problem)
