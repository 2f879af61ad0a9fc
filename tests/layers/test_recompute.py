"""Recomputed blocks: the same gradients to the last bit, from less memory."""

import tracemalloc

import numpy as np
import pytest
from planting import assert_gradients, planted

import minillm
from minillm.checks.cases import RECOMPUTE
from minillm.layers import recompute
from minillm.layers.dropout import Dropout

FAULTS = {
    "backward does not compute the block again": (
        "forward_with(block, x, rng_key, starts)\n    return block", "return block", "the same gradients to the last bit"),
    "the inside of a block is kept": ("block.forget_saved()", "pass", "nothing is kept between steps"),
}  # fmt: skip


@pytest.mark.parametrize("problem", RECOMPUTE.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RECOMPUTE, problem)


GPT2 = minillm.GPT2Config(vocab_size=50, context_length=64, n_layer=6, n_head=4, d_model=64, dropout=0.1)
LLAMA = minillm.LlamaConfig(vocab_size=50, context_length=64, n_layer=6, n_head=4, n_kv_head=2, d_model=64)


def model_of(config):
    return (minillm.GPT2 if config is GPT2 else minillm.Llama)(config, seed=3)


def gradients(config, recompute, device="cpu", batch=4):
    model = model_of(config).to(device).train()
    model.body.recompute = recompute
    ids = np.random.default_rng(0).integers(0, 50, (batch, 65))
    loss = model.loss(ids[:, :-1], ids[:, 1:], rng_key=(1, 2))
    model.backward()
    return float(loss), {name: parameter.grad for name, parameter in model.parameters().items()}


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_same_gradients_to_the_last_bit(config):
    (loss, kept), (again, recomputed) = gradients(config, False), gradients(config, True)
    assert loss == again
    for name in kept:
        np.testing.assert_array_equal(recomputed[name], kept[name], err_msg=name)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_it_takes_less_memory(config):
    peaks = []
    for recompute_blocks in (False, True):
        tracemalloc.start()
        gradients(config, recompute_blocks, batch=32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.5 * peaks[0]


def test_nothing_is_kept_between_steps():
    model = model_of(GPT2).train()
    model.body.recompute = True
    ids = np.zeros((2, 8), np.int64)
    model.loss(ids, ids, rng_key=(1,))
    assert all(layer._saved is None for block in model.transformer.h for _, layer in block.layers())
    model.backward()
    assert all(layer._saved is None for _, layer in model.layers())


def test_another_mask_in_the_second_pass_would_be_noticed(monkeypatch):
    """The comparison above can fail."""
    original = Dropout.layer_key
    calls = []
    monkeypatch.setattr(Dropout, "layer_key", lambda self, key: calls.append(1) or original(self, (*key, len(calls))))
    (_, kept), (_, recomputed) = gradients(GPT2, False), gradients(GPT2, True)
    assert any((kept[name] != recomputed[name]).any() for name in kept)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    before, after, _ = FAULTS[fault]
    faulty = planted(recompute, before, after)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("minillm.models.gpt2", "minillm.models.llama"):
            patch.setattr(f"{module}.run_blocks", faulty.run_blocks)
            patch.setattr(f"{module}.run_blocks_backward", faulty.run_blocks_backward)
        with pytest.raises((AssertionError, RuntimeError)):
            test_the_same_gradients_to_the_last_bit(GPT2)
            test_nothing_is_kept_between_steps()
