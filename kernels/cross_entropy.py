"""Launcher of cross_entropy.cu: the functions of minillm/layers/cross_entropy.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import math
from numbers import Number

import numpy as np

from minillm.backend.arrays import array_module
from minillm.kernels.launch import FLOATS, NUMBERS, CudaFile, ResourceLimit, c_type, check_array, check_integers, empty

CUDA = CudaFile(
    __file__,
    "cross_entropy.cu",
    {
        **{f"cross_entropy<{number}>": ResourceLimit(registers=32, shared=384) for number in NUMBERS.values()},
        "count_targets": ResourceLimit(registers=32, shared=256),
        "mean_loss": ResourceLimit(registers=32, shared=256),
    },
)


def cross_entropy_forward(logits, targets, ignore_index=-100, label_smoothing=0.0, count=None, gradient=None):
    """Mean negative log-likelihood in nats. **The logits are overwritten with their gradient**, if
    no array is given for it.

    logits (..., V), targets (...) int, count: what the sum is divided by, by default the number of
    rows that are not
    ignored  ->  loss (0-d, float64, on the device), saved
    gradient: an array (N, V or more), float32 or bfloat16, for the gradient of logits (N, V).

    The host never waits for the device, so what it would have to wait for to raise is NaN here: the
    loss where every target is ignored, or where one lies outside of the vocabulary.
    """
    check_array("cross_entropy_forward", "logits", logits)
    vocabulary, shape = logits.shape[-1], logits.shape[:-1]
    because = f"logits are {logits.shape}"
    targets = check_integers("cross_entropy_forward", "targets", targets, like=logits, shape=shape, because=because)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy_forward: label_smoothing is {label_smoothing}: it must be between 0 and 1")
    rows, ignore_index = math.prod(shape), np.int64(ignore_index)
    divisor = empty((), logits, "float64")
    if count is None:
        CUDA.launch("count_targets", (1,), (256,), (targets, divisor, np.int64(rows), ignore_index))
    else:
        divisor[...] = count
    if gradient is None:
        gradient = logits
    else:
        check_array("cross_entropy_forward", "gradient", gradient, like=logits, dtype=FLOATS)
        if gradient.ndim != 2 or logits.ndim != 2 or len(gradient) != rows or gradient.shape[1] < vocabulary:
            raise ValueError(f"cross_entropy_forward: gradient is {gradient.shape} but {because}")
    losses, loss = empty((rows,), logits), empty((), logits, "float64")
    widths = (np.int32(vocabulary), np.int32(gradient.shape[-1]))
    arguments = (logits, gradient, targets, divisor, losses, *widths, ignore_index, np.float32(label_smoothing))
    threads = 32 * max(1, min(32, vocabulary // 128))
    CUDA.launch(f"cross_entropy<{c_type(gradient)}>", (rows,), (threads,), arguments)
    CUDA.launch("mean_loss", (1,), (256,), (losses, divisor, loss, np.int64(rows)))
    return loss, gradient[..., :vocabulary]


def cross_entropy_backward(dloss, saved):
    """dloss (0-d)  ->  dlogits (..., V), in the buffer that forward wrote"""
    dlogits = saved
    # A number is compared with 1; for an array that would mean waiting for the device.
    if not isinstance(dloss, Number) or dloss != 1:
        array_module(dlogits).multiply(dlogits, dloss, out=dlogits, casting="same_kind")
    return dlogits
