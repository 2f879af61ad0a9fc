"""What the ranks that train a run agree on before the first step: see distributed/agreement.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from minillm.distributed.agreement import agree, check_room, check_same_folder, hashes, notes_on_bits, versions
from minillm.distributed.communicator import Communicator
from minillm.files.model_folder import WEIGHTS_FILE
from minillm.models.architectures import config_to_dict
from minillm.training.checkpoint import OPTIMIZER_FILE, TRAINING_FOLDER

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model")


def agree_on_run(run, communicator: Communicator, options: Mapping[str, object]) -> list[str]:
    """Compare everything that decides on the result of a run, on all ranks, and return remarks.

    options: name -> value, of what was given beside the settings of the run. Raises UserError, the
    same on all ranks, where they differ, where they do not see one folder, and where there is no
    room for the next checkpoint.
    """
    check_room(communicator, run.folder, next_checkpoint(run))
    if not communicator.launched:
        return []  # processes of one machine, with copies of one memory
    agree(communicator, versions())
    check_same_folder(communicator, run.folder)
    agree(communicator, {**_settings(run), **options})
    agree(communicator, hashes(communicator, _files(run)))
    return notes_on_bits(communicator)


def next_checkpoint(run) -> int:
    """Bytes that are needed while the next checkpoint and the best model are written: each is
    written beside the one that it replaces.
    """
    files = [run.folder / TRAINING_FOLDER / OPTIMIZER_FILE, run.folder / WEIGHTS_FILE]
    return sum(path.stat().st_size for path in files if path.is_file())


def _settings(run) -> dict[str, object]:
    fields = {**asdict(run.settings), **config_to_dict(run.model.config)}
    given = {f"--{name.replace('_', '-')}": value for name, value in fields.items()}
    return {"the checkpoint's step": run.progress.step, **given}


def _files(run) -> list:
    """What the ranks read: the examples and the tokenizer."""
    examples = sorted((run.folder / TRAINING_FOLDER).glob("*.npy"))
    return [*examples, *(path for name in TOKENIZER_FILES if (path := run.folder / name).is_file())]
