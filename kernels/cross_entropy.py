"""Launcher of cross_entropy.cu: the functions of minillm/layers/cross_entropy.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import math
from numbers import Number

import numpy as np

from minillm.backend.arrays import array_module, device_of
from minillm.kernels.launch import (
    FLOATS,
    CudaFile,
    ResourceLimit,
    c_type,
    check_array,
    check_integers,
    device_id,
    empty,
)
from minillm.kernels.layout import memory
from minillm.kernels.tensor_list import on_device

CUDA = CudaFile(
    __file__,
    "cross_entropy.cu",
    {
        "cross_entropy<float>": ResourceLimit(registers=40, shared=384),
        "cross_entropy<__nv_bfloat16>": ResourceLimit(registers=56, shared=384),
        "count_targets": ResourceLimit(registers=32, shared=256),
        "mean_loss": ResourceLimit(registers=32, shared=256),
    },
)


def cross_entropy_forward(logits, targets, ignore_index=-100, label_smoothing=0.0, count=None, before=0.0):
    """Mean negative log-likelihood in nats. **The logits are overwritten with their gradient.**

    logits (..., V), float32 or bfloat16, targets (...) int  ->  loss (0-d, float64, on the device),
    saved
    count: what the sum is divided by, a number or 0-d, by default the number of rows that are not
    ignored. before: the loss of the rows before these, which is added; an array is written over.
    Rows of logits (N, V) may be further apart than V numbers.

    The host never waits for the device, so what it would have to wait for to raise is NaN here: the
    loss where every target is ignored, or where one lies outside of the vocabulary.
    """
    step = row_step(logits)
    vocabulary, shape = logits.shape[-1], logits.shape[:-1]
    because = f"logits are {logits.shape}"
    targets = check_integers("cross_entropy_forward", "targets", targets, like=logits, shape=shape, because=because)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy_forward: label_smoothing is {label_smoothing}: it must be between 0 and 1")
    rows, ignore_index = math.prod(shape), np.int64(ignore_index)
    if count is None:
        count = empty((), logits, "float64")
        CUDA.launch("count_targets", (1,), (256,), (targets, count, np.int64(rows), ignore_index))
    elif device_of(count) == "cpu":
        count = on_device(device_id(logits), float(count), "float64")
    else:
        count = count.astype("float64", copy=False)
    losses, adding = empty((rows,), logits), device_of(before) != "cpu"
    loss = before if adding else empty((), logits, "float64")
    widths = np.int32(vocabulary), np.int32(step)
    arguments = (memory(logits), targets, count, losses, *widths, ignore_index, np.float32(label_smoothing))
    threads = 32 * max(1, min(16, vocabulary // 256))
    CUDA.launch(f"cross_entropy<{c_type(logits)}>", (rows,), (threads,), arguments)
    CUDA.launch("mean_loss", (1,), (256,), (losses, count, loss, np.int64(rows), np.int32(adding)))
    return loss, logits


def row_step(logits) -> int:
    """Numbers from one row of logits to the next.

    Raises as `check_array` for logits that are no rows of numbers side by side.
    """
    if getattr(logits, "ndim", 0) != 2 or logits.flags.c_contiguous or logits.strides[1] != logits.itemsize:
        check_array("cross_entropy_forward", "logits", logits, dtype=FLOATS)
        return logits.shape[-1]
    check_array("cross_entropy_forward", "a row of logits", logits[0], dtype=FLOATS)
    return logits.strides[0] // logits.itemsize


def cross_entropy_backward(dloss, saved):
    """dloss (0-d)  ->  dlogits (..., V), in the buffer that forward wrote"""
    dlogits = saved
    # A number is compared with 1; for an array that would mean waiting for the device.
    if not isinstance(dloss, Number) or dloss != 1:
        array_module(dlogits).multiply(dlogits, dloss, out=dlogits, casting="same_kind")
    return dlogits
