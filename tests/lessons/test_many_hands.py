import copy

import numpy as np
import pytest
from planting import planted

from minillm.distributed.rank_threads import run_ranks
from minillm.lessons import many_hands, sharded_chain, split_matrices, sums_over_ranks
from minillm.lessons.many_hands import CHAIN_RANKS, SPLIT_RANKS, STAGES, WAYS, figures_of, findings_of


@pytest.fixture(scope="module")
def parts():
    """What the lesson measures: the arguments of figures_of."""
    trained = {
        (ranks, stage): run_ranks(ranks, lambda communicator, stage=stage: sharded_chain.train(communicator, stage))
        for ranks in CHAIN_RANKS
        for stage in STAGES
    }
    steps = sums_over_ranks.collectives(many_hands.SHOWN_RANKS)
    changed = sums_over_ranks.order_of_sums(sums_over_ranks.part_gradients())
    return steps, changed, trained, {way: split_matrices.compare(SPLIT_RANKS, way) for way in WAYS}


def test_what_the_lesson_claims(parts, monkeypatch, draw):
    """The whole of `measure`, with what it measures taken from the fixture."""
    steps, changed, trained, ways = parts
    results = iter(trained.values())
    monkeypatch.setattr(many_hands, "collectives", lambda ranks: steps)
    monkeypatch.setattr(many_hands, "order_of_sums", lambda gradients: changed)
    monkeypatch.setattr(many_hands, "part_gradients", list)
    monkeypatch.setattr(many_hands, "run_ranks", lambda ranks, program: next(results))
    monkeypatch.setattr(split_matrices, "compare", lambda ranks, way: ways[way])
    measured = many_hands.LESSON.measure()
    assert measured.holds, measured.findings
    assert len(measured.findings) == 7 and len(measured.tables) == 5
    assert measured.figures["sent"] == measured.figures["sent, formula"] == 24
    assert measured.figures["GPT-2, stage 0"] == pytest.approx(1.991, abs=1e-3)
    memory, order = draw(measured).axes
    assert [line.get_ydata()[0] for line in memory.lines][:2] == [measured.figures["GPT-2, stage 0"]] * 2
    assert max(order.lines[0].get_ydata()) == 100 * measured.figures["as they come: most"]
    assert list(order.lines[1].get_ydata()) == [0] * len(sums_over_ranks.RANKS)


def holding(parts, change):
    """Which findings hold after `change` of copies of (steps, changed, trained, ways)."""
    parts = copy.deepcopy(parts)
    change(*parts)
    return [finding.holds for finding in findings_of(figures_of(*parts))]


def faults():
    """finding -> changes of what was measured that it must not survive."""

    def after(steps, changed, trained, ways):
        steps[2].after[0] -= 1000  # rank 3 did not take part

    def reduced(steps, changed, trained, ways):
        steps[1].reduced[steps[1].own] += 1

    def sent(steps, changed, trained, ways):
        steps[0] = steps[0]._replace(sent=(24, 32))

    def alike(steps, changed, trained, ways):
        changed["as they come"] = dict.fromkeys(changed["as they come"], 0.0)

    def tree(steps, changed, trained, ways):
        changed["along the tree"][3] = 1e-6

    def kept(steps, changed, trained, ways):
        trained[4, 2][3].kept["gradients"] += 4

    def sent_in_training(steps, changed, trained, ways):
        trained[2, 3][0] = trained[2, 3][0]._replace(sent=trained[2, 3][0].sent + 4)

    def weights(steps, changed, trained, ways):
        trained[4, 1][2] = trained[4, 1][2]._replace(weights=trained[4, 1][2].weights[:-1] + b"\0")

    def split(steps, changed, trained, ways):
        ways[WAYS[0]].gradients["A"] = 1e-3

    def sums(steps, changed, trained, ways):
        ways[WAYS[0]] = ways[WAYS[0]]._replace(sent=(96, 192))

    def unseen(steps, changed, trained, ways):
        ways[WAYS[1]] = ways[WAYS[0]]

    def bias(steps, changed, trained, ways):
        ways[WAYS[2]] = ways[WAYS[2]]._replace(verdict="passed")

    changes = {0: (after, reduced, sent), 1: (alike,), 2: (tree,), 3: (kept,), 4: (sent_in_training, weights)}
    changes |= {5: (split, sums), 6: (unseen, bias)}
    return [(finding, change) for finding, all_changes in changes.items() for change in all_changes]


