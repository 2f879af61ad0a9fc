import numpy as np
import pytest

from minillm import GPT2, AdamW, GPT2Config
from minillm.backend.random_streams import stream
from minillm.lessons.small_training import training

CONFIG = GPT2Config(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=8, dropout=0.1, bias=False)


def batch(step):
    windows = stream(0, step).integers(11, (4, 9))
    return windows[:, :-1], windows[:, 1:]


def test_it_is_forward_backward_clip_and_step():
    model, expected = GPT2(CONFIG, seed=1), GPT2(CONFIG, seed=1)
    optimizer, by_hand = AdamW(model.parameters()), AdamW(expected.parameters())
    steps = []
    for step in training(model, optimizer, batch, lambda step: 0.1 / (step + 1), steps=3, seed=7):
        steps.append(step)
        model.eval()  # as a caller does who looks at the loss
    assert steps == [0, 1, 2, 3]
    for step in range(3):
        expected.loss(*batch(step), rng_key=(7, "dropout", step))
        expected.backward()
        gradients = [parameter.grad for parameter in expected.parameters().values()]
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        by_hand.lr = 0.1 / (step + 1)
        by_hand.step(min(1.0, 1.0 / norm))
        by_hand.zero_grad()
    for name, parameter in expected.parameters().items():
        assert model.parameters()[name].value == pytest.approx(parameter.value, abs=1e-5), name
