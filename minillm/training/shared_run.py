"""A run whose model several ranks share: each keeps its part (models/tensor_parallel.py), and files
have the whole.

A rank opens the run as ever, and then cuts model and optimizer. For a checkpoint, and for the best
model, the ranks gather what they have parts of; each then has the whole for a moment, and writes an
equal share of the file.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from minillm.distributed.communicator import Communicator
from minillm.distributed.layout import Layout
from minillm.distributed.model_sections import is_elementwise, layout_for
from minillm.distributed.sharding import Sharded, complete_state, held_by
from minillm.models.tensor_parallel import tensor_parallel
from minillm.models.whole import gathered
from minillm.training.data_parallel import DataParallel
from minillm.training.grid import grid_of


def share_run(run, communicator: Communicator, shared_by: int, parts: int) -> tuple[DataParallel, Sharded]:
    """Keep this rank's part of a run's model and of its optimizer's state. Returns what computes
    the gradients of it, in so many parts of a batch, and its optimizer, among the ranks that have
    the same part.

    communicator: of all ranks, which call this together; shared_by: how many share the model.
    Raises UserError for a model that cannot be shared out so.
    """
    grid, optimizer = grid_of(communicator, shared_by), run.optimizer
    _complete(run)
    tensor_parallel(run.model, grid.tensor)
    for arrays in optimizer.state.values():
        for name, array in arrays.items():
            if (cut := optimizer.parameters[name].cut) is not None:
                arrays[name] = cut.part_of(array)
    sharded = Sharded(optimizer, layout_of_parts(optimizer), grid.data)
    return DataParallel(run.model, 1, parts, grid.data, sharded.layout, grid.tensor), sharded


def layout_of_parts(optimizer) -> Layout:
    """The layout of what an optimizer changes of a model that ranks share: what each has a part of
    in the first section, and what each has whole in the second. It is the same in all ranks, with
    room for the largest part.
    """
    parameters = optimizer.parameters
    cut = [name for name, parameter in parameters.items() if parameter.cut is not None]
    sections = [names for names in (cut, [name for name in parameters if name not in cut]) if names]
    shapes = {name: parameters[name].peek().shape for names in sections for name in names}
    room = {name: math.prod(parameters[name].cut.largest_shape(shapes[name])) for name in cut}
    return Layout(shapes, sections, whole=not is_elementwise(optimizer), room=room)


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


def _complete(run) -> None:
    """The optimizer's state, of which each rank that mpiexec started has read what it would own."""
    optimizer, ranks = run.optimizer, run.communicator
    layout = layout_for(run.model, optimizer, run.zero)
    optimizer.state = complete_state(optimizer, held_by(optimizer, layout, ranks.rank, ranks.size), layout, ranks)
