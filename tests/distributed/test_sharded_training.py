"""Training on several ranks is training on one: the same losses and weights, and planted faults that are noticed.

Ranks are threads here. The reference is a plain loop, without parts, ranks or flat arrays, in float64.
"""

import sys

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.random_streams import stream
from minillm.backend.threads import blas_threads
from minillm.distributed import gradients, rank_threads, sharding, tree
from minillm.distributed.layout import Layout
from minillm.lessons import split_matrices
from minillm.optim import AdamW, clip
from minillm.training import data_parallel

CONFIG = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=16, dropout=0.2)
ROWS, PARTS, STEPS = 7, 5, 3  # parts of unequal length; two ranks have the parts 0, 1 and 2, 3, 4
IDS, TARGETS = (stream("test", name).integers(11, (STEPS, ROWS, 8)) for name in ("ids", "targets"))
TARGETS[:, 2, 3:] = -100  # a row with fewer that count
LR, CLIP = 1e-2, 0.5


def optimizer_of(model):
    return AdamW(model.parameters(), weight_decay=0.5)


def model_of():
    model = minillm.GPT2(CONFIG, seed=1)
    for parameter in model.parameters().values():
        parameter.value = parameter.value.astype(np.float64)
    return model


@pytest.fixture(scope="module")
def plain():
    losses, norms, weights = plain_loop()
    assert max(norms) > CLIP  # else a fault of clipping would change nothing
    return losses, norms, weights


def plain_loop():
    """(losses, norms, weights)."""
    model, losses, norms = model_of(), [], []
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        losses.append(float(model.loss(IDS[step], TARGETS[step], ("dropout", step))))
        model.backward()
        norm, scale = clip(optimizer.parameters, CLIP, 1)
        norms.append(float(norm))
        optimizer.lr = LR
        optimizer.step(scale)
        optimizer.zero_grad()
    return losses, norms, np.concatenate([p.value.ravel() for p in model.parameters().values()])


def train(communicator):
    """What `plain` returns, by a rank."""
    model, losses, norms = model_of(), [], []
    optimizer = optimizer_of(model)
    layout = Layout({name: parameter.value.shape for name, parameter in optimizer.parameters.items()})
    sharded = sharding.Sharded(optimizer, layout, communicator)
    with data_parallel.DataParallel(model, 1, PARTS, communicator, layout) as parallel:
        for step in range(STEPS):
            losses.append(float(parallel.loss_and_gradients(IDS[step], TARGETS[step], ("dropout", step))))
            norm, scale = parallel.clip(optimizer.parameters, CLIP, 1)
            norms.append(float(norm))
            sharded.step(parallel.own_gradients, LR, scale, parallel.share, parallel.missing)
            optimizer.zero_grad()
    return losses, norms, np.concatenate([p.value.ravel() for p in model.parameters().values()])


def what_notices(ranks: int, plain, shares_memory: bool = False) -> str:
    """Train on `ranks` ranks: "an error", what is not as in the plain loop, or "nothing"."""
    try:
        with blas_threads(1):
            found = rank_threads.run_ranks(ranks, train, shares_memory)
    except (KeyError, ValueError, RuntimeError, TypeError, minillm.errors.UserError):
        return "an error"
    for losses, norms, weights in found:
        for name, number, expected in (
            ("the first loss", losses[0], plain[0][0]),
            ("the first norm", norms[0], plain[1][0]),
            ("the weights", weights, plain[2]),
            ("the losses", losses, plain[0]),
        ):
            if not np.allclose(number, expected, rtol=1e-9, atol=1e-9):
                return name
    return "nothing"


