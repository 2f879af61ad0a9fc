"""Launcher of largest.cu: the id of the largest logit of each row, for "cuda" and "cudasim"."""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import CudaFile, ResourceLimit, check_array, empty

THREADS = 512
CUDA = CudaFile(
    __file__,
    "largest.cu",
    {"largest": ResourceLimit(registers=32, shared=8 * THREADS)},
    constants={"THREADS": THREADS},
)


def largest(logits):
    """logits (B, V) float32  ->  the lowest id of the largest number of each row (B,), int64; -1
    for a row with NaN or +inf, or of -inf alone.

    Raises TypeError or ValueError for other arrays.
    """
    check_array("largest", "logits", logits)
    if logits.ndim != 2 or not logits.size:
        raise ValueError(f"largest: logits are {logits.shape} but have to be (B, V)")
    ids = empty(logits.shape[:1], logits, "int64")
    CUDA.launch("largest", logits.shape[:1], (THREADS,), (logits, ids, np.int32(logits.shape[1])))
    return ids
