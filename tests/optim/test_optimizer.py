"""The contract of an optimizer of your own: a formula, named state, a name for --optimizer, and a run that resumes."""

import threading

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.errors import UserError
from minillm.optim import OPTIMIZERS, Optimizer, optimizer
from minillm.training import data_parallel
from minillm.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from minillm.training.settings import TrainingSettings


class Lion(Optimizer):
    state_names = ("momentum",)

    def update(self, w, g, decay, momentum):
        beta1, beta2 = self.betas
        direction = np.sign(beta1 * momentum + (1 - beta1) * g)
        return w - self.lr * (direction + decay * w), beta2 * momentum + (1 - beta2) * g


def model_with(kind, seed=0):
    config = minillm.GPT2Config(vocab_size=7, context_length=6, n_layer=1, n_head=2, d_model=4)
    model = minillm.GPT2(config, seed=seed).train()
    return model, kind(model.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)


def take(steps, model, optimizer):
    ids = np.arange(6)[None]
    losses = []
    for _ in range(steps):
        losses.append(float(model.loss(ids, ids)))
        model.backward()
        optimizer.step(0.5)
        optimizer.zero_grad()
    return losses


def test_it_says_what_it_is():
    """In words of its settings, those of its own included, and how far it is."""
    model, optimizer = model_with(Lion)
    take(2, model, optimizer)
    count = sum(parameter.value.size for parameter in model.parameters().values())
    settings = "lr=0.01, betas=(0.9, 0.99), eps=1e-08, weight_decay=0.1"
    assert repr(optimizer) == f"Lion({count} parameters, {settings}, step_count=2)"
    muon = OPTIMIZERS["muon"](model.parameters(), momentum=0.8, adamw_lr=0.002)
    assert repr(muon).endswith("weight_decay=0.1, momentum=0.8, adamw_lr=0.002, step_count=0)")


def test_one_step_is_the_formula():
    w = minillm.Parameter(np.array([[1.0, -2.0]]))
    lion = Lion({"w": w}, lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    w.grad = np.array([[3.0, -4.0]])
    lion.step(0.5)
    assert w.value == pytest.approx(np.array([[1 - 0.1 * (1 + 0.5), -2 - 0.1 * (-1 - 1)]]))
    assert lion.state["momentum"]["w"] == pytest.approx(np.array([[0.015, -0.02]]))


@pytest.mark.parametrize("kind", [Lion, *OPTIMIZERS.values()])
def test_it_learns_and_a_checkpoint_has_its_state(tmp_path, kind):
    model, whole = model_with(kind)
    losses = take(6, model, whole)
    assert losses[-1] < losses[0]
    other, first = model_with(kind)
    take(3, other, first)
    (tmp_path / "training").mkdir()
    save_checkpoint(tmp_path, other, first, Progress(step=3), {"settings": {}, "model": {}})
    resumed, second = model_with(kind, seed=1)
    load_checkpoint(tmp_path, resumed, second, 3)
    assert second.step_count == 3
    assert take(3, resumed, second) == losses[3:]
    for name, parameter in model.parameters().items():
        assert (parameter.value == resumed.parameters()[name].value).all(), name


def test_a_name_makes_it_an_option(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "lion", Lion)
    made = TrainingSettings(optimizer="lion", lr=0.2, beta1=0.7).make_optimizer({"w": minillm.Parameter(np.ones(2))})
    assert type(made) is Lion and made.lr == 0.2 and made.betas[0] == 0.7


@pytest.mark.parametrize("returned", [None, np.ones(2), (np.ones(2), np.ones(3))])
def test_an_update_that_returns_something_else_is_named(returned):
    parameter = minillm.Parameter(np.zeros(2))
    made = Lion({"w": parameter})
    made.update = lambda *arguments: returned
    parameter.grad = np.ones(2)
    with pytest.raises(TypeError, match="Lion.update has to return w, momentum, each of the shape of w"):
        made.step()
    assert (parameter.value == 0).all()


def test_a_class_without_a_formula_says_what_is_missing():
    parameter = minillm.Parameter(np.zeros(2))
    parameter.grad = np.ones(2)
    with pytest.raises(NotImplementedError, match=r"Optimizer has no update\(w, g, decay, \)"):
        Optimizer({"w": parameter}).step()


def test_biases_and_norms_are_not_decayed():
    matrix, vector = minillm.Parameter(np.ones((2, 2))), minillm.Parameter(np.ones(2))
    made = Lion({"matrix": matrix, "vector": vector}, weight_decay=0.3)
    assert (made.decay_of(matrix), made.decay_of(vector)) == (0.3, 0.0)
    faulty = planted(optimizer, "if dimensions >= 2 else 0.0", "").Optimizer({}, weight_decay=0.3)
    assert faulty.decay_of(vector) == 0.3


def test_betas_are_two_numbers():
    with pytest.raises(UserError, match=r"betas is 0.9: give two numbers, as \(0.9, 0.99\)"):
        minillm.AdamW({}, betas=0.9)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_a_step_that_cores_share_has_the_same_bits(monkeypatch, kind):
    """A batch of one part, which the BLAS computes on all cores, leaves the step to `share`."""
    monkeypatch.setattr(data_parallel, "cores", lambda: 3)
    weights, threads = [], set()
    for shares in (False, True):
        model, optimizer = model_with(kind)
        with data_parallel.DataParallel(model, 1) as parallel:
            if shares:
                optimizer.share = lambda function, items: parallel.share(seen(function, threads), items)
            take(3, model, optimizer)
        weights.append([p.value.tobytes() for p in model.parameters().values()])
    assert weights[0] == weights[1]
    assert threads


def seen(function, threads):
    def run(item):
        threads.add(threading.get_ident())
        function(item)

    return run
