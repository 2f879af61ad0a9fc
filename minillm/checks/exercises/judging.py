"""From a reader's file to a verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minillm.checks.exercises.cuda_judge import judge_cuda
from minillm.checks.exercises.python_judge import judge_python
from minillm.checks.exercises.verdict import Verdict
from minillm.errors import UserError
from minillm.kernels.exercises.registry import Exercise
from minillm.kernels.exercises.task import KernelTask


def judge(exercise: Exercise, path: Path, seed: int) -> Verdict:
    """Try a file on inputs drawn from `seed`.

    Raises UserError where it cannot be tried: no such file, one of another language, no compiler.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    if path.suffix != exercise.skeleton.suffix:
        raise UserError(f"{path}: {exercise.name} is written in a {exercise.skeleton.suffix} file")
    verdict = Verdict(exercise, str(path), seed)
    rng = np.random.default_rng(seed)
    if isinstance(exercise.task, KernelTask):
        judge_cuda(exercise, path, rng, verdict)
    else:
        judge_python(exercise, path, rng, verdict)
    return verdict
