"""python -m benchmarks.tensor_parallel: a step of one model that N ranks share: its time, its bytes, its memory.

    python -m benchmarks.tensor_parallel                           N = 1, then 2 processes of this machine
    mpiexec -n 2 python -m benchmarks.tensor_parallel              N = 1 in rank 0, then all ranks by MPI

A step is loss, backward and AdamW of a GPT-2 with a vocabulary of 8,192. Each rank has one thread. Shown are, for rank 0,
the tokens of a second, the share of the time in which it exchanges or waits for others, the bytes that it sends beside
what the formula of minillm/models/tensor_parallel.py says, and its memory: weights, gradients and both moments, and the
peak of what a step allocates beside the weights.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np

import minillm
from minillm.backend.threads import blas_threads
from minillm.distributed.alone import Alone
from minillm.distributed.launch import world
from minillm.distributed.workers import Workers
from minillm.models.tensor_parallel import tensor_parallel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="of this machine, without mpiexec")
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--n-layer", type=int, default=6)
    parser.add_argument("--n-head", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    ranks, rows = world(), []
    if ranks.rank == 0:
        rows.append(measured(given, Alone()))
    if ranks.size == 1:
        with Workers(given.ranks) as ranks:
            ranks.start()
            rows.append(measured(given, ranks))
    else:
        rows.append(measured(given, ranks))
    if ranks.rank == 0:
        show(given, rows, ranks.where)


def measured(given, communicator) -> dict:
    """The numbers of this rank. All ranks of the communicator call it."""
    shape = {name: getattr(given, name) for name in ("d_model", "n_layer", "n_head", "vocab_size", "context_length")}
    model = minillm.GPT2(minillm.GPT2Config(**shape), seed=0).train()
    ids = np.random.default_rng(0).integers(given.vocab_size, size=(given.batch_size, given.context_length + 1))
    with blas_threads(1):
        watch = Watch(communicator)
        tensor_parallel(model, watch if communicator.size > 1 else communicator)
        optimizer = minillm.AdamW(model.parameters(), lr=1e-4)

        def step() -> float:
            optimizer.zero_grad()
            communicator.barrier()
            watch.seconds, began = 0.0, time.perf_counter()
            model.loss(ids[:, :-1], ids[:, 1:])
            model.backward()
            optimizer.step()
            return time.perf_counter() - began

        step()
        communicator.sent.clear()
        times = sorted((step(), watch.seconds) for _ in range(given.repeats))
        sent = sum(bytes_ for name, bytes_ in communicator.sent.items() if name != "barrier") / given.repeats
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    seconds, exchanging = times[len(times) // 2]
    weights = sum(parameter.value.size for parameter in model.parameters().values())
    return dict(
        ranks=communicator.size,
        tokens=given.batch_size * given.context_length / seconds,
        exchanging=exchanging / seconds,
        sent=sent,
        formula=formula(given, communicator.size),
        state=16 * weights,  # float32: weight, gradient, two moments
        peak=peak,
    )


def formula(given, ranks: int) -> float:
    """Bytes that a rank sends in a step: activations of (n, C) 4 times a block, for the table and for the head; n maxima
    and 3 n terms of the loss.
    """
    rows = given.batch_size * given.context_length
    return 4 * rows * ((4 * given.n_layer + 2) * given.d_model + 4) * 2 * (ranks - 1) / ranks


class Watch:
    """A communicator that measures how long it takes. seconds: so far."""

    def __init__(self, communicator):
        self._communicator, self.seconds = communicator, 0.0
        self.rank, self.size = communicator.rank, communicator.size

    def sum(self, array) -> None:
        self._timed(self._communicator.sum, array)

    def maximum(self, array) -> None:
        self._timed(self._communicator.maximum, array)

    def _timed(self, exchange, array) -> None:
        began = time.perf_counter()
        exchange(array)
        self.seconds += time.perf_counter() - began


def show(given, rows: list[dict], where: str) -> None:
    """The table."""
    print(
        f"GPT-2, {given.n_layer} layers of {given.d_model}, {given.batch_size} x {given.context_length} tokens; {where}"
    )
    print(f"{'ranks':>5} {'tokens/s':>9} {'exchanging':>10} {'sent':>9} {'formula':>9} {'state':>9} {'peak':>9}")
    for row in rows:
        sizes = " ".join(f"{row[name] / 1e6:>6.1f} MB" for name in ("sent", "formula", "state", "peak"))
        print(f"{row['ranks']:>5} {row['tokens']:>9.0f} {row['exchanging']:>10.0%} {sizes}")


if __name__ == "__main__":
    main()
