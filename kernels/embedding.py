"""Launcher of embedding.cu: minillm/layers/embedding.py for "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module
from minillm.kernels.launch import (
    FLOATS,
    NUMBERS,
    CudaFile,
    ResourceLimit,
    blocks_for,
    c_type,
    check_array,
    check_integers,
    empty,
    row_threads,
)

WINDOW = 32  # sorted tokens that one block adds up
COLUMNS = 256

_instances = {"embedding_backward_joints": ResourceLimit(registers=32)}
for _number in NUMBERS.values():
    _instances[f"embedding_forward<{_number}>"] = ResourceLimit(registers=32)
    _instances[f"embedding_backward_windows<{_number}>"] = ResourceLimit(registers=48)
CUDA = CudaFile(__file__, "embedding.cu", _instances, constants={"WINDOW": WINDOW})


def embedding_forward(ids, weight, dtype=None):
    """ids (...) int, weight (V, C)  ->  y (..., C) of `dtype`, float32 or bfloat16, by default the
    weight's; saved.

    An id that is not in 0 ... V - 1 gives NaN.
    """
    check_array("embedding_forward", "weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding_forward: weight is {weight.shape} but has to be (V, C)")
    ids = check_integers("embedding_forward", "ids", ids, like=weight)
    vocabulary, width = weight.shape
    y = empty((*ids.shape, width), weight, weight.dtype if dtype is None else dtype)
    arguments = (ids, weight, y, np.int32(width), np.int64(vocabulary))
    CUDA.launch(f"embedding_forward<{c_type(y)}>", (ids.size,), (row_threads(width),), arguments)
    return y, (ids, weight.shape)


def embedding_backward(dy, saved, dweight=None):
    """dy (..., C)  ->  dweight (V, C); ids have no gradient.

    dweight: a buffer that the gradient is added to.
    """
    ids, weight_shape = saved
    vocabulary, width = weight_shape
    shape = (*ids.shape, width)
    check_array("embedding_backward", "dy", dy, like=ids, shape=shape, dtype=FLOATS, because=f"y is {shape}")
    if dweight is None:
        dweight = empty(weight_shape, dy)
        dweight[...] = 0
    because = f"weight is {weight_shape}"
    check_array("embedding_backward", "dweight", dweight, like=ids, shape=weight_shape, because=because)
    ids = ids.reshape(-1)
    order = array_module(ids).argsort(ids, kind="stable")
    ids = ids[order]
    windows = blocks_for(ids.size, WINDOW)
    partials = empty((windows, 2, width), dy)
    sizes = (np.int64(ids.size), np.int32(width), np.int64(vocabulary))
    grid = (windows, blocks_for(width, COLUMNS))
    windows_kernel = f"embedding_backward_windows<{c_type(dy)}>"
    CUDA.launch(windows_kernel, grid, (COLUMNS,), (dy, ids, order, dweight, partials, *sizes))
    CUDA.launch("embedding_backward_joints", (windows,), (row_threads(width),), (ids, partials, dweight, *sizes))
    return dweight
