"""Data parallelism: a batch is cut into parts, the cores and processes compute the parts, and the
gradients are added.

The loss is a mean over the n tokens of the batch. With the rows cut into S parts, and each part's
sum divided by n,

    loss = sum_i loss_i        dloss/dw = sum_i dloss_i/dw        i = 0 ... S - 1

Each part's gradient is computed alone, on one core, and the parts are added along one fixed tree
(distributed/tree.py). So the result has the same bits however many threads and processes there are.

Within a process threads compute parts, each with its own model: the models share their weights (the
same arrays) and have separate gradients. NumPy releases Python's global lock inside every array
operation, so threads run in parallel. Two cores with half a batch each are faster than one batch
whose matrix products are split over two cores, because the work between the products is shared as
well: benchmarks/train_step.py.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from inspect import signature

import numpy as np

from minillm.backend.arrays import array_module, to_host
from minillm.backend.threads import blas_threads, cores
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.gradients import Gradients, complete, put_home
from minillm.distributed.layout import CELL, Layout
from minillm.distributed.tree import add_up, parts_of
from minillm.errors import UserError
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.documents import check_starts
from minillm.optim import clip
from minillm.optim.global_norm import clip_scale
from minillm.training.grid import of_grid

SWITCH_SECONDS = 1e-5  # how soon a thread that waits for Python's lock asks for it; 7 % of a small step on two cores


class DataParallel:
    """A model and its copies, one for each thread of this process.

    Use it as a context manager: inside, the BLAS shares the cores among the threads.

    threads: of this process. parts: S, by default as many as threads; with 1 the batch stays whole.
    communicator: the other processes, each with as many threads. layout: that of the flat arrays of
    gradients, by default one of all parameters that learn. tensor: the processes that share the
    model with this one (grid.py); threads is 1 then. The copies are made from the model as it is
    now. stop: set it to ask all ranks to end; `stopping` says, after a step, whether any did.

    Raises UserError for several parts if a custom model cannot be copied, has a `loss` without
    `count`, or weights of several dtypes.
    """

    def __init__(
        self,
        model,
        threads: int,
        parts: int | None = None,
        communicator: Communicator | None = None,
        layout: Layout | None = None,
        tensor: Communicator | None = None,
    ):
        self.model, self.communicator, self.tensor = model, communicator or Alone(), tensor or Alone()
        self.n_parts = max(1, parts or threads)
        threads = max(1, min(threads, self.n_parts))
        if self.n_parts > 1:
            _check_loss(model)
        self.models = [model, *(model.replica() for _ in range(threads - 1))]
        self._layout, self._gradients = layout, None
        self._dropouts = [
            [layer for _, layer in each.layers() if hasattr(layer, "batch_offset")] for each in self.models
        ]
        self._open, self._pool, self._sharers = ExitStack(), None, 1
        self.stop = self.stopping = False
        self._squares = 0.0

    def __enter__(self) -> DataParallel:
        if self._is_flat:
            # One thread each, however many cores there are: another number could give other bits.
            can_be_set = self._open.enter_context(blas_threads(1))
            if not can_be_set and self.communicator.size == 1:
                self.models = self.models[:1]
            self._sharers = len(self.models)
        elif self.model.device == "cpu":  # the BLAS computes the one part on all cores, which `share` uses afterwards
            self._sharers = cores()
        if self._sharers > 1:
            self._open.enter_context(_switch_interval(SWITCH_SECONDS))
            self._pool = self._open.enter_context(ThreadPoolExecutor(self._sharers - 1, "minillm"))
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()
        self._pool, self._sharers = None, 1

    # ------------------------------------------------------------------------------ loss and gradients

    def loss(self, ids, targets, starts=None):
        """The mean loss on a batch (B, T), 0-d, without gradients. starts (B, T): of packed
        documents (layers/documents.py).

        The models are in evaluation mode meanwhile.
        """
        count = self.count(targets)
        with self.evaluating():
            (loss,) = self.sums(
                lambda model, part, _: (loss_of(model, part, None, count),), [_batch(ids, targets, starts)]
            )
        return loss

    def loss_and_gradients(self, ids, targets, rng_key=None, starts=None, count=None):
        """The mean loss on a batch (B, T), 0-d; its gradient is added to `.grad` of the model's
        parameters. starts (B, T): of packed documents (layers/documents.py).

        count: what the sum of losses is divided by, if not by the number of targets that count.
        On a device the work is only queued when this returns: reading the loss waits for it.
        """
        count = self.count(targets) if count is None else count

        def forward_and_backward(model, part, _):
            loss = loss_of(model, part, rng_key, count)
            model.backward()
            return (loss,)

        (loss,) = self.gradients(forward_and_backward, [_batch(ids, targets, starts)])
        return loss

    @contextmanager
    def evaluating(self):
        """Inside, the models are in evaluation mode."""
        was_training = self.model.training
        for model in self.models:
            model.eval()
        try:
            yield
        finally:
            for model in self.models:
                model.train(was_training)

    @contextmanager
    def all_weights(self, keep: bool = False):
        """Inside, every rank has all weights; they always are there, but where ranks share them
        (sharded_parallel.py). All ranks enter it together. keep: afterwards, too.
        """
        yield

    def sums(self, task: Callable, batches: Sequence[tuple], rows_each: int = 1, width: int = 1) -> tuple:
        """The sum over all parts of what task(model, part of a batch, number of the batch) returns:
        a tuple of `width` numbers, 0-d.

        batches: tuples of arrays, whose rows are cut. rows_each: rows of tokens in an entry of the
        first array, two for a pair of texts.
        """
        if self.n_parts == 1 and self.communicator.size == 1:
            return _added(self._of_part(0, 0, task, batches, rows_each))
        found = self._compute(lambda thread, part: self._of_part(thread, part, task, batches, rows_each))
        return self._added_up(self._exchanged(vectors_of(found, width), width))

    def gradients(self, task: Callable, batches: Sequence[tuple], rows_each: int = 1, width: int = 1) -> tuple:
        """As `sums`, for a task that runs backward as well. The model's parameters get the sum of
        the gradients of all parts and batches, or, with several ranks, of what this rank owns:
        `own_gradients` (distributed/sharding.py).

        A part is computed for one batch after the other, and its gradients are added before those
        of the parts are.
        """
        if not self._is_flat:
            return _added(self._of_part(0, 0, task, batches, rows_each))
        gradients, missing = self._flat_gradients(), []
        kept = {name: p.grad.copy() for name, p in self._parameters[0].items() if p.grad is not None}
        for parameter in self._parameters[0].values():  # as model.zero_grad(), which looks for them in all layers
            parameter.zero_grad()

        def parts_of_thread(thread: int) -> dict:
            running, found = gradients.running(thread), {}
            for part in gradients.range_of(thread):
                views = gradients.views(thread, running.slot())
                put_home(self._parameters[thread], views)
                found[part] = self._of_part(thread, part, task, batches, rows_each)
                without = complete(self._parameters[thread], views)
                if found[part]:  # a part without rows has no gradients, and says nothing of the others
                    missing.append(without)
                running.added(part)
            return found

        found = self._on_threads(parts_of_thread)
        self.own_gradients = gradients.sum(self.share)
        squares = [squares_of_cells(self.own_gradients[own]) for own in self._owned()]
        numbers = self._exchanged(vectors_of(found, width), width, np.concatenate(squares), missing)
        if self.communicator.size == 1:
            self._hand_out(kept)
        return self._added_up(numbers)

    def clip(self, parameters, max_norm: float, accumulated: int):
        """The norm of all gradients divided by `accumulated`, and the scale that clips it: see
        optim/global_norm.py.
        """
        if self._gradients is None:
            return clip(parameters, max_norm, accumulated)
        norm = math.sqrt(self._squares) / accumulated
        return norm, clip_scale(norm, max_norm) / accumulated

    def count(self, targets) -> int:
        """How many of the targets (B, T) count."""
        return int((targets != getattr(self.model.loss_head, "ignore_index", IGNORE_INDEX)).sum())

    def parts(self, task: Callable, *arrays, rows_each: int = 1) -> list:
        """[task(model, *its rows of the arrays)] for each part of a batch that has rows, in order.
        Every rank computes all of them.
        """
        bounds = [len(arrays[0]) * i // self.n_parts for i in range(self.n_parts + 1)]
        numbers = [part for part, (first, last) in enumerate(zip(bounds, bounds[1:])) if first < last]
        threads = len(self.models)

        def parts_of_thread(thread: int) -> dict:
            own = parts_of(thread, threads, len(numbers))
            return {
                part: task(self.models[thread], *self._rows(thread, part, arrays, rows_each))
                for part in (numbers[i] for i in own)
            }

        found = self._on_threads(parts_of_thread)
        return [found[part] for part in numbers]

    # ------------------------------------------------------------------------------- the threads

    def share(self, function: Callable, items) -> None:
        """function(item) for each item, on all cores: a core takes the next item when it is free.

        Items must not depend on each other: then the results do not depend on the number of cores.
        """
        queue, lock = iter(items), threading.Lock()

        def work(_):
            while True:
                with lock:
                    item = next(queue, queue)
                if item is queue:
                    return {}
                function(item)

        self._on_threads(work, self._sharers)

    def _on_threads(self, work: Callable, threads: int | None = None) -> dict:
        """work(thread) on each thread, which returns a dict: all of them together. threads: how
        many there are, by default one for each model.
        """
        helpers = range(1, threads or len(self.models)) if self._pool else ()
        # A thread does not inherit NumPy's error settings, so each call brings a copy of this
        # context.
        waiting = [self._pool.submit(copy_context().run, work, thread) for thread in helpers]
        found = work(0)
        for future in waiting:
            found |= future.result()
        return found

    def _compute(self, of_part: Callable) -> dict:
        """Part -> of_part(thread, part), for the parts of this rank."""
        ranks, rank, threads = self.communicator.size, self.communicator.rank, len(self.models)

        def parts_of_thread(thread: int) -> dict:
            own = parts_of(rank * threads + thread, ranks * threads, self.n_parts)
            return {part: of_part(thread, part) for part in own}

        return self._on_threads(parts_of_thread)

    def _of_part(self, thread: int, part: int, task: Callable, batches, rows_each: int) -> list:
        """What `task` returns for a part of each batch; nothing for one that has no rows there."""
        found = []
        for number, batch in enumerate(batches):
            rows = self._rows(thread, part, batch, rows_each)
            if len(rows[0]):
                found.append(task(self.models[thread], rows, number))
        return found

    def _rows(self, thread: int, part: int, arrays, rows_each: int) -> tuple:
        """The rows of a part. Dropout masks are those of the whole batch, however it is cut."""
        rows = parts_of(part, self.n_parts, len(arrays[0]))
        for dropout in self._dropouts[thread]:
            dropout.batch_offset = rows_each * rows.start
        return tuple(array[rows.start : rows.stop] for array in arrays)

    # --------------------------------------------------------------------------- gradients and ranks

    def _flat_gradients(self) -> Gradients:
        if self._gradients is None:
            self._parameters = [each.parameters() for each in self.models]
            learning = {name: p.peek() for name, p in self._parameters[0].items() if not p.frozen}
            self._layout = self._layout or Layout({name: value.shape for name, value in learning.items()})
            dtype = one_dtype({name: learning[name] for name in self._layout.entries})
            self._gradients = Gradients(self._layout, dtype, self.n_parts, len(self.models), self.communicator)
        return self._gradients

    def prepare(self) -> None:
        """Allocate what all ranks share, before the processes are started."""
        if self._is_flat:
            self._flat_gradients()

    @property
    def _is_flat(self) -> bool:
        """Whether gradients are added in flat arrays: not where one process has one part."""
        return self.n_parts > 1 or self.communicator.size > 1 or self.tensor.size > 1

    def _owned(self, rank: int | None = None) -> list[slice]:
        rank = self.communicator.rank if rank is None else rank
        return self._layout.owned(rank, self.communicator.size)

    def _hand_out(self, kept: dict) -> None:
        """Give the parameters their gradients, and those that they had before."""
        for name, view in self._layout.views(self.own_gradients).items():
            if name not in self.missing:
                self._parameters[0][name].grad = view
        for name, grad in kept.items():
            self._parameters[0][name].add_grad(grad)

    def _exchanged(self, vectors: dict, width: int, squares=None, missing: Sequence[set] = ()) -> np.ndarray:
        """The step's message: (S, width), the numbers of all ranks' parts. With `squares`, those of
        this rank's own cells, the sum of squares of all cells is known afterwards, whether any rank
        is to stop, and which parameters have a gradient in any. missing: for each part of this rank
        the names of parameters without one; all are where it has no rows.
        """
        ranks, names = self.communicator.size, () if squares is None else tuple(self._layout.entries)
        flags = 1 + len(names)
        sizes = [
            0 if squares is None else flags + sum(o.stop - o.start for o in self._owned(r)) // CELL
            for r in range(ranks)
        ]
        parts = [self._parts_of_rank(rank) for rank in range(ranks)]
        starts = np.cumsum([0, *(size + len(own) * width for size, own in zip(sizes, parts))])
        message = np.zeros(starts[-1])
        own = message[starts[self.communicator.rank] : starts[self.communicator.rank + 1]]
        if squares is not None:
            without = set.intersection(*missing) if missing else set(names)
            own[:flags] = self.stop, *(name not in without for name in names)
            own[flags : flags + len(squares)] = squares
        table = own[sizes[self.communicator.rank] :].reshape(-1, width)
        for row, part in zip(table, parts[self.communicator.rank]):
            row[:] = vectors[part]
        self.communicator.all_gather(message, list(starts))
        found = [message[a:b] for a, b in zip(starts, starts[1:])]
        if squares is not None:
            have = np.any([each[1:flags] for each in found], axis=0)
            self.missing = {name for name, has in zip(names, have) if not has}
            squares = [each[flags:size] for each, size in zip(found, sizes)]
            self.stopping, self._squares = any(each[0] for each in found), math.fsum(np.concatenate(squares))
            if self.tensor.size > 1:
                self._exchange_with_tensor_ranks(squares)
        numbers = np.empty((self.n_parts, width))
        for own, each, size in zip(parts, found, sizes):
            numbers[list(own)] = each[size:].reshape(-1, width)
        return numbers

    def _parts_of_rank(self, rank: int) -> Sequence[int]:
        """Which parts a rank computes."""
        return parts_of(rank, self.communicator.size, self.n_parts)

    def _exchange_with_tensor_ranks(self, squares: list[np.ndarray]) -> None:
        """Whether a rank with another part of the model is to stop, and the sum of squares of all
        gradients (grid.py). squares: of the cells that each data-parallel rank owns.
        """
        of_sections: list[list] = [[] for _ in self._layout.sections]
        for rank, cells in enumerate(squares):
            lengths = [(owned.stop - owned.start) // CELL for owned in self._owned(rank)]
            for section, own in zip(of_sections, np.split(cells, np.cumsum(lengths)[:-1])):
                section.append(own)
        sums = [math.fsum(np.concatenate(section)) for section in of_sections]
        cut = {name for name, parameter in self._parameters[0].items() if parameter.cut is not None}
        are_parts = [self._layout.name_at(section) in cut for section in self._layout.sections]
        self.stopping, self._squares = of_grid(self.tensor, self.stopping, sums, are_parts)

    def _added_up(self, numbers: np.ndarray) -> tuple:
        """The sum over the parts, along the tree."""
        return tuple(add_up({(i, i + 1): row for i, row in enumerate(numbers)}, (0, self.n_parts)))


def loss_of(model, part: tuple, rng_key, count):
    """The loss of a part (ids, targets) or (ids, targets, starts). A custom model, whose loss may
    not take starts, gets them where there are some.
    """
    ids, targets, *starts = part
    if not starts:
        return model.loss(ids, targets, rng_key, count)
    if "starts" not in signature(model.loss).parameters:
        raise UserError(
            f"loss of {type(model).__name__} takes no starts, which packed documents need: define "
            "loss(self, ids, targets, rng_key=None, count=None, starts=None)"
        )
    return model.loss(ids, targets, rng_key, count, starts=starts[0])


def one_dtype(arrays: dict):
    """The dtype of all arrays. Raises UserError, by name, where they have several."""
    (first, *_), dtypes = arrays, {name: array.dtype for name, array in arrays.items()}
    other = next((name for name in dtypes if dtypes[name] != dtypes[first]), None)
    if other is not None:
        raise UserError(
            f"{first} is {dtypes[first]} and {other} is {dtypes[other]}: parts of a batch are added in one array of one "
            "dtype; use --batch-parts 1, or one dtype"
        )
    return dtypes[first]


def _batch(ids, targets, starts) -> tuple:
    return (ids, targets) if starts is None else (ids, targets, check_starts(starts, ids.shape))


def _added(found: list[tuple]) -> tuple:
    """The sum over batches of what a task returned for each: entry by entry."""
    return tuple(sum(rest, first) for first, *rest in zip(*found))


def vectors_of(found: dict, width: int) -> dict:
    """Part -> its numbers (width,), float64 on the host, summed over batches; zeros for a part
    without rows.
    """
    return {
        part: np.array([float(to_host(number)) for number in _added(each)]) if each else np.zeros(width)
        for part, each in found.items()
    }


def squares_of_cells(own) -> np.ndarray:
    """The sum of squares of each cell of a slice, float64: added within a cell in the gradient's
    own precision, so that it does not depend on who owns the cell.
    """
    cells = own.reshape(-1, CELL)
    return to_host(array_module(cells).einsum("ij,ij->i", cells, cells)).astype(np.float64)


def _check_loss(model) -> None:
    try:
        signature(model.loss).bind("ids", "targets", "key", "count")
    except TypeError:
        raise UserError(
            f"loss of {type(model).__name__} takes no (ids, targets, rng_key, count): several workers divide each part of "
            "a batch by the count of the whole; add the argument, or use one worker"
        ) from None


@contextmanager
def _switch_interval(seconds: float):
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
