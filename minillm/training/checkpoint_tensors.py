"""What a checkpoint holds, and which rank writes which numbers of it.

    model.NAME                       a weight
    first_moment.NAME, ...           a state of the optimizer, by its name

The file is that of one process, however many there are. A rank writes the weights and the state of
the pieces of parameters that it holds. What all ranks have as a whole (frozen weights;
everything, where the optimizer is not shared among them) they share out, tensor by tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import Layout
from minillm.distributed.sharding import Held
from minillm.files.safetensors_parts import Part, Spec

WEIGHTS = "model"


class CheckpointTensors:
    """specs: shape and type of each tensor of the file, in all ranks the same. own: what this rank
    writes. needed: what it reads: the weights as a whole, and the state that it has.

    held: what this rank has of the parameters that learn; None: each rank has all. Called by all
    ranks.
    """

    def __init__(self, model, optimizer, communicator: Communicator, held: Sequence[Held] | None = None):
        self._communicator = communicator
        weights = {name: parameter.value for name, parameter in model.parameters().items()}
        whole = [Part(f"{WEIGHTS}.{name}", 0, array) for name, array in weights.items()]
        if held is None:
            whole += [Part(f"{kind}.{name}", 0, array) for kind, name, array in _arrays_of(optimizer.state)]
            self.specs = {part.name: Spec.of(part.array) for part in whole}
            self.own, self.needed = self._share(whole), whole
            return
        own = [_part(WEIGHTS, each, each.value) for each in held]
        state = [_part(kind, each, array) for each in held for kind, array in each.state.items()]
        all_kinds = {f"{kind}.{name}": Spec.of(array) for kind in optimizer.state for name, array in weights.items()}
        self.specs = {part.name: Spec.of(part.array) for part in whole}
        owned = self._in_any_rank([*self.specs, *all_kinds], {part.name for part in own + state})
        self.specs |= {name: spec for name, spec in all_kinds.items() if name in owned}
        self.own = own + state + self._share([part for part in whole if part.name not in owned])
        self.needed = whole + state

    def check_complete(self) -> None:
        """Raises RuntimeError, in all ranks, unless their parts make up each tensor, with nothing
        twice.

        Parts that follow each other from 0 to n cancel in the sum, whatever ranks have them:

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
        """This rank's share of tensors that all have: equal, but that tensors in another order than
        C go to one rank.
        """
        ranks = self._communicator
        flat = {part.name: part.array.reshape(-1) for part in whole if part.array.flags.c_contiguous}
        layout = Layout({name: array.shape for name, array in flat.items()})
        pieces = layout.pieces(layout.owned(ranks.rank, ranks.size))
        others = [part for part in whole if part.name not in flat][ranks.rank :: ranks.size]
        return [Part(each.entry.name, each.part.start, flat[each.entry.name][each.part]) for each in pieces] + others

    def _in_any_rank(self, names: list[str], here: set[str]) -> set[str]:
        """Those of the names that some rank has."""
        found = np.array([name in here for name in names], np.int64)
        self._communicator.maximum(found)
        return {name for name, is_there in zip(names, found) if is_there}


def _part(kind: str, held: Held, array) -> Part:
    return Part(f"{kind}.{held.piece.entry.name}", held.piece.part.start, array)


def _arrays_of(state: dict) -> Iterator[tuple]:
    return ((kind, name, array) for kind, arrays in state.items() for name, array in arrays.items())


def _drawn(number: int) -> int:
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest(), "little")
