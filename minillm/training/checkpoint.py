"""Checkpoints: last weights, moments and progress, readable even if the run was killed at any
moment.

    training/optimizer.safetensors    last weights and both moments; its header has the step
    training/state.json               settings, model shape and progress; written last, with the valid step

Two files cannot be replaced atomically. So the old optimizer file is kept under another name until
state.json has been replaced: state.json has a step, and the file of this step exists under one of
the two names.

With several processes each writes its part of the first file (checkpoint_tensors.py); all else is
done by rank 0. The files are those of one process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import safetensors

from minillm.backend.arrays import array_module
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.saving import replacing_together, write_together
from minillm.distributed.sharding import Held
from minillm.distributed.together import text_of_rank_0, together
from minillm.errors import UserError
from minillm.files.atomic import json_bytes, naming, read_json, write_atomically
from minillm.files.safetensors_file import read_header
from minillm.files.safetensors_parts import Part, Plan, Spec, blocks, read_parts
from minillm.training.checkpoint_tensors import CheckpointTensors

TRAINING_FOLDER = "training"
STATE_FILE, OPTIMIZER_FILE, PREVIOUS_FILE = "state.json", "optimizer.safetensors", "optimizer.previous.safetensors"
STEP_KEY = "step"  # in the header of the optimizer file
FORMAT_VERSION = 1
# Settings that state.json has beside the others: a version without them opens the run, too.
LATER_SETTINGS = ("batch_parts",)


@dataclass
class Progress:
    """How far a run has come.

    history: an entry (step, train_loss, val_loss) for each evaluation.
    """

    step: int = 0
    best_step: int = 0
    best_val_loss: float | None = None
    overfitting_since: int | None = None
    history: list[tuple[int, float, float]] = field(default_factory=list)
    metrics_size: int = 0


class NotFinite(UserError):
    """A weight or moment became NaN or infinite; the last checkpoint on the disk is unchanged."""


def save_checkpoint(
    folder: Path,
    model,
    optimizer,
    progress: Progress,
    description: dict,
    communicator: Communicator | None = None,
    held: Sequence[Held] | None = None,
) -> None:
    """Write both files. `description` (settings and model shape) goes into state.json beside the
    progress.

    communicator: all ranks of a run call this, and each writes a part. held: what this rank has of
    the parameters that learn (distributed/sharding.py), if it has not all. Raises NotFinite or
    OSError in all ranks if there is a reason in one of them; then the last checkpoint is as it was.
    """
    ranks, training = communicator or Alone(), folder / TRAINING_FOLDER
    tensors = CheckpointTensors(model, optimizer, ranks, held)
    tensors.check_complete()
    with together(ranks):
        _check_finite(tensors.own, progress.step)
    plan = Plan(tensors.specs, {STEP_KEY: str(progress.step)})
    with replacing_together(training / OPTIMIZER_FILE, ranks) as temporary:
        write_together(temporary, plan, tensors.own, ranks)
        with together(ranks):
            if ranks.rank == 0 and (training / OPTIMIZER_FILE).exists():
                os.replace(training / OPTIMIZER_FILE, training / PREVIOUS_FILE)
    with together(ranks):
        if ranks.rank == 0:
            write_atomically(training / STATE_FILE, json_bytes(_state(progress, description)))
            (training / PREVIOUS_FILE).unlink(missing_ok=True)


def _state(progress: Progress, description: dict) -> dict:
    """The contents of state.json."""
    settings = dict(description["settings"])
    later = {name: settings.pop(name) for name in LATER_SETTINGS if name in settings}
    return {"format": FORMAT_VERSION, **asdict(progress), **description, "settings": settings, **later}


def _check_finite(parts: list[Part], step: int) -> None:
    for part in parts:
        for block in blocks(part.array):
            if not array_module(block).isfinite(block).all():
                raise NotFinite(f"step {step}: {part.name} is no longer finite; the checkpoint before it was kept")


def check_is_run(folder: Path) -> None:
    """Raises UserError for a folder that holds no run."""
    path = folder / TRAINING_FOLDER / STATE_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no run that could be resumed: {path} is missing")


def check_same_state(folder: Path, communicator: Communicator) -> None:
    """Raises UserError, in all ranks, where one has another state.json than rank 0, or none."""
    path = folder / TRAINING_FOLDER / STATE_FILE
    with together(communicator):
        check_is_run(folder)
        digest = hashlib.blake2b(path.read_bytes()).hexdigest()
    expected = text_of_rank_0(communicator, digest)
    with together(communicator):
        if digest != expected:
            raise UserError(f"{path} is another file here than it is for rank 0: all ranks have to see one folder")


def read_state(folder: Path) -> tuple[Progress, dict]:
    """The progress in a run's state.json, and the description that was saved with it."""
    check_is_run(folder)
    path = folder / TRAINING_FOLDER / STATE_FILE
    state = read_json(path)
    if state.get("format") != FORMAT_VERSION:
        raise UserError(f"{path} has format {state.get('format')!r}; this version of minillm reads {FORMAT_VERSION}")
    names = [entry.name for entry in fields(Progress)]
    if missing := [name for name in (*names, "settings", "model") if name not in state]:
        raise UserError(f"{path} is incomplete: {missing[0]} is missing")
    progress = Progress(**{name: state[name] for name in names})
    progress.history = [tuple(entry) for entry in progress.history]
    later = {name: state[name] for name in LATER_SETTINGS if name in state}
    return progress, {"settings": {**state["settings"], **later}, "model": state["model"]}


def load_checkpoint(
    folder: Path,
    model,
    optimizer,
    step: int,
    communicator: Communicator | None = None,
    held: Sequence[Held] | None = None,
) -> None:
    """Put the weights and moments of the checkpoint of `step` into the model and the optimizer.

    communicator, held: as for `save_checkpoint`, of any number of ranks. A rank reads all weights,
    and the state that it has.
    """
    ranks, path = communicator or Alone(), folder / TRAINING_FOLDER / OPTIMIZER_FILE
    with together(ranks):
        if ranks.rank == 0:
            _restore_file_of_step(folder / TRAINING_FOLDER, step)
    tensors = CheckpointTensors(model, optimizer, ranks, held)
    with together(ranks):
        if (seen := _step_of(path)) != str(step):  # of another machine's file system
            raise UserError(f"{path} is of step {seen} here, and of step {step} for rank 0: is it the same folder?")
        stored = read_header(path)
        if missing := sorted(set(tensors.specs) ^ set(stored)):
            raise UserError(f"{path} does not belong to this run: tensor {missing[0]} is missing or too many")
        for name, spec in tensors.specs.items():
            if (found := Spec(stored[name].shape, stored[name].dtype)) != spec:
                raise UserError(f"{path}: {name} is {found}, expected {spec}")
        read_parts(
            path,
            ((stored[part.name].position + part.start * part.array.itemsize, part.array) for part in tensors.needed),
        )
    optimizer.step_count = step


def _restore_file_of_step(training: Path, step: int) -> None:
    """Give the optimizer file of a step its main name again if the run was killed between two
    renames.
    """
    found = []
    for path in (training / OPTIMIZER_FILE, training / PREVIOUS_FILE):
        if path.is_file():
            found.append(f"{path.name} is of step {_step_of(path)}")
            if found[-1].endswith(f"step {step}"):
                os.replace(path, training / OPTIMIZER_FILE)
                return
    raise UserError(
        f"{training / STATE_FILE} is of step {step}, but {' and '.join(found) or OPTIMIZER_FILE + ' is missing'}"
    )


def _step_of(path: Path) -> str | None:
    try:
        with naming(path), safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(STEP_KEY)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file: {error}") from None
