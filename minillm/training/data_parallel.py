"""Data parallelism: each CPU core computes some rows of the batch with its own model; gradients are
added.

The loss is a mean over the n tokens of the batch. With the rows cut into parts, and each part's sum
divided by n,

    loss = sum_i loss_i        dloss/dw = sum_i dloss_i/dw

The models share their weights (the same arrays) and have separate gradients. NumPy releases
Python's global lock inside every array operation, so threads run in parallel. Two cores with half a
batch each are faster than one batch whose matrix products are split over two cores, because the
work between the products is shared as well: benchmarks/train_step.py.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from inspect import signature

from minillm.backend.threads import blas_threads, cores
from minillm.errors import UserError
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.documents import check_starts

SWITCH_SECONDS = 1e-5  # how soon a thread that waits for Python's lock asks for it; 7 % of a small step on two cores


class DataParallel:
    """A model and its copies.

    Use it as a context manager: inside, the BLAS shares the cores among the copies.

    workers: the maximum number of parts of a batch. With 1, or if the number of threads of the BLAS
    cannot be set, the model itself does all the work. The copies are made from the model as it is
    now. Raises UserError for several workers if a custom model cannot be copied, or has a `loss`
    without `count`.
    """

    def __init__(self, model, workers: int):
        self.model = model
        if workers > 1:
            _check_loss(model)
        self.models = [model, *(model.replica() for _ in range(workers - 1))]
        self._parameters = [each.parameters() for each in self.models]
        self._dropouts = [
            [layer for _, layer in each.layers() if hasattr(layer, "batch_offset")] for each in self.models
        ]
        self._open, self._pool = ExitStack(), None

    def __enter__(self) -> DataParallel:
        if len(self.models) > 1:
            if self._open.enter_context(blas_threads(max(1, cores() // len(self.models)))):
                self._open.enter_context(_switch_interval(SWITCH_SECONDS))
                self._pool = self._open.enter_context(ThreadPoolExecutor(len(self.models) - 1, "minillm"))
            else:
                self.models = [self.model]
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()
        self._pool = None

    def loss(self, ids, targets, starts=None):
        """The mean loss on a batch (B, T), 0-d, without gradients. starts (B, T): of packed
        documents (layers/documents.py).

        The models are in evaluation mode meanwhile.
        """
        with self.evaluating():
            return self._run(_loss, ids, targets, None, starts)

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

    def loss_and_gradients(self, ids, targets, rng_key=None, starts=None, count=None):
        """The mean loss on a batch (B, T), 0-d; its gradient is added to `.grad` of the model's
        parameters. starts (B, T): of packed documents (layers/documents.py).

        count: what the sum of losses is divided by, if not by the number of targets that count.
        On a device the work is only queued when this returns: reading the loss waits for it.
        """

        def forward_and_backward(model, *part):
            loss = _loss(model, *part)
            model.backward()
            return loss

        loss = self._run(forward_and_backward, ids, targets, rng_key, starts, count)
        self.add_gradients()
        return loss

    def add_gradients(self) -> None:
        """Add the gradients of the copies to those of the model's parameters."""
        parameters, *copies = self._parameters
        for replica in copies:
            for name, copy in replica.items():
                if copy.grad is not None:
                    # forward: loss = sum_i loss_i
                    parameters[name].add_grad(copy.grad)
                    copy.zero_grad()

    def share(self, function, items) -> None:
        """function(item) for each item, on all cores: a core takes the next item when it is free.

        Items must not depend on each other: then the results do not depend on the number of cores.
        """
        queue, lock = iter(items), threading.Lock()

        def work():
            while True:
                with lock:
                    item = next(queue, queue)
                if item is queue:
                    return
                function(item)

        helpers = self.models[1:] if self._pool else []
        waiting = [self._pool.submit(copy_context().run, work) for _ in helpers]
        work()
        for future in waiting:
            future.result()

    def count(self, targets) -> int:
        """How many of the targets (B, T) count."""
        return int((targets != getattr(self.model.loss_head, "ignore_index", IGNORE_INDEX)).sum())

    def _run(self, task, ids, targets, rng_key, starts, count=None):
        """The sum of what `task` returns for each part; every part's loss is divided by the count
        of the whole batch, if no other is given.
        """
        if starts is not None:
            starts = check_starts(starts, ids.shape)
        count = self.count(targets) if count is None else count

        def of_part(model, ids, targets, starts=None):
            return task(model, ids, targets, rng_key, count, starts)

        first, *others = self.parts(of_part, ids, targets, *(() if starts is None else (starts,)))
        return first + sum(others) if others else first

    def parts(self, task, *arrays, rows_each: int = 1) -> list:
        """[task(model, *its entries of the arrays)] for each part of a batch, in order, each with a
        model of its own.

        rows_each: rows of tokens in an entry of the first array, two for a pair of texts.
        """
        ids = arrays[0]
        workers = max(1, min(len(self.models), len(ids)))  # the model itself has a part: gradients are added to its own
        bounds = [len(ids) * i // workers for i in range(workers + 1)]
        slices = [slice(first, last) for first, last in zip(bounds, bounds[1:])]
        parts = list(zip(self.models, self._dropouts, slices))
        for _, dropouts, rows in parts:
            for dropout in dropouts:
                dropout.batch_offset = rows_each * rows.start  # masks are those of the whole batch, however it is cut
        calls = [(task, model, *(array[rows] for array in arrays)) for model, _, rows in parts]
        # A thread does not inherit NumPy's error settings, so each call brings a copy of this
        # context.
        waiting = [self._pool.submit(copy_context().run, *call) for call in calls[1:]]
        first_task, *arguments = calls[0]
        first = first_task(*arguments)
        return [first, *(future.result() for future in waiting)]


def _loss(model, ids, targets, rng_key, count, starts):
    """The loss of a part. A custom model, whose loss may not take starts, gets them where there are
    some.
    """
    if starts is None:
        return model.loss(ids, targets, rng_key, count)
    if "starts" not in signature(model.loss).parameters:
        raise UserError(
            f"loss of {type(model).__name__} takes no starts, which packed documents need: define "
            "loss(self, ids, targets, rng_key=None, count=None, starts=None)"
        )
    return model.loss(ids, targets, rng_key, count, starts=starts)


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
