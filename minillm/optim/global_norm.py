"""Gradient clipping: a step in a bad place must not be longer than a step in a good one.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013),
algorithm 1. The norm is that of all gradients as one long vector: clipping changes the length of
the step and not its direction.

    norm = sqrt(sum over all tensors of g^2)        scale = min(1, max_norm / norm)
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of
from minillm.kernels import kernel_for
from minillm.layers.layer import Parameter

BLOCK = 1 << 16  # float32 sums run over so many elements, and are then added in float64


def global_norm(arrays):
    """The square root of the sum of squares over all arrays: a number, or on a device 0-d
    float64.
    """
    total = sum(_sum_of_squares(array) for array in arrays)
    return math.sqrt(total) if device_of(total) == "cpu" else array_module(total).sqrt(total)


def clipped_norm(arrays, max_norm=0.0, accumulated=1):
    """The norm of the arrays divided by `accumulated`, and the scale that clips it; on a device
    both are 0-d.

    The scale is what every array is to be multiplied with so that it is divided by `accumulated`
    and the norm is at most max_norm (0: no limit). On a device it is NaN where the norm is not
    finite. The kernel in kernels/global_norm.py has the same arguments.
    """
    norm = global_norm(arrays) / accumulated
    if device_of(norm) == "cpu":
        return norm, clip_scale(norm, max_norm) / accumulated
    scale = array_module(norm).minimum(1.0, (max_norm or math.inf) / norm) / accumulated
    return norm, scale + 0 * norm  # NaN for an infinite norm, too


def clip_scale(norm: float, max_norm: float | None) -> float:
    """What to multiply all gradients with so that their norm is at most `max_norm` (None or 0: no
    limit)."""
    return max_norm / norm if max_norm and norm > max_norm else 1.0


def clip(parameters: dict[str, Parameter], max_norm: float | None, accumulated: int = 1):
    """`clipped_norm` of the gradients of parameters, by the kernel where there is one: norm, scale
    for `optimizer.step`.

    max_norm None or 0: no limit. On a device both are 0-d arrays, and the host does not wait for
    them.
    """
    gradients = [parameter.grad for parameter in parameters.values()]
    kernel = kernel_for("global_norm", gradients[0]) if gradients else None
    if kernel is None:
        return clipped_norm(gradients, max_norm or 0.0, accumulated)
    return kernel.clipped_norm([contiguous(gradient) for gradient in gradients], max_norm or 0.0, accumulated)


def _sum_of_squares(array):
    flat = array.reshape(-1)  # only read: it may be a copy
    if device_of(flat) != "cpu":
        return (flat * flat).sum(dtype="float64")
    return sum(float(np.dot(flat[i : i + BLOCK], flat[i : i + BLOCK])) for i in range(0, flat.size, BLOCK))
