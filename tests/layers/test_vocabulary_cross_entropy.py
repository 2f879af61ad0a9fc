"""The loss over a vocabulary that ranks share: gradients, the formula, and the faults that these tests notice."""

from types import SimpleNamespace

import numpy as np
import pytest
from planting import assert_close, assert_gradcheck_catches, assert_gradients, planted

from minillm.checks.cases_ranks import VOCABULARY_CROSS_ENTROPY as CASE
from minillm.checks.ranks import imitated_ranks, together
from minillm.layers.linear_cross_entropy import linear_cross_entropy_forward
from minillm.layers.ranks import share_of
from minillm.layers.vocabulary_cross_entropy import (
    vocabulary_cross_entropy_backward,
    vocabulary_cross_entropy_forward,
)

FAULTS = {
    "the maximum is not exchanged": ("m = maximum_over_ranks(row_max(z), communicator)", "m = row_max(z)"),
    "the sum is not exchanged": ("= sum_over_ranks(terms, communicator)", "= terms"),
    "dx is not summed over ranks": ("    dx = sum_over_ranks(dx, communicator)", "    pass"),
    "every rank has the target": ("* scale * is_own", "* scale"),
    "smoothing is spread over the tokens of a rank": (
        "p -= (label_smoothing / vocabulary * scale)", "p -= (label_smoothing / len(own) * scale)"),
    "the loss is divided by the ranks": (
        "xp.where(counted, losses, 0).sum(dtype=exact) / count\n\n",
        "xp.where(counted, losses, 0).sum(dtype=exact) / count / communicator.size\n\n"),
}  # fmt: skip
FORMULA_FAULTS = {
    "a rank's tokens begin one earlier": ("xp.where(is_own, t - own.start, 0)", "xp.where(is_own, t - own.start - 1, 0)"),
    "the largest score is added to the loss": (
        "losses = xp.log(total) -", "losses = xp.log(total) + m[:, 0] -"),
}  # fmt: skip


@pytest.mark.parametrize("problem", CASE.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(CASE, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(CASE, *FAULTS[fault], CASE.gradcheck["smoothing" in fault :][:1])


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_of_the_formula_are_noticed(fault):
    a = CASE.make(CASE.gradcheck[0])
    expected, _ = linear_cross_entropy_forward(a.x, a.weight, a.targets)
    assert CASE.layer(CASE.module, a).forward(a.x, a.targets) == pytest.approx(float(expected), rel=1e-12)
    found = CASE.layer(planted(CASE.module, *FORMULA_FAULTS[fault]), a).forward(a.x, a.targets)
    assert found != pytest.approx(float(expected), rel=1e-3)


def shared_loss(a: SimpleNamespace, ranks: int, **settings):
    """(loss, dx, dW of the whole vocabulary), and what a rank exchanged."""

    def of_rank(communicator):
        tokens = share_of(communicator.rank, ranks, len(a.weight))
        weight = a.weight[tokens.start : tokens.stop].copy()
        loss, saved = vocabulary_cross_entropy_forward(
            a.x, weight, a.targets, len(a.weight), communicator, label_smoothing=a.label_smoothing, **settings
        )
        dx, dweight = vocabulary_cross_entropy_backward(1.0, saved, communicator)
        return loss, dx, dweight, communicator.exchanged

    results = together(imitated_ranks(ranks), of_rank)
    assert len({float(loss) for loss, *_ in results}) == 1
    loss, dx, _, exchanged = results[0]
    return (loss, dx, np.concatenate([dweight for _, _, dweight, _ in results])), exchanged


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("chunk_rows", [None, 4])
@pytest.mark.parametrize("problem", CASE.gradcheck, ids=str)
def test_it_is_the_loss_over_the_whole_vocabulary(problem, chunk_rows, ranks):
    a = CASE.make(problem)
    loss, (dx, dweight) = linear_cross_entropy_forward(
        a.x, a.weight, a.targets, label_smoothing=a.label_smoothing, chunk_rows=chunk_rows
    )
    for found, expected in zip(shared_loss(a, ranks, chunk_rows=chunk_rows)[0], (loss, dx, dweight)):
        assert_close(found, expected)


def test_one_maximum_and_one_sum_are_exchanged_and_no_scores():
    a = CASE.make(CASE.gradcheck[0])  # 6 rows, 4 channels, 7 tokens
    assert shared_loss(a, 2)[1] == [("maximum", 6), ("sum", 3 * 6), ("sum", 6 * 4)]


def test_large_scores_do_not_overflow():
    a = CASE.make(CASE.gradcheck[0])
    a.weight = 1000 * a.weight
    (loss, dx, _), _ = shared_loss(a, 2)
    assert np.isfinite(loss) and np.isfinite(dx).all()


def test_targets_that_are_all_ignored_are_refused():
    a = CASE.make(CASE.gradcheck[0])
    a.targets[...] = -100
    with pytest.raises(ValueError, match=r"all 6 targets are ignore_index \(-100\)"):
        shared_loss(a, 2)
