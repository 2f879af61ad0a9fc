"""Launcher of global_norm.cu: the norm that minillm/optim/global_norm.py clips by, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import CudaFile, ResourceLimit, empty
from minillm.kernels.tensor_list import CONSTANTS, addresses, check_list, layout

CUDA = CudaFile(
    __file__,
    "global_norm.cu",
    {
        "sums_of_squares": ResourceLimit(registers=32, shared=256),
        "root_of_sum": ResourceLimit(registers=32, shared=256),
    },
    constants=CONSTANTS,
)


def global_norm(arrays):
    """The square root of the sum of squares over all arrays (float32): 0-d, float64, on their
    device.
    """
    return clipped_norm(arrays)[0]


def clipped_norm(arrays, max_norm=0.0, accumulated=1):
    """The norm of the arrays (float32) divided by `accumulated`, and the scale that clips it: both
    0-d, on their device.

    norm is float64. scale, float32, is what every array is to be multiplied with so that it is
    divided by `accumulated` and the norm is at most max_norm (0: no limit); NaN where the norm is
    not finite.
    """
    arrays = list(arrays)
    if not arrays:
        raise ValueError("global_norm: no arrays")
    check_list("global_norm", "arrays", arrays, like=arrays[0])
    tensors, blocks = layout(arrays)
    (table,) = addresses(arrays)
    sums, norm, scale = empty((blocks,), arrays[0], "float64"), empty((), arrays[0], "float64"), empty((), arrays[0])
    CUDA.launch("sums_of_squares", (blocks,), (256,), (table, tensors, sums, np.int32(len(arrays))))
    numbers = (np.int64(blocks), np.float32(max_norm), np.int32(accumulated))
    CUDA.launch("root_of_sum", (1,), (256,), (sums, norm, scale, *numbers))
    return norm, scale
