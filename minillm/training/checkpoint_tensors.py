"""What a checkpoint holds, and which rank writes which numbers of it.

    model.NAME                       a weight
    first_moment.NAME, ...           a state of the optimizer, by its name

The file is that of one process, however many there are. A rank writes the weights and the state of
those pieces of parameters that its optimizer has. What all ranks have as a whole (frozen weights;
everything, where the optimizer is not shared among them) they share out, tensor by tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import Layout, Piece
from minillm.files.safetensors_parts import Part, Spec

WEIGHTS = "model"


class CheckpointTensors:
    """specs: shape and type of each tensor of the file, in all ranks the same. own: what this rank
    writes. needed: what it reads: the weights as a whole, and the state that it has.

    pieces: name -> what of this parameter the optimizer of this rank has; None: it has all of each.
    Called by all ranks.
    """

    def __init__(self, model, optimizer, communicator: Communicator, pieces: Mapping[str, Piece] | None = None):
        self._communicator = communicator
        weights = {name: parameter.value for name, parameter in model.parameters().items()}
        starts = {name: 0 if pieces is None else pieces[name].part.start for name in optimizer.parameters}
        state = [
            Part(f"{kind}.{name}", starts[name], array)
            for kind, arrays in optimizer.state.items()
            for name, array in arrays.items()
        ]
        whole = [Part(f"{WEIGHTS}.{name}", 0, array) for name, array in weights.items()]
        self.needed = whole + state
        if pieces is None:
            self.specs = {part.name: Spec.of(part.array) for part in whole + state}
            self.own = self._share(whole + state)
        else:
            learning = {
                f"{WEIGHTS}.{name}": Part(f"{WEIGHTS}.{name}", starts[name], parameter.value)
                for name, parameter in optimizer.parameters.items()
            }
            kinds = [WEIGHTS, *optimizer.state]
            names = [f"{kind}.{name}" for kind in kinds for name in weights]
            sharded = self._in_any_rank(names, {*learning, *(part.name for part in state)})
            of_model = {f"{kind}.{name}": Spec.of(array) for kind in kinds for name, array in weights.items()}
            self.specs = {part.name: of_model[part.name] for part in whole} | {name: of_model[name] for name in sharded}
            self.own = [*learning.values(), *state, *self._share([part for part in whole if part.name not in sharded])]

    def check_complete(self) -> None:
        """Raises RuntimeError, in all ranks, unless their parts make up each tensor, with nothing twice.

        Parts that follow each other from 0 to n, whoever has them, cancel in the sum

            sum over parts (h(stop) - h(start)) = h(n) - h(0)        h(x): 64 bits drawn by x

        and no others do, but by a chance of 1 in 2^64.
        """
        found = dict.fromkeys(self.specs, 0)
        for part in self.own:
            found[part.name] += _drawn(part.start + part.array.size) - _drawn(part.start)
        sums = np.array([number % 2**64 for number in found.values()], np.uint64).view(np.int64)  # wraps around
        self._communicator.sum(sums)
        for name, number in zip(found, sums.tolist()):
            if (number - _drawn(self.specs[name].size) + _drawn(0)) % 2**64:
                raise RuntimeError(f"the parts of {name} that the ranks have do not make up the whole")

    def _share(self, whole: list[Part]) -> list[Part]:
        """This rank's share of tensors that all have."""
        layout = Layout({part.name: part.array.shape for part in whole}, whole=True)
        owned = layout.owned(self._communicator.rank, self._communicator.size)
        names = {piece.entry.name for piece in layout.pieces(owned)}
        return [part for part in whole if part.name in names]

    def _in_any_rank(self, names: list[str], here: set[str]) -> set[str]:
        """Those of the names that some rank has."""
        found = np.array([name in here for name in names], np.int64)
        self._communicator.maximum(found)
        return {name for name, is_there in zip(names, found) if is_there}


def _drawn(number: int) -> int:
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest(), "little")
