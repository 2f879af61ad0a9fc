"""Steps of training by processes of this machine: the bits of one process."""

import numpy as np
import pytest

import minillm
from minillm.distributed.alone import Alone
from minillm.distributed.workers import Workers
from minillm.training.sharded_parallel import among_ranks

CONFIG = dict(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=16, dropout=0.1)
PARTS = 4
ROWS = (4, 1, 3, 7)  # of each step's batch: with fewer than parts some ranks have none


def trained(communicator, threads: int = 1):
    """(losses and norms of all steps, the weights after them)"""
    model = minillm.GPT2(minillm.GPT2Config(**CONFIG), seed=0).train()
    optimizer = minillm.AdamW(model.parameters(), lr=1e-2)
    parallel, sharded = among_ranks(model, optimizer, PARTS, threads, communicator)
    parallel.prepare()
    communicator.start()
    rng, numbers = np.random.default_rng(0), []
    with parallel:
        for step, rows in enumerate(ROWS):
            ids = rng.integers(0, 11, (rows, 9))
            loss = parallel.loss_and_gradients(ids[:, :-1], ids[:, 1:], rng_key=(0, "dropout", step))
            norm, scale = parallel.clip(optimizer.parameters, 1.0, 1)
            sharded.step(parallel.own_gradients, 1e-2, scale, parallel.share, parallel.missing)
            optimizer.zero_grad()
            numbers.append((float(loss), norm))
    return numbers, sharded.weights


@pytest.mark.parametrize(("ranks", "threads"), [(2, 1), (3, 1), (2, 2), (4, 1)])
def test_processes_train_as_one_does(ranks, threads):
    expected, weights = trained(Alone())
    with Workers(ranks, 60) as communicator:
        numbers, own = trained(communicator, threads)
        assert numbers == expected and (own == weights).all()
    np.testing.assert_array_equal(own, weights)
