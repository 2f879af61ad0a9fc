"""In the place of cupy.cuda.thrust: NumPy's sorting on the same memory. The arguments are CuPy's.

Sorting is done even where nothing else is computed: what is to be sorted may be indices, and those
have to stay in range. It takes its turn in CuPy's current stream, so that a graph has it as well.
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.standin import calls
from minillm.kernels.standin.memory import array

available = True


def get_build_version() -> int:
    return 0


def sort(dtype, data: int, keys: int, shape) -> None:
    """Sorts along the last axis, in place. NaN comes last, as CuPy's order has it."""
    shape = tuple(shape)
    calls.submit("thrust sort", shape, lambda: array(data, dtype, shape).sort(axis=-1, kind="stable"))


def argsort(dtype, indices: int, data: int, keys: int, shape) -> None:
    """The order along the last axis, int64; the data are sorted, too."""
    shape = tuple(shape)

    def work() -> None:
        values = array(data, dtype, shape)
        order = np.argsort(values, axis=-1, kind="stable")
        array(indices, np.int64, shape)[...] = order
        values[...] = np.take_along_axis(values, order, axis=-1)

    calls.submit("thrust argsort", shape, work)


def lexsort(dtype, indices: int, keys: int, k: int, n: int) -> None:
    """The order of n columns of k keys, the last of which counts first."""

    def work() -> None:
        array(indices, np.int64, (n,))[...] = np.lexsort(array(keys, dtype, (k, n)))

    calls.submit("thrust lexsort", (k, n), work)
