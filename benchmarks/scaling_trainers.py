"""What each contestant of benchmarks/scaling.py does in a step, and the parts of a step that its model of time is made of."""

from __future__ import annotations

import time

import numpy as np

import minillm
from minillm.backend.threads import blas_threads
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.gradients import complete, put_home
from minillm.distributed.layout import CELL
from minillm.distributed.model_sections import layout_for
from minillm.distributed.sharding import Sharded
from minillm.distributed.tree import parts_of
from minillm.optim import clip
from minillm.training.data_parallel import loss_of
from minillm.training.sharded_parallel import among_ranks

SETTINGS = dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)


def batch_of(config, batch_size: int) -> tuple:
    """(ids, targets), random tokens: the same in all ranks."""
    windows = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, config.context_length + 1))
    return windows[:, :-1], windows[:, 1:]


class OurTrainer:
    """A training step as `minillm train` takes it (training/loop.py, training/step.py).

    parts: S, the threads of all ranks. Made before the communicator is started, which it does.
    """

    def __init__(self, config, batch_size: int, communicator: Communicator, threads: int):
        self.batch, parts = batch_of(config, batch_size), communicator.size * threads
        self.model = minillm.GPT2(config, seed=0).train()
        self.optimizer = minillm.AdamW(self.model.parameters(), **SETTINGS)
        self.parallel, self.sharded = among_ranks(self.model, self.optimizer, parts, threads, communicator)
        self.parallel.prepare()
        communicator.start()

    def __enter__(self) -> OurTrainer:
        self.parallel.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.parallel.__exit__(*exception)

    def step(self) -> None:
        self.parallel.loss_and_gradients(*self.batch)
        _, scale = self.parallel.clip(self.optimizer.parameters, 1.0, 1)
        if self.sharded is not None:
            self.sharded.step(self.parallel.own_gradients, SETTINGS["lr"], scale, self.parallel.share)
        else:
            self.optimizer.share = self.parallel.share
            self.optimizer.step(scale)
        self.optimizer.zero_grad()


class PartTrainer:
    """What a rank does by itself in a step with N ranks: forward and backward of its part, and the
    update of its share. There are N of these at work at the same time, which exchange nothing.

    rank, ranks: as if it were one of several.
    """

    def __init__(self, config, batch_size: int, rank: int, ranks: int):
        rows = parts_of(rank, ranks, batch_size)
        self.part = tuple(array[rows.start : rows.stop] for array in batch_of(config, batch_size))
        self.count = batch_size * config.context_length
        self.model = minillm.GPT2(config, seed=0).train()
        self.parameters = self.model.parameters()
        self.optimizer = minillm.AdamW(self.parameters, **SETTINGS)
        self.sharded, self.views = None, {}
        if ranks > 1:
            layout = layout_for(self.model, self.optimizer)
            self.sharded = Sharded(self.optimizer, layout, Silent(rank, ranks))
            self.gradients = np.zeros(layout.size, np.float32)
            self.views = layout.views(self.gradients)

    def __enter__(self) -> PartTrainer:
        self._blas = blas_threads(1)
        self._blas.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._blas.__exit__(*exception)

    def step(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        put_home(self.parameters, self.views)
        loss_of(self.model, self.part, None, self.count)
        self.model.backward()
        complete(self.parameters, self.views)

    def update(self) -> float:
        """Seconds of the norm and of AdamW. After `step`, as caches then are as in a whole step."""
        started = time.perf_counter()
        if self.sharded is None:
            _, scale = clip(self.parameters, 1.0)
            self.optimizer.step(scale)
        else:
            cells = self.gradients[self.sharded.owned[0]].reshape(-1, CELL)
            np.einsum("ij,ij->i", cells, cells)
            self.sharded.step(self.gradients, SETTINGS["lr"], 1.0, map)
        return time.perf_counter() - started


class Silent(Alone):
    """A rank of several that exchanges nothing: what it does between the collectives is timed."""

    def __init__(self, rank: int, size: int):
        super().__init__()
        self.rank, self.size = rank, size


class CollectiveTimer:
    """Times collectives on arrays of up to `largest` bytes, that ranks have just written."""

    def __init__(self, communicator: Communicator, largest: int):
        self.communicator, count = communicator, largest // 4
        memory = communicator.of_each(count, np.float32)
        self.weights = communicator.shared(count, np.float32)
        communicator.start()
        self.own = np.zeros(count, np.float32) if memory is None else memory[communicator.rank]
        self.everyone = memory

    def __enter__(self) -> CollectiveTimer:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def time(self, name: str, size: int) -> float:
        """Seconds of a reduce_scatter or an all_gather of `size` bytes, a term for each rank."""
        ranks, count = self.communicator.size, size // 4
        cells = count // CELL
        bounds = [CELL * (cells * rank // ranks) for rank in range(ranks + 1)]
        nodes = [[(rank, rank + 1)] for rank in range(ranks)]
        everyone = self.everyone and [[array[:count]] for array in self.everyone]
        terms = Terms(ranks, nodes, [self.own[:count]], everyone)
        own = slice(*bounds[self.communicator.rank : self.communicator.rank + 2])
        if name == "reduce_scatter":
            self.own[:count] = 1.0
        else:
            self.weights[own] = 1.0
        self.communicator.barrier()
        started = time.perf_counter()
        if name == "reduce_scatter":
            self.communicator.reduce_scatter(terms, bounds)
        else:
            self.communicator.all_gather(self.weights[:count], bounds)
        return time.perf_counter() - started
