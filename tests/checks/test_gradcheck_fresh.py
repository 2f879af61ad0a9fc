"""Freshly made models, whose weights are far smaller than the first step: right gradients pass, wrong ones do not."""

import numpy as np
import pytest

import minillm
from minillm.checks.gradcheck import CannotTell, GradientError

KINDS = {"gpt2": (minillm.GPT2, minillm.GPT2Config), "llama": (minillm.Llama, minillm.LlamaConfig)}
WIDTHS = {4: 4, 8: 2, 16: 1}  # width -> how many seeds: a check's time grows with its square


def fresh(kind, width, seed):
    """(model, ids, targets)"""
    model, config = KINDS[kind]
    settings = dict(vocab_size=9, context_length=6, n_layer=1, n_head=2, d_model=width)
    settings |= dict(n_kv_head=1, d_ff=2 * width) if kind == "llama" else {}
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(settings["vocab_size"], size=(2, 2, 5))
    return model(config(**settings), seed=seed, dtype="float64"), ids, targets


@pytest.mark.parametrize("kind, width, seed", [("gpt2", 4, 0), ("gpt2", 8, 1), ("llama", 4, 2), ("llama", 8, 3)])
def test_fresh_models_pass(kind, width, seed):
    assert minillm.gradcheck(*fresh(kind, width, seed)).verdict == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("width, seed", [(width, seed) for width, seeds in WIDTHS.items() for seed in range(seeds)])
@pytest.mark.parametrize("kind", KINDS)
def test_all_fresh_models_pass(kind, width, seed):
    assert minillm.gradcheck(*fresh(kind, width, seed)).verdict == "passed"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2e-6, -2e-6])
def test_an_error_in_the_sixth_digit_of_a_fresh_model_is_seen(kind, size):
    model, ids, targets = fresh(kind, 4, 0)
    name = [name for name, parameter in model.parameters().items() if parameter.value.ndim == 2][-2]
    parameter, add = model.parameters()[name], type(model.parameters()[name]).add_grad
    parameter.add_grad = lambda gradient: add(parameter, gradient * (1 + size))
    parameter.grad_place = lambda: (None, False)  # no product adds to the gradient past add_grad
    with pytest.raises(GradientError, match=f"the gradient of {name}.* is wrong at") as caught:
        minillm.gradcheck(model, ids, targets)
    assert not isinstance(caught.value, CannotTell)
    row = caught.value.report.worst
    assert row.error == pytest.approx(2e-6, rel=0.6) and row.uncertainty < 1e-6 * abs(row.numeric)
