"""A pass through a model whose weights or gradients are shared among ranks: what happens where it
comes to a section, and where it leaves one.

    forward of a block      gather its weights          ZeRO-3 (sharded_weights.py)
                            release them
    backward of a block     gather its weights
                            start the sum of its gradients over the ranks, release its weights

All ranks go through the sections in the same order and at the same time. A rank, or one of its
threads, that has no part of the batch left in a round goes through them all the same and computes
nothing. The threads of a rank wait for each other at each section, and the first one speaks for
all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from minillm.backend.hooks import instrumented
from minillm.distributed.sharded_gradients import Rounds, ShardedGradients
from minillm.distributed.sharded_weights import ShardedWeights
from minillm.errors import UserError
from minillm.layers.sections import ABOVE, Sections


class ShardedPass:
    """The passes of one rank.

    models: one for each thread; they share their weights. rounds: who computes which part.
    gradients: None where nothing is trained. weights: those of each layout, for ZeRO-3; none where
    all weights are there.
    """

    def __init__(
        self,
        models: list,
        rounds: Rounds,
        rank: int,
        gradients: ShardedGradients | None = None,
        weights: Sequence[ShardedWeights] = (),
    ):
        self.models, self.rounds, self.rank = models, rounds, rank
        self.gradients, self.weights = gradients, list(weights)
        self.parameters = [model.parameters() for model in models]
        self.begin()

    def begin(self) -> None:
        """Before the first round."""
        self._threads = _Together(len(self.models))
        self._inside: dict[int, int] = {}  # section -> threads that need its weights
        self._lock = threading.Lock()
        if self.gradients is not None:
            self.gradients.begin()

    def of_thread(self, thread: int) -> Iterator[tuple[int, int | None]]:
        """(round, part) of a thread, where part is None if there is none left for it."""
        for number in range(self.rounds.count):
            yield number, self.rounds.part(number, self.rank, thread)

    def run(self, thread: int, number: int, tasks: Sequence[Callable | None], trains: bool) -> tuple[list, set[str]]:
        """Call each task, which takes a thread's model through forward, and through backward if it
        trains  ->  what the tasks returned, names of parameters that got no gradient

        All threads of all ranks call it for the round `number` with equally many tasks; one that
        has nothing to compute gives None. The gradients of all tasks are added, and summed over the
        ranks in the last one.
        """
        body, found = self.models[thread].body, []
        way = body.sections = _Way(self, thread, number, trains)
        try:
            if trains:
                self.gradients.put_home(self.parameters[thread], thread)
            for index, task in enumerate(tasks):
                way.begin(is_last=index == len(tasks) - 1)
                if task is None:
                    way.walk()
                else:
                    found.append(task())
                way.end()
        except BaseException as error:
            self._threads.abort(error)
            raise
        finally:
            del body.sections
        return found, way.missing

    # ------------------------------------------------------------------------------- one section

    def enter(self, thread: int, sections: Sequence[int]) -> None:
        """Wait for the weights of sections."""

        def gather():
            for section in sections:
                self._inside[section] = len(self.models)
                for weights in self.weights:
                    weights.gather(section)

        if self.weights:
            self._threads.together(thread, gather)

    def leave(self, sections: Sequence[int]) -> None:
        """A thread does not need the weights of sections any more."""
        if not self.weights:
            return
        with self._lock:
            for section in sections:
                self._inside[section] -= 1
                if not self._inside[section]:
                    for weights in self.weights:
                        weights.release(section)

    def reduce(self, thread: int, section: int, number: int) -> None:
        """Start the sum of a section's gradients over the parts of a round."""
        self._threads.together(thread, lambda: self.gradients.reduce(section, number))

    def finish(self, thread: int) -> None:
        """Wait for all sums of the round."""
        self._threads.together(thread, self.gradients.finish)


class _Way(Sections):
    """The way of one thread through its model."""

    def __init__(self, sharded: ShardedPass, thread: int, number: int, trains: bool):
        self._pass, self._thread, self._number, self._trains = sharded, thread, number, trains
        self._model = sharded.models[thread]
        self._blocks = len(self._model.blocks)
        self._ends = 0, self._blocks + 1
        self.missing: set[str] = set()

    def begin(self, is_last: bool) -> None:
        """Before forward. is_last: the gradients are complete after this one."""
        self._sums = self._trains and is_last
        self._visited: list[int] = []
        self._pass.enter(self._thread, self._ends)

    @contextmanager
    def weights(self, block: int) -> Iterator[None]:
        self._visited.append(block)
        self._pass.enter(self._thread, [block + 1])
        yield
        self._pass.leave([block + 1])

    def complete(self, block: int) -> None:
        if block == ABOVE:
            self._pass.leave(self._ends)
        if self._sums:
            self._sum(self._blocks + 1 if block == ABOVE else block + 1)

    def end(self) -> None:
        """After backward, or after forward where nothing is trained. Raises UserError for a model
        that does not go through its blocks as run_blocks does.
        """
        up = list(range(self._blocks))
        if self._visited != up + (up[::-1] if self._trains else []):
            raise UserError(
                f"{type(self._model.body).__name__} does not call run_blocks and run_blocks_backward with its sections "
                "(minillm/layers/recompute.py), by which blocks are shared: use --zero 1"
            )
        if not self._trains:
            self._pass.leave(self._ends)
        if self._sums:
            self._sum(0)  # what lies below is complete
            self._pass.finish(self._thread)
            self._check_nothing_came_late()

    def walk(self) -> None:
        """The same way, with nothing to compute."""
        for block in range(self._blocks):
            with self.weights(block):
                pass
        if self._trains:
            self.complete(ABOVE)
            for block in reversed(range(self._blocks)):
                with self.weights(block):
                    pass
                self.complete(block)

    def _sum(self, section: int) -> None:
        self.missing |= self._pass.gradients.collect(self._pass.parameters[self._thread], self._thread, section)
        self._pass.reduce(self._thread, section, self._number)

    def _check_nothing_came_late(self) -> None:
        for name, parameter in self._pass.parameters[self._thread].items():
            if parameter.grad is not None and not parameter.frozen:
                raise UserError(f"{name} got a gradient after its block's backward: such a model needs --zero 1")


class _Together:
    """The threads of a rank, where they do something together."""

    def __init__(self, threads: int):
        self._barrier = threading.Barrier(threads) if threads > 1 else None
        self._error: BaseException | None = None

    def together(self, thread: int, action: Callable[[], None]) -> None:
        """When all threads are here the first one calls `action`, and then all go on."""
        if self._barrier is None:
            action()
            return
        try:
            self._wait()
            if thread == 0:
                action()
            self._wait()
        except threading.BrokenBarrierError:
            raise self._error from None

    def _wait(self) -> None:
        instrumented("communication", "waiting for other threads", (), self._barrier.wait)

    def abort(self, error: BaseException) -> None:
        """End the waiting of the others, with the error of this thread."""
        self._error = self._error or error
        if self._barrier is not None:
            self._barrier.abort()
