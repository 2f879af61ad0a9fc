"""What judge.py of an exercise says: the inputs, what is expected, and what is best known.

Judge.py ends with `TASK = KernelTask(...)` for a file of CUDA, or `TASK = PythonTask(...)` for one
of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-4  # of float32: relative to the element, or to the root mean square of its array
UNWRITTEN = {"i": -987654321, "u": 0xDEAD}  # in outputs of integers: no result is this


class Launch(NamedTuple):
    """kernel: its name in the reader's file. grid, block: as for any launch. arguments: the inputs
    that it takes, by name, in the order of its parameters.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[str, ...]


class Counts(NamedTuple):
    """What the simulator's profile counts of all launches of a run.

    sectors: of 32 bytes of global memory. wavefronts: of shared memory. operations: instructions of
    a warp that access global or shared memory.
    """

    sectors: int
    wavefronts: int
    operations: int


@dataclass(frozen=True)
class KernelTask:
    """A file of CUDA.

    inputs     (rng, **size) -> all that the kernels take, by name: arrays, and NumPy scalars.
               `blank` makes the outputs, so that what is not written is seen.
    expected   (a) -> the outputs by name, where `a` has the inputs as attributes, floating point
               numbers in float64. Arrays that are not among the outputs have to stay as they are.
    launches   (a) -> the launches, one after the other, with `a` as it is given to the kernels.
    sizes      (rng) -> the sizes to try, a dict of the arguments of `inputs` each; small ones first.
    measured   The size at which memory traffic is counted; it is tried last.
    best       The counts of the best known solution there.
    tolerance  The relative error that counts as right; integers have to be equal.
    same_bits  Whether the outputs have to be the same to the last bit in every order of threads.
    """

    inputs: Callable[..., dict]
    expected: Callable[[SimpleNamespace], dict[str, np.ndarray]]
    launches: Callable[[SimpleNamespace], Sequence[Launch]]
    sizes: Callable[[np.random.Generator], Sequence[dict[str, int]]]
    measured: dict[str, int]
    best: Counts
    tolerance: float = TOLERANCE
    same_bits: bool = False


@dataclass(frozen=True)
class PythonTask:
    """A file of Python.

    functions  The names that the file has to define.
    check      (module, rng, size, gradcheck): looks at the functions of `module` and raises
               AssertionError with what is wrong. `gradcheck` is minillm.gradcheck, which raises one
               itself; its input_names are the names of the inputs, so that the line of the wrong
               gradient can be found.
    sizes      (rng) -> the sizes to try, as for KernelTask.
    """

    functions: tuple[str, ...]
    check: Callable[..., None]
    sizes: Callable[[np.random.Generator], Sequence[dict[str, int]]] = field(default=lambda rng: [{}])


def blank(*shape: int, dtype=np.float32) -> np.ndarray:
    """An output that nothing has been written to: NaN, or a number that is no result.

    >>> blank(2).tolist()
    [nan, nan]
    """
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else UNWRITTEN[dtype.kind], dtype)


def blocks(count: int, size: int) -> int:
    """How many blocks of a size hold `count` threads.

    >>> blocks(257, 256)
    2
    """
    return -(-count // size)