@pytest.mark.parametrize("shares_memory", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_training_is_that_of_a_plain_loop(ranks, shares_memory, plain):
    assert what_notices(ranks, plain, shares_memory) == "nothing"


def test_parts_without_rows(monkeypatch):
    """Two rows, five parts: some ranks compute nothing, and update what they own."""
    monkeypatch.setattr(sys.modules[__name__], "IDS", IDS[:, 1:3])
    monkeypatch.setattr(sys.modules[__name__], "TARGETS", TARGETS[:, 1:3])
    expected = plain_loop()
    for ranks in (1, 2, 5):
        assert what_notices(ranks, expected) == "nothing"


@pytest.mark.parametrize("shares_memory", [False, True])
def test_the_bits_do_not_depend_on_the_number_of_ranks(shares_memory):
    with blas_threads(1):
        found = {ranks: rank_threads.run_ranks(ranks, train, shares_memory) for ranks in (1, 2, 3, 5)}
    for of_ranks in found.values():
        for losses, norms, weights in of_ranks:
            assert (losses, norms) == found[1][0][:2]
            assert weights.tobytes() == found[1][0][2].tobytes()


# ------------------------------------------------------------------------------------------------------ planted faults

FAULTS_OF_DATA_PARALLEL = {
    "a part's loss is divided by its own count": (
        "loss_of(model, part, rng_key, count)",
        "loss_of(model, part, rng_key, None)",
        "the first loss",
    ),
    "each part draws the dropout masks of the first rows": ("= rows_each * rows.start", "= 0", "the first loss"),
    "the sum over the ranks is left out": (
        "gradients.sum(self.share)",
        "gradients.terms().arrays[0]",
        "the first norm",
    ),
    "the norm is that of the own cells": (
        "math.fsum(np.concatenate(squares))",
        "math.fsum(squares[self.communicator.rank])",
        "the first norm",
    ),
    "losses and squares are not exchanged": (
        "self.communicator.all_gather(message, list(starts))",
        "pass",
        "the first loss",
    ),
    "the norm is not clipped": ("clip_scale(norm, max_norm) / accumulated", "1.0 / accumulated", "the weights"),
}
FAULTS_OF_GRADIENTS = {
    "a part is added twice": ("slots[i] += slots[j]", "slots[i] += 2 * slots[j]", "the first norm"),
    "of a rank's terms only the first is summed": (
        "found += arrays[: len(nodes_of(part, self.parts))]",
        "found += arrays[:1]",
        "an error",
    ),
    "all ranks compute the parts of the first": (
        "parts_of(r * threads + t, workers, parts) for",
        "parts_of(t, workers, parts) for",
        "an error",
    ),
}
FAULTS_OF_SHARDING = {
    "a shard is updated twice": (
        "self._optimizers[0].step(scale)",
        "[self._optimizers[0].step(scale) for _ in range(2)]",
        "the weights",
    ),
    "updated weights are not gathered": (
        "self.communicator.all_gather(self.weights, self.layout.bounds(section, self.communicator.size))",
        "pass",
        "the weights",
    ),
    "all ranks update the first slice": (
        "        return self.layout.owned(self.communicator.rank,",
        "        return self.layout.owned(0,",
        "the weights",
    ),
    "steps are not counted": ("self.optimizer.step_count += 1", "pass", "the weights"),
    "a piece has the gradient of another place": (
        "gradients[piece.place].reshape",
        "gradients[piece.part].reshape",
        "the weights",
    ),
    "weights keep their old arrays": ("parameters[name].value = view", "pass", "the weights"),
    "a piece of a matrix is not decayed": (", len(piece.entry.shape)", ", len(piece.shape)", "the weights"),
    "the scale of clipping is left out": (
        "self._optimizers[0].step(scale)",
        "self._optimizers[0].step(1.0)",
        "the weights",
    ),
}
FAULTS_OF_THE_TREE = {
    "a child is left out of the sum": ("    left += right\n", "", "the first loss"),
    "a worker leaves out its last part": ("* (worker + 1) // workers)", "* (worker + 1) // workers - 1)", "an error"),
}
FAULTS_OF_COLLECTIVES = {
    "a rank adds its own terms alone": (
        "for rank in range(self.size) for node",
        "for rank in [self.rank] for node",
        "an error",
    ),
    "a rank sums the slice of the next one": (
        "own = slice(bounds[self.rank], bounds[self.rank + 1])",
        "own = slice(bounds[self.rank - 1], bounds[self.rank])",
        "the first norm",
    ),
    "slices are gathered from the first rank": (
        "for rank, other in enumerate(given):",
        "for rank, other in enumerate([given[0]] * self.size):",
        "the first loss",
    ),
}
TABLES = {
    data_parallel: FAULTS_OF_DATA_PARALLEL,
    gradients: FAULTS_OF_GRADIENTS,
    sharding: FAULTS_OF_SHARDING,
    tree: FAULTS_OF_THE_TREE,
    rank_threads: FAULTS_OF_COLLECTIVES,
}


def plant(monkeypatch, module, right: str, wrong: str) -> None:
    """Put the functions and classes of the faulty module in the place of the right ones, wherever they are imported."""
    faulty = vars(planted(module, right, wrong))
    rooms = ("minillm.distributed", "minillm.training")
    for user in [user for name, user in sys.modules.items() if name.startswith(rooms)]:
        for name, value in list(vars(user).items()):
            if getattr(value, "__module__", None) == module.__name__ and name in faulty:
                monkeypatch.setattr(user, name, faulty[name])


@pytest.mark.parametrize("module, fault", [(module, fault) for module, table in TABLES.items() for fault in table])
def test_planted_faults_are_noticed(module, fault, plain, monkeypatch):
    right, wrong, by = TABLES[module][fault]
    plant(monkeypatch, module, right, wrong)
    assert what_notices(2, plain) == by


FAULTS_OF_SPLIT_MATRICES = {
    "the sum in backward is left out": ("        communicator.sum(dx)\n", "        pass\n"),
    "the sum in forward is left out": ("    communicator.sum(y)\n", ""),
    "the bias is added on each rank": (
        'if way == "bias added on each rank":\n        y += b',
        "if True:\n        y += b",
    ),
}


@pytest.mark.parametrize("fault", FAULTS_OF_SPLIT_MATRICES)
def test_faults_of_split_matrices_are_noticed(fault):
    faulty = planted(split_matrices, *FAULTS_OF_SPLIT_MATRICES[fault])
    assert faulty.compare(2).verdict == "wrong"
