"""Launcher of rotary.cu: the functions of minillm/layers/rotary.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import FLOATS, NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array
from minillm.kernels.layout import check_rows, heads_in_tokens, memory, steps_of

THREADS = 128
MAX_HEAD_BLOCKS = 4096  # beyond it a thread takes several heads of the batch
INSTANCES = {
    f"rotary<{number}, {flag}>": ResourceLimit(40) for number in NUMBERS.values() for flag in ("false", "true")
}
CUDA = CudaFile(__file__, "rotary.cu", INSTANCES)


def rotary_forward(x, cos, sin, interleaved=False):
    """x (B, H, T, D), cos and sin (T, D/2)  ->  y (B, H, T, D), saved

    x may be a view: the steps between tokens, heads and rows of the batch are free. In the memory
    of y the heads of a token lie side by side.
    """
    check_array("rotary_forward", "x", x, dtype=FLOATS, contiguous=False)
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"rotary_forward: x is {x.shape} but has to be (B, H, T, D) with an even D")
    shape = (x.shape[2], x.shape[3] // 2)
    for name, array in (("cos", cos), ("sin", sin)):
        check_array("rotary_forward", name, array, like=x, shape=shape, because=f"x is {x.shape}: it takes {shape}")
    check_rows("rotary_forward", "x", x, alignment=x.itemsize)
    saved = (cos, sin, interleaved)
    return _rotate(x, saved, 1), saved


def rotary_backward(dy, saved):
    """dy (B, H, T, D)  ->  dx (B, H, T, D), views as in `rotary_forward`"""
    cos = saved[0]
    because = f"cos is {cos.shape}"
    shape = (*dy.shape[:2], cos.shape[0], 2 * cos.shape[1])
    check_array("rotary_backward", "dy", dy, like=cos, shape=shape, dtype=FLOATS, because=because, contiguous=False)
    check_rows("rotary_backward", "dy", dy, alignment=dy.itemsize)
    return _rotate(dy, saved, -1)


def _rotate(x, saved, sign):
    cos, sin, interleaved = saved
    B, H, T, D = x.shape
    y = heads_in_tokens(x.shape, x)
    grid = (blocks_for(T * D // 2, THREADS), blocks_for(B * H, 1, MAX_HEAD_BLOCKS))
    kernel = f"rotary<{c_type(x)}, {'true' if interleaved else 'false'}>"
    arrays, sizes = (memory(x), cos, sin, memory(y)), map(np.int32, (B, H, T, D // 2))
    CUDA.launch(kernel, grid, (THREADS,), (*arrays, steps_of(x), steps_of(y), np.float32(sign), *sizes))
    return y