@pytest.mark.parametrize("finding, change", faults(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_each_finding_can_fail(parts, finding, change):
    assert holding(parts, lambda *unchanged: None) == [True] * 7
    assert holding(parts, change)[finding] is False


def test_the_digits_of_the_collectives():
    """10^rank (1, ..., 2 N): the sum has a digit for each rank; a slice is two numbers."""
    steps = sums_over_ranks.collectives(3)
    for rank, step in enumerate(steps):
        assert step.before.tolist() == [10**rank * n for n in range(1, 7)]
        assert step.after.tolist() == [111, 222, 333, 444, 555, 666]
        assert step.own == slice(2 * rank, 2 * rank + 2)
        assert step.reduced[step.own].tolist() == step.after[step.own].tolist()
        assert step.sent == (16, 16)


def test_orders_of_a_sum_by_hand():
    """Parts 2^24, 1, 1, ...: added as they come the ones are lost, unless a rank has two of them."""
    gradients = [np.full(4, number, np.float32) for number in (2**24, 1, 1, 1, 1, 1, 1, 1)]
    assert sums_over_ranks.as_they_come(gradients, 1)[0] == sums_over_ranks.as_they_come(gradients, 8)[0] == 2**24
    assert sums_over_ranks.as_they_come(gradients, 2)[0] == 2**24 + 4
    for ranks in sums_over_ranks.RANKS:  # (2^24 + 1) + 2, + 4
        assert sums_over_ranks.along_the_tree(gradients, ranks).tolist() == [2**24 + 6] * 4


CHAIN_FAULTS = {
    "the sum over the ranks is left out": (
        "own = self.communicator.reduce_scatter(Terms(PARTS, self.nodes, [gradient]), self.bounds[block])",
        "own = gradient[self.own[block]]",
    ),
    "updated weights are not gathered": ("if self.stage in (1, 2):", "if self.stage == 1:"),
    "gradients of stage 0 are not gathered": ("self.communicator.all_gather(gradient, self.bounds[block])", "pass"),
    "the loss is divided by the rows of a rank": ("np.float32(PARTS * ROWS)", "np.float32(len(self.parts) * ROWS)"),
    "a gradient of the step before is kept": ('        self.held["gradients", block].fill(0)\n', ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", CHAIN_FAULTS)
def test_faults_of_the_chain_change_the_weights(parts, fault):
    """Bits show each of them. (AdamW divides by the size of a gradient: the loss alone hides some.)"""
    faulty = planted(sharded_chain, *CHAIN_FAULTS[fault])
    expected = parts[2][1, 0][0].weights
    found = [run_ranks(4, lambda communicator, stage=stage: faulty.train(communicator, stage)) for stage in STAGES]
    assert any(rank.weights != expected for ranks in found for rank in ranks)


def test_the_gradient_of_the_chain():
    """The sum of all parts, against finite differences in one weight of every fourth block."""
    rank = run_ranks(1, lambda communicator: sharded_chain.Rank(communicator, 0))[0]
    rank.optimizer.step = lambda: None
    start = {block: rank.held["weights", block].astype(np.float64) for block in range(sharded_chain.BLOCKS)}
    rank.step(0)
    x0, targets = sharded_chain.batch(0)

    def loss(block, index, change):
        x = x0.astype(np.float64)
        for number, w in start.items():
            moved = w.copy()
            moved[index] += change if number == block else 0
            x, _ = sharded_chain.forward(x, *sharded_chain.matrices(moved))
        return 0.5 * ((x - targets) ** 2).sum() / (sharded_chain.PARTS * sharded_chain.ROWS)

    for block, index in ((0, 5), (4, 9000), (7, 16_000)):
        slope = (loss(block, index, 1e-4) - loss(block, index, -1e-4)) / 2e-4
        assert rank.held["gradients", block][index] == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_split_of_any_number_of_ranks(ranks):
    """Eight columns on three ranks: shares of 2, 3 and 3."""
    compared = split_matrices.compare(ranks) if ranks == 3 else None
    layer, whole = split_matrices.SplitMLP(ranks), split_matrices.SplitMLP(1)
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(layer.forward(x), whole.forward(x), rtol=1e-12)
    np.testing.assert_allclose(layer.backward(x), whole.backward(x), rtol=1e-12, atol=1e-12)
    for name, parameter in layer.parameters().items():
        np.testing.assert_allclose(parameter.grad, whole.parameters()[name].grad, rtol=1e-12, atol=1e-12)
    assert compared is None or compared.verdict == "passed"
