"""The sharded optimizer (ZeRO-1): each rank updates the weights that it owns, and keeps the
optimizer's state for those alone.

Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models" (SC 2020), section 5.1. With P weights, N ranks, and K numbers of state a weight
(AdamW: 2):

    g_r = reduce_scatter(gradients)          the own P/N of the sum over all ranks
    w_r, state_r = step(w_r, g_r, state_r)   the own P/N of weights and state
    w = all_gather(w_r)

    state of a rank     K P       ->   K P / N         the other ranks' part is nowhere in its memory
    bytes sent          2 P (N-1)/N   ->   the same    the sum of plain data parallelism is these two

Every element has one owner, and its step is the one that it would have in one process: the same
bits. What is owned is a slice of a flat buffer (layout.py), so that a parameter may have several
owners; its pieces are Parameters for the optimizer. Within a rank its threads share the pieces in
the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import CELL, Layout, Piece
from minillm.distributed.sharded_weights import ShardedWeights
from minillm.errors import UserError
from minillm.layers.layer import Parameter


@dataclass(frozen=True)
class Held:
    """What a rank has of a parameter: a piece, its weights, and its state by name."""

    piece: Piece
    value: object
    state: dict


def held_by(optimizer, layout: Layout, rank: int, ranks: int) -> list[Held]:
    """What one of some ranks has of an optimizer whose arrays are whole: views of them.

    Of a weight that is not in C order it is a copy.
    """
    found = []
    for piece in layout.pieces(layout.owned(rank, ranks)):
        name, part = piece.entry.name, piece.part
        state = {kind: array.reshape(-1)[part] for kind, array in _of_name(optimizer.state, name).items()}
        found.append(Held(piece, optimizer.parameters[name].peek().reshape(-1)[part], state))
    return found


def complete_state(optimizer, held: Sequence[Held], layout: Layout, communicator: Communicator) -> dict:
    """The optimizer's state as one process has it, kind -> name -> array: all ranks call it, and
    each gets it from those that hold it.
    """
    found = {}
    for kind, arrays in optimizer.state.items():
        flat = np.zeros(layout.size, next(iter(arrays.values())).dtype) if arrays else np.zeros(layout.size)
        for each in held:
            if kind in each.state:
                flat[each.piece.place] = each.state[kind].reshape(-1)
        for section in layout.sections:
            communicator.all_gather(flat, layout.bounds(section, communicator.size))
        views = layout.views(flat)
        found[kind] = {name: views[name] for name in arrays}
    return found


class Sharded:
    """An optimizer among the ranks of a communicator, and among the threads of this one.

    optimizer: as one process has it, of all parameters; their values become views of one flat
    array. Where ranks share memory its state does, too, and is complete in every rank; otherwise a
    rank keeps the state of its own pieces. sharded_weights: where each rank keeps its own weights
    alone (ZeRO-3); the flat array is theirs. All ranks make it together.
    """

    def __init__(
        self,
        optimizer,
        layout: Layout,
        communicator: Communicator,
        threads: int = 1,
        sharded_weights: ShardedWeights | None = None,
    ):
        self.optimizer, self.layout, self.communicator = optimizer, layout, communicator
        self._sharded_weights = sharded_weights
        self._own_memory = communicator.size > 1 and not communicator.shares_memory
        if getattr(optimizer, "state_is_spread", False):
            raise UserError(
                "the optimizer's state is spread over the ranks that trained: open the run again (resume_run)"
            )
        self._flatten()
        self._threads = threads if not layout.whole else 1
        self._optimizers: list | None = None

    def step(self, gradients, lr: float, scale, share: Callable, missing=frozenset()) -> None:
        """Update the weights that this rank owns from the flat gradients (size,), whose owned
        slices are complete, times `scale`; then all ranks have all weights.

        share: see `Gradients.sum`. missing: names of parameters that have no gradient. Raises as
        Optimizer.step.
        """
        if self._optimizers is None:
            self._optimizers = [self._restricted(pieces, gradients) for pieces in self._by_thread() if pieces]
            if self._own_memory:
                self._forget_the_whole_state()
        for each in self._optimizers:
            each.lr, each.weight_decay, each.step_count = lr, self.optimizer.weight_decay, self.optimizer.step_count
            if not each.elementwise:  # others are shared already
                each.share = share
            for piece, parameter in each.pieces:
                parameter.grad = None if piece.entry.name in missing else gradients[piece.place].reshape(piece.shape)
        self.optimizer.lr = lr
        if len(self._optimizers) == 1:
            self._optimizers[0].step(scale)
        else:
            share(lambda each: each.step(scale), self._optimizers)
        self.optimizer.step_count += 1
        if self._sharded_weights is not None:
            return  # the next pass gathers them
        for section in self.layout.sections:
            self.communicator.all_gather(self.weights, self.layout.bounds(section, self.communicator.size))

    @property
    def owned(self) -> list[slice]:
        """The slices of the flat arrays that this rank owns."""
        return self.layout.owned(self.communicator.rank, self.communicator.size)

    def held(self) -> list[Held]:
        """What this rank has of each parameter, as checkpoints need it."""
        if not self._optimizers:
            return held_by(self.optimizer, self.layout, self.communicator.rank, self.communicator.size)
        return [
            Held(piece, parameter.value, _of_name(each.state, piece.entry.name))
            for each in self._optimizers
            for piece, parameter in each.pieces
        ]

    # ------------------------------------------------------------------------------- the flat arrays

    def _flatten(self) -> None:
        """Make every weight, and where ranks share memory every state, a view of a flat array."""
        parameters, layout = self.optimizer.parameters, self.layout
        dtype = next(iter(parameters.values())).peek().dtype
        if self._sharded_weights is not None:
            self.weights = self._sharded_weights.array
            self._sharded_weights.fill(parameters)
        else:
            self.weights = self.communicator.shared(layout.size, dtype)
            for name, view in layout.views(self.weights).items():
                view[...] = parameters[name].peek()
                parameters[name].value = view
        if self.communicator.size > 1 and self.communicator.shares_memory:
            for arrays in self.optimizer.state.values():
                views = layout.views(self.communicator.shared(layout.size, dtype))
                for name in arrays:
                    views[name][...] = arrays[name]
                    arrays[name] = views[name]

    def _by_thread(self) -> list[list[Piece]]:
        """The own pieces, shared among the threads."""
        if self._threads == 1:
            return [self.layout.pieces(self.owned)]
        return [
            self.layout.pieces([_share(slice_, thread, self._threads) for slice_ in self.owned])
            for thread in range(self._threads)
        ]

    def _forget_the_whole_state(self) -> None:
        """Each rank has the state of its pieces now: the arrays of whole parameters give their
        memory back.
        """
        for arrays in self.optimizer.state.values():
            for name, array in arrays.items():
                arrays[name] = np.broadcast_to(np.zeros((), array.dtype), array.shape)
        self.optimizer.state_is_spread = True

    def _restricted(self, pieces: list[Piece], gradients):
        """The optimizer of some pieces."""
        parameters, state, kept = {}, {kind: {} for kind in self.optimizer.state}, []
        for piece in pieces:
            name = piece.entry.name
            parameter = Parameter(self.weights[piece.place].reshape(piece.shape))
            whole = self.optimizer.parameters[name]
            parameter.outputs_axis, parameter.whole_ndim = whole.outputs_axis, len(piece.entry.shape)
            parameter.cut = whole.cut if piece.is_whole else None
            parameters[name] = parameter
            kept.append((piece, parameter))
            for kind, arrays in self.optimizer.state.items():
                if name in arrays:
                    part = arrays[name].reshape(-1)[piece.part].reshape(piece.shape)
                    state[kind][name] = part.copy() if self._own_memory else part
        restricted = self.optimizer.restricted(parameters, state)
        restricted.pieces = kept
        return restricted


def _of_name(state: dict, name: str) -> dict:
    """Of the state of all parameters that of one, by its kind."""
    return {kind: arrays[name] for kind, arrays in state.items() if name in arrays}


def _share(owned: slice, thread: int, threads: int) -> slice:
    """A thread's share of a slice, in whole cells."""
    cells = (owned.stop - owned.start) // CELL
    return slice(
        owned.start + CELL * (cells * thread // threads), owned.start + CELL * (cells * (thread + 1) // threads)
    )
