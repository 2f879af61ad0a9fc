"""Checkpoints: last weights, moments and progress, readable even if the run was killed at any
moment.

    training/optimizer.safetensors    last weights and both moments; its header has the step
    training/state.json               settings, model shape and progress; written last, with the valid step

Two files cannot be replaced atomically. So the old optimizer file is kept under another name until
state.json has been replaced: state.json has a step, and the file of this step exists under one of
the two names.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import safetensors

from minillm.backend.arrays import contiguous, device_of, to_device, to_host
from minillm.errors import UserError
from minillm.files.atomic import read_json, replacing, save_tensors, write_atomically

TRAINING_FOLDER = "training"
STATE_FILE, OPTIMIZER_FILE, PREVIOUS_FILE = "state.json", "optimizer.safetensors", "optimizer.previous.safetensors"
STEP_KEY = "step"  # in the header of the optimizer file
FORMAT_VERSION = 1


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


def save_checkpoint(folder: Path, model, optimizer, progress: Progress, description: dict) -> None:
    """Write both files. `description` (settings and model shape) goes into state.json beside the
    progress.
    """
    training = folder / TRAINING_FOLDER
    tensors = {name: contiguous(to_host(array)) for name, array in _arrays(model, optimizer).items()}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise NotFinite(f"step {progress.step}: {name} is no longer finite; the checkpoint before it was kept")
    with replacing(training / OPTIMIZER_FILE) as temporary:
        save_tensors(tensors, temporary, {STEP_KEY: str(progress.step)})
        if (training / OPTIMIZER_FILE).exists():
            os.replace(training / OPTIMIZER_FILE, training / PREVIOUS_FILE)
    state = {"format": FORMAT_VERSION, **asdict(progress), **description}
    write_atomically(training / STATE_FILE, (json.dumps(state, indent=2) + "\n").encode("utf-8"))
    (training / PREVIOUS_FILE).unlink(missing_ok=True)


def check_is_run(folder: Path) -> None:
    """Raises UserError for a folder that holds no run."""
    path = folder / TRAINING_FOLDER / STATE_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no run that could be resumed: {path} is missing")


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
    return progress, {name: state[name] for name in ("settings", "model")}


def load_checkpoint(folder: Path, model, optimizer, step: int) -> None:
    """Put the weights and moments of the checkpoint of `step` into the model and the optimizer."""
    path = _file_of_step(folder / TRAINING_FOLDER, step)
    with safetensors.safe_open(path, framework="numpy") as file:
        stored = set(file.keys())
        targets = _arrays(model, optimizer)
        if missing := sorted(set(targets) ^ stored):
            raise UserError(f"{path} does not belong to this run: tensor {missing[0]} is missing or too many")
        for name, target in targets.items():
            tensor = file.get_tensor(name)
            if tensor.shape != target.shape or tensor.dtype != target.dtype:
                raise UserError(
                    f"{path}: {name} is {tensor.dtype}{tensor.shape}, expected {target.dtype}{target.shape}"
                )
            target[...] = to_device(tensor, device_of(target))
    optimizer.step_count = step


def _file_of_step(training: Path, step: int) -> Path:
    """The optimizer file of a step, under its main name again if the run was killed between two
    renames.
    """
    found = []
    for path in (training / OPTIMIZER_FILE, training / PREVIOUS_FILE):
        if path.is_file():
            try:
                with safetensors.safe_open(path, framework="numpy") as file:
                    found.append(f"{path.name} is of step {(file.metadata() or {}).get(STEP_KEY)}")
            except safetensors.SafetensorError as error:
                raise UserError(f"{path} is not a complete safetensors file: {error}") from None
            if found[-1].endswith(f"step {step}"):
                os.replace(path, training / OPTIMIZER_FILE)
                return training / OPTIMIZER_FILE
    raise UserError(
        f"{training / STATE_FILE} is of step {step}, but {' and '.join(found) or OPTIMIZER_FILE + ' is missing'}"
    )


def _arrays(model, optimizer) -> dict:
    """All arrays that a step changes, by name."""
    arrays = {f"model.{name}": parameter.value for name, parameter in model.parameters().items()}
    for kind, tensors in optimizer.state.items():
        arrays |= {f"{kind}.{name}": tensor for name, tensor in tensors.items()}
    return arrays
