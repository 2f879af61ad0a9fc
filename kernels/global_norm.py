"""Launcher of global_norm.cu: the norm that minillm/optim/clipping.py clips by, on "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import Ceiling, CudaFile, check_array, empty
from minillm.kernels.tensor_list import addresses, layout

CUDA = CudaFile(
    __file__,
    "global_norm.cu",
    {"sums_of_squares": Ceiling(registers=32, shared=256), "root_of_sum": Ceiling(registers=32, shared=256)},
)


def global_norm(arrays):
    """The square root of the sum of squares over all arrays (float32): 0-d, float64, on their device."""
    arrays = list(arrays)
    if not arrays:
        raise ValueError("global_norm: no arrays")
    for index, array in enumerate(arrays):
        check_array("global_norm", f"arrays[{index}]", array, like=arrays[0])
    tensors, blocks = layout(arrays)
    (table,) = addresses(arrays)
    sums, norm = empty((blocks,), arrays[0], "float64"), empty((), arrays[0], "float64")
    CUDA.launch("sums_of_squares", (blocks,), (256,), (table, tensors, sums, np.int32(len(arrays))))
    CUDA.launch("root_of_sum", (1,), (256,), (sums, norm, np.int64(blocks)))
    return norm
