"""Gradient clipping: a step in a bad place must not be longer than a step in a good one.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1. The norm is
that of all gradients as one long vector, so that clipping changes the length of the step and not its direction:

    norm = sqrt(sum over all tensors of g^2)        scale = min(1, max_norm / norm)
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of
from minillm.kernels import kernel_for
from minillm.layers.layer import Parameter

BLOCK = 1 << 16  # float32 sums run over so many elements, and are then added in float64


def clip(parameters: dict[str, Parameter], max_norm: float | None, accumulated: int = 1):
    """The norm of the gradients divided by `accumulated`, and the scale for `optimizer.step` that divides and clips them.

    On a device both are 0-d arrays there, and nobody waits for them: the scale is NaN where the norm is not finite.
    """
    gradients = [parameter.grad for parameter in parameters.values()]
    kernel = kernel_for("global_norm", gradients[0]) if gradients else None
    if kernel is not None:
        return kernel.clipped_norm([contiguous(gradient) for gradient in gradients], max_norm or 0.0, accumulated)
    norm = global_norm(parameters) / accumulated
    if device_of(norm) == "cpu":
        return norm, clip_scale(norm, max_norm) / accumulated
    xp = array_module(norm)
    scale = xp.minimum(1.0, (max_norm or math.inf) / norm) / accumulated
    return norm, scale + 0 * norm  # NaN for an infinite norm, too


def global_norm(parameters: dict[str, Parameter]):
    """The norm of all gradients together: a number, or on a device 0-d."""
    gradients = [parameter.grad for parameter in parameters.values()]
    kernel = kernel_for("global_norm", gradients[0]) if gradients else None
    if kernel is not None:
        return kernel.global_norm([contiguous(gradient) for gradient in gradients])
    total = sum(_sum_of_squares(gradient) for gradient in gradients)
    return math.sqrt(total) if device_of(total) == "cpu" else array_module(total).sqrt(total)


def clip_scale(norm: float, max_norm: float | None) -> float:
    """What to multiply all gradients with so that their norm is at most `max_norm` (None or 0: no limit)."""
    return max_norm / norm if max_norm and norm > max_norm else 1.0


def _sum_of_squares(gradient):
    flat = gradient.reshape(-1)  # only read: it may be a copy
    if device_of(flat) != "cpu":
        return (flat * flat).sum(dtype="float64")
    return sum(float(np.dot(flat[i : i + BLOCK], flat[i : i + BLOCK])) for i in range(0, flat.size, BLOCK))
