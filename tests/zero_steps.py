"""Training steps of ranks that are threads of the test, with ZeRO 1, 2 or 3."""

from __future__ import annotations

import numpy as np

import minillm
from minillm.distributed.alone import Alone
from minillm.distributed.rank_threads import run_ranks
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.training.sharded_parallel import among_ranks

VOCABULARY, CONTEXT, PARTS = 67, 16, 8
GPT2 = minillm.GPT2Config(vocab_size=VOCABULARY, context_length=CONTEXT, n_layer=3, n_head=2, d_model=32, dropout=0.1)
LLAMA = minillm.LlamaConfig(vocab_size=VOCABULARY, context_length=CONTEXT, n_layer=3, n_head=4, n_kv_head=2, d_model=32)


def new_model(config, lora=False, recompute=False):
    model = (minillm.GPT2 if isinstance(config, minillm.GPT2Config) else minillm.Llama)(config, seed=3)
    if lora:
        add_lora(model, LoRA(4))
    model.body.recompute = recompute
    return model.train()


def batches(steps, micro_steps, rows=PARTS):
    rng = np.random.default_rng(1)
    return rng.integers(0, VOCABULARY, (steps, micro_steps, rows, CONTEXT + 1))


class Trainer:
    """One rank's training, as the loop has it.

    zero: 1, 2 or 3. threads: of each rank. model: see new_model.
    """

    def __init__(
        self, communicator, config, zero, threads=1, parts=PARTS, optimizer=minillm.AdamW, micro_steps=1, **model
    ):
        self.model = new_model(config, **model)
        optimizer = optimizer(self.model.trainable_parameters(), lr=1e-2)
        self.parallel, self.sharded = among_ranks(
            self.model, optimizer, parts, threads, communicator, zero, micro_steps > 1
        )
        self.parallel.prepare()

    def step(self, step: int, windows) -> tuple[float, float]:
        """windows (micro-steps, B, T + 1)  ->  loss, norm"""

        def task(model, part, number):
            count = windows[number, :, 1:].size
            loss = model.loss(*part, rng_key=(0, step, number), count=count)
            model.backward()
            return (loss,)

        (loss,) = self.parallel.gradients(task, [(each[:, :-1], each[:, 1:]) for each in windows])
        norm, scale = self.parallel.clip(None, 1.0, len(windows))
        self.sharded.step(self.parallel.own_gradients, 1e-2, scale, self.parallel.share, self.parallel.missing)
        self.sharded.optimizer.zero_grad()
        return float(loss), norm

    def evaluate(self, windows) -> float:
        return float(self.parallel.loss(windows[:, :-1], windows[:, 1:]))

    def all_weights(self) -> dict:
        """Copies of all weights."""
        with self.parallel.all_weights():
            return {name: p.value.copy() for name, p in self.model.parameters().items()}


def trained(communicator, config=GPT2, zero=1, steps=3, threads=1, micro_steps=1, rows=PARTS, **settings):
    """(losses and norms of the steps, the loss in evaluation, all weights, bytes sent) of a rank."""
    trainer = Trainer(communicator, config, zero, threads, micro_steps=micro_steps, **settings)
    windows = batches(steps, micro_steps, rows)
    with trainer.parallel:
        numbers = [trainer.step(step, windows[step]) for step in range(steps)]
        numbers.append(trainer.evaluate(windows[0, 0]))
    sent = dict(communicator.sent)
    return numbers, trainer.all_weights(), sent


def alone(config=GPT2, **settings):
    """What one process computes."""
    return trained(Alone(), config, 1, **settings)


def on_ranks(ranks, zero, config=GPT2, shares_memory=False, **settings):
    """What each rank computes."""
    return run_ranks(ranks, lambda communicator: trained(communicator, config, zero, **settings), shares_memory)


def assert_same_bits(found, expected):
    numbers, weights, _ = found
    assert numbers == expected[0]
    assert list(weights) == list(expected[1])
    for name, value in expected[1].items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
