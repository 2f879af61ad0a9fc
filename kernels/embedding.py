"""Launcher of embedding.cu: the functions of minillm/layers/embedding.py for arrays on "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.backend import array_module
from minillm.kernels.launch import Ceiling, CudaFile, blocks_for, check_array, check_integers, empty, row_threads

WINDOW = 32  # sorted tokens that one block adds up, as in embedding.cu
COLUMNS = 256

CUDA = CudaFile(
    __file__,
    "embedding.cu",
    {
        "embedding_forward": Ceiling(registers=32),
        "embedding_backward_windows": Ceiling(registers=48),
        "embedding_backward_joints": Ceiling(registers=32),
    },
)


def embedding_forward(ids, weight):
    """ids (...) int, weight (V, C)  ->  y (..., C), saved. An id that is not in 0 ... V - 1 gives NaN."""
    check_array("embedding_forward", "weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding_forward: weight is {weight.shape} but has to be (V, C)")
    ids = check_integers("embedding_forward", "ids", ids, like=weight)
    vocabulary, width = weight.shape
    y = empty((*ids.shape, width), weight)
    arguments = (ids, weight, y, np.int32(width), np.int64(vocabulary))
    CUDA.launch("embedding_forward", (ids.size,), (row_threads(width),), arguments)
    return y, (ids, weight.shape)


def embedding_backward(dy, saved, dweight=None):
    """dy (..., C)  ->  dweight (V, C); ids have no gradient. dweight: a buffer that the gradient is added to."""
    ids, weight_shape = saved
    vocabulary, width = weight_shape
    shape = (*ids.shape, width)
    check_array("embedding_backward", "dy", dy, like=ids, shape=shape, because=f"y is {shape}")
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
    CUDA.launch("embedding_backward_windows", grid, (COLUMNS,), (dy, ids, order, dweight, partials, *sizes))
    CUDA.launch("embedding_backward_joints", (windows,), (row_threads(width),), (ids, partials, dweight, *sizes))
    return dweight
