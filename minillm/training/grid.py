"""Ranks in a grid: some share the model, and groups of those share the batch.

With R ranks and --tensor-parallel N there are D = R / N data-parallel groups. Rank r is in group
r // N, and has part r mod N of the model (models/tensor_parallel.py):

    R = 6, N = 2        part 0   part 1
    group 0                0        1         <- they share the model: activations are exchanged
    group 1                2        3
    group 2                4        5
                           ^
                           they share the batch: gradients are added, weights gathered

Ranks of a group follow each other, since launchers put those on one machine, and activations are
exchanged many times a step. All of a group see the same rows; the parts of the batch are dealt to
the groups, so that weights have the same bits for any D. They depend on N.

The global norm is that of all gradients of the whole model:

    norm^2 = sum over ranks of a group (squares of its parts) + squares of what is whole, once
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.errors import UserError


class Grid(NamedTuple):
    """The ranks that share the batch with this one, and those that share the model with it."""

    data: Communicator
    tensor: Communicator


def check_grid(ranks: int, tensor_parallel: int) -> None:
    """Raises UserError for so many ranks that do not make groups of `tensor_parallel`."""
    if ranks % tensor_parallel:
        fitting = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
        raise UserError(
            f"--tensor-parallel {tensor_parallel}: {ranks} processes do not make groups of so many; {fitting} would fit"
        )


def grid_of(world: Communicator, tensor_parallel: int) -> Grid:
    """The grid of all ranks, which call it together after `start`."""
    if tensor_parallel == 1:
        return Grid(world, Alone())
    group, part = divmod(world.rank, tensor_parallel)
    data = world.split(part, group) if world.size > tensor_parallel else Alone()
    return Grid(data, tensor=world.split(group, part))


def of_grid(
    tensor: Communicator, stopping: bool, squares: Sequence[float], are_parts: Sequence[bool]
) -> tuple[bool, float]:
    """Whether any rank is to stop, and the sum of squares of all gradients of the whole model.

    squares: of this rank's sections of the gradients; are_parts: whether they are of what ranks
    have parts of, and not of what each has whole, which counts once.
    """
    table = np.zeros((tensor.size, 1 + len(squares)))
    table[tensor.rank] = stopping, *squares
    tensor.sum(table)  # each number is that of one rank, and zeros: nothing is rounded
    counted = [
        table[rank, column]
        for column, parts in enumerate(are_parts, start=1)
        for rank in range(tensor.size if parts else 1)
    ]
    return bool(table[:, 0].any()), math.fsum(counted)
