"""What the reference model of a preference run says of each answer, computed once.

    training/reference.safetensors    training (N, 2), validation (M, 2): log-probabilities of the
                                      chosen and the rejected answer, float64; NaN where they are
                                      still to be computed

The reference is the model as it is before the first step, so it never has to be kept beside the one
that learns. The file is written as it grows: a run that was interrupted goes on where it was. Its
header has checksums of the model and of the pairs; numbers of another model or of other pairs are
computed again before the first step, and refused after it, when the model has changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.files.atomic import replacing, save_tensors
from minillm.training.checkpoint import TRAINING_FOLDER
from minillm.training.data_parallel import DataParallel
from minillm.training.preference_objective import log_probabilities

FILE = "reference.safetensors"
SAVE_SECONDS = 20.0  # between two times that the file is written while it grows


class Reference:
    """The numbers of a run.

    folder: of the run. sizes: part -> how many pairs. pairs: the pairs' checksum.
    """

    def __init__(self, folder: Path, sizes: dict[str, int], pairs: str):
        self.path, self._pairs = folder / TRAINING_FOLDER / FILE, pairs
        self._sizes, self._model = sizes, ""
        self.values = {part: np.full((size, 2), np.nan) for part, size in sizes.items()}
        if self.path.is_file():
            self._load()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is to be computed."""
        return not any(np.isnan(values).any() for values in self.values.values())

    def prepare(self, model, is_new: bool) -> None:
        """Drop numbers that another model gave. is_new: no step has been taken, so that `model` is
        the reference.

        Raises UserError for a run that has taken steps, and whose numbers are not complete.
        """
        if is_new:
            checksum = model_checksum(model)
            if checksum != self._model:
                self._model = checksum
                self.values = {part: np.full((size, 2), np.nan) for part, size in self._sizes.items()}
        elif not self.is_complete:
            raise UserError(
                f"{self.path} is missing or not complete, and the model has learned since: put the file back, or start "
                "the run again with --overwrite"
            )

    def compute(
        self,
        parallel: DataParallel,
        batches: Callable,
        is_ended: Callable[[], bool],
        report: Callable[[int, int], None],
    ) -> bool:
        """Compute what is missing. False where `is_ended()` ended it; what was computed is in the
        file.

        batches: part -> (numbers of the pairs, ids, targets) for all pairs. report: (pairs done,
        pairs in all).
        """
        total, saved_at = sum(self._sizes.values()), time.monotonic()
        try:
            for part, values in self.values.items():
                for numbers, ids, targets in batches(part):
                    if not np.isnan(values[numbers]).any():
                        continue
                    if is_ended():
                        return False
                    values[numbers] = np.concatenate(
                        [to_host(each) for each in log_probabilities(parallel, ids, targets)]
                    )
                    if not np.isfinite(values[numbers]).all():
                        self._refuse(part, numbers, values)
                    report(sum(int(np.isfinite(each).all(axis=1).sum()) for each in self.values.values()), total)
                    if time.monotonic() - saved_at > SAVE_SECONDS:
                        self.save()
                        saved_at = time.monotonic()
            return True
        finally:
            self.save()

    def save(self) -> None:
        """Write the file."""
        with replacing(self.path) as temporary:
            save_tensors(self.values, temporary, {"model": self._model, "pairs": self._pairs})

    def _load(self) -> None:
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                header, found = file.metadata() or {}, {part: file.get_tensor(part) for part in file.keys()}
        except safetensors.SafetensorError as error:
            raise UserError(
                f"{self.path} is not a complete safetensors file: {error}; delete it before step 1"
            ) from None
        shapes = {part: (values.shape, values.dtype.name) for part, values in found.items()}
        wanted = {part: ((size, 2), "float64") for part, size in self._sizes.items()}
        if header.get("pairs") == self._pairs and shapes == wanted:
            self._model, self.values = header.get("model", ""), {part: found[part] for part in self._sizes}

    def _refuse(self, part: str, numbers, values) -> None:
        row = next(number for number in numbers if not np.isfinite(values[number]).all())
        values[numbers] = np.nan
        raise UserError(f"the reference gives {part} pair {row + 1} no finite log-probability: the model is damaged")


def model_checksum(model) -> str:
    """SHA-256 of the weights with their names; LoRA's matrices, which add nothing before the first
    step, are left out.
    """
    digest = hashlib.sha256(model.precision.encode())
    for name, parameter in sorted(model.parameters().items()):
        if ".lora_" not in name:
            value = np.ascontiguousarray(to_host(parameter.value))
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(value.view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def array_checksum(*arrays) -> str:
    """SHA-256 of arrays with their shapes and dtypes."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
