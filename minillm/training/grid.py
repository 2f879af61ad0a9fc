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
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.model_sections import grid_layout
from minillm.distributed.sharding import complete_state, held_by
from minillm.errors import UserError
from minillm.models.tensor_parallel import tensor_parallel
from minillm.models.whole import gathered


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


def share_run(run, tensor: Communicator) -> None:
    """Keep this rank's part of a run's model and of its optimizer's state. Raises UserError for a
    model that cannot be shared out so.
    """
    optimizer, ranks = (
        run.optimizer,
        run.communicator,
    )  # a rank has read its share of the state, as if there were no parts
    layout = grid_layout(optimizer)
    optimizer.state = complete_state(optimizer, held_by(optimizer, layout, ranks.rank, ranks.size), layout, ranks)
    tensor_parallel(run.model, tensor)
    for arrays in optimizer.state.values():
        for name, array in arrays.items():
            if (cut := optimizer.parameters[name].cut) is not None:
                arrays[name] = cut.part_of(array)


def whole_run(run):
    """(model, optimizer) as one process has them: all ranks call it. Of the optimizer there are
    `state` and `step_count`.
    """
    parameters, sharded = run.optimizer.parameters, run.sharded
    state = complete_state(run.optimizer, sharded.held(), sharded.layout, sharded.communicator)
    for arrays in state.values():
        for name, array in arrays.items():
            if (cut := parameters[name].cut) is not None:
                arrays[name] = cut.whole_of(array)
    return gathered(run.model), SimpleNamespace(state=state, step_count=run.optimizer.step_count)


def unshare_run(run) -> None:
    """Give the run the whole model and optimizer again: all ranks call it."""
    model, found = whole_run(run)
    optimizer = run.settings.make_optimizer(model.trainable_parameters())
    optimizer.state, optimizer.step_count, optimizer.lr = found.state, found.step_count, run.optimizer.lr
    run.model, run.optimizer, run.sharded = model, optimizer, None


def of_grid(
    tensor: Communicator, stopping: bool, squares: Sequence[float], are_parts: Sequence[bool]
) -> tuple[bool, float]:
    """Whether any rank is to stop, and the sum of squares of all gradients of the whole model.

    squares: of this rank's sections of the gradients; are_parts: whether they are of what ranks have
    parts of, and not of what each has whole, which counts once.
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
