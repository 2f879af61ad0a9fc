"""Data parallelism where ranks share gradients (ZeRO-2) or weights as well (ZeRO-3): all ranks go
through the model at the same time (distributed/sharded_pass.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import Layout
from minillm.distributed.model_sections import ModelSections, layout_for, sections_of
from minillm.distributed.sharded_gradients import Rounds, ShardedGradients
from minillm.distributed.sharded_pass import ShardedPass
from minillm.distributed.sharded_weights import ShardedWeights
from minillm.distributed.sharding import Sharded
from minillm.distributed.tree import parts_of
from minillm.training.data_parallel import DataParallel, one_dtype, squares_of_cells, vectors_of


def among_ranks(
    model, optimizer, parts: int, threads: int, communicator: Communicator, zero: int = 1, accumulates: bool = False
) -> tuple[DataParallel, Sharded | None]:
    """What computes the gradients of a model in `parts` parts, and its optimizer, among the ranks
    of a communicator with so many threads each; no optimizer where one part is computed by one
    rank.

    zero: what ranks share (Machine.zero); 3 is 2 where they share memory, in which weights exist
    once for all of them. accumulates: whether a step has several batches.
    """
    if parts == 1 and communicator.size == 1:
        return DataParallel(model, threads, parts, communicator), None
    zero = zero if communicator.size > 1 else 1
    sections, layout = sections_of(model), layout_for(model, optimizer, zero)
    weights = []
    if zero == 3 and not communicator.shares_memory:
        weights = _sharded_weights(model, sections, layout, communicator)
    sharded = Sharded(optimizer, layout, communicator, min(threads, parts), weights[0] if weights else None)
    if zero == 1:
        return DataParallel(model, threads, parts, communicator, layout), sharded
    return ShardedParallel(model, threads, parts, communicator, sections, layout, weights, accumulates), sharded


def _sharded_weights(model, sections: ModelSections, layout: Layout, communicator) -> list[ShardedWeights]:
    """Those that learn, of which the optimizer takes over the values, and those that are frozen, as
    LoRA's base, which are the larger part.
    """
    parameters = model.parameters()
    found = [
        ShardedWeights(layout, one_dtype({name: parameters[name].peek() for name in layout.entries}), communicator)
    ]
    frozen = {name: parameter for name, parameter in parameters.items() if parameter.frozen}
    if frozen:
        dtype = one_dtype({name: parameter.peek() for name, parameter in frozen.items()})
        found.append(ShardedWeights(sections.layout(frozen), dtype, communicator))
        found[-1].fill(frozen)
    return found


class ShardedParallel(DataParallel):
    """As DataParallel, for several ranks.

    sections: of the model; layout: of its gradients, with these sections. weights: those that are
    sharded, for ZeRO-3. accumulates: whether `gradients` is called with several batches.
    """

    def __init__(
        self,
        model,
        threads: int,
        parts: int,
        communicator: Communicator,
        sections: ModelSections,
        layout: Layout,
        weights: Sequence[ShardedWeights] = (),
        accumulates: bool = False,
    ):
        super().__init__(model, threads, parts, communicator, layout)
        self._sections, self._weights, self._accumulates = sections, weights, accumulates
        self._rounds = Rounds(self.n_parts, communicator.size, len(self.models))
        self._made_pass: ShardedPass | None = None

    def prepare(self) -> None:
        """Allocate what all ranks share, before the processes are started."""
        learning = {name: p.peek() for name, p in self.model.parameters().items() if name in self._layout.entries}
        self._gradients = ShardedGradients(
            self._layout,
            one_dtype(learning),
            self._rounds,
            self.communicator,
            self._sections.above_first,
            self._accumulates,
        )

    def sums(self, task: Callable, batches: Sequence[tuple], rows_each: int = 1, width: int = 1) -> tuple:
        """See DataParallel. With sharded weights all ranks go through their blocks together."""
        if not self._weights:
            return super().sums(task, batches, rows_each, width)
        found, _ = self._passes(task, batches, rows_each, trains=False)
        return self._added_up(self._exchanged(vectors_of(found, width), width))

    def gradients(self, task: Callable, batches: Sequence[tuple], rows_each: int = 1, width: int = 1) -> tuple:
        """See DataParallel. `own_gradients` has the sum for what this rank owns."""
        found, missing = self._passes(task, batches, rows_each, trains=True)
        self.own_gradients = self._gradients.total()
        squares = [squares_of_cells(self.own_gradients[own]) for own in self._owned()]
        numbers = self._exchanged(vectors_of(found, width), width, np.concatenate(squares), missing)
        return self._added_up(numbers)

    @contextmanager
    def all_weights(self, keep: bool = False) -> Iterator[None]:
        """See DataParallel. It takes the memory of all weights P, and sends P (N-1)/N."""
        for each in self._weights:
            each.gather_all()
        yield
        for each in () if keep else self._weights:
            each.release_all()

    @property
    def _pass(self) -> ShardedPass:
        """Made once the processes have started and know their ranks."""
        if self._made_pass is None:
            rank = self.communicator.rank
            self._made_pass = ShardedPass(self.models, self._rounds, rank, self._gradients, self._weights)
        return self._made_pass

    def _passes(self, task: Callable, batches, rows_each: int, trains: bool) -> tuple[dict, list[set]]:
        """Part -> what `task` returned for each batch; and for each part the parameters without a
        gradient.
        """
        sharded, missing = self._pass, []
        sharded.begin()

        def rounds_of_thread(thread: int) -> dict:
            found = {}
            for number, part in sharded.of_thread(thread):
                tasks = [
                    partial(self._task, thread, part, task, batch, rows_each, i) for i, batch in enumerate(batches)
                ]
                tasks = [each if self._has_rows(part, batch) else None for each, batch in zip(tasks, batches)]
                results, without = sharded.run(thread, number, tasks, trains)
                if part is not None:
                    found[part] = results
                    missing.append(without)
            return found

        return self._on_threads(rounds_of_thread), missing

    def _task(self, thread: int, part: int, task: Callable, batch, rows_each: int, number: int):
        return task(self.models[thread], self._rows(thread, part, batch, rows_each), number)

    def _has_rows(self, part: int | None, batch) -> bool:
        return part is not None and len(parts_of(part, self.n_parts, len(batch[0]))) > 0

    def _compute(self, of_part: Callable) -> dict:
        def parts_of_thread(thread: int) -> dict:
            dealt = (self._rounds.part(number, self.communicator.rank, thread) for number in range(self._rounds.count))
            return {part: of_part(thread, part) for part in dealt if part is not None}

        return self._on_threads(parts_of_thread)

    def _parts_of_rank(self, rank: int) -> list[int]:
        return [part for number in range(self._rounds.count) for part in self._rounds.of_rank(number, rank)]
