"""Gradient clipping: a step in a bad place must not be longer than a step in a good one.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1. The norm is
that of all gradients as one long vector, so that clipping changes the length of the step and not its direction:

    norm = sqrt(sum over all tensors of g^2)        scale = min(1, max_norm / norm)
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend import array_module
from minillm.kernels import twin
from minillm.layers.layer import Parameter

BLOCK = 1 << 16  # float32 sums run over so many elements, and are then added in float64


def global_norm(parameters: dict[str, Parameter]) -> float:
    """The norm of all gradients together."""
    gradients = [parameter.grad for parameter in parameters.values()]
    kernel = twin("global_norm", gradients[0]) if gradients else None
    if kernel is not None:
        return float(kernel.global_norm(gradients))
    return math.sqrt(sum(_sum_of_squares(gradient) for gradient in gradients))


def clip_scale(norm: float, max_norm: float | None) -> float:
    """What to multiply all gradients with so that their norm is at most `max_norm` (None or 0: no limit)."""
    return max_norm / norm if max_norm and norm > max_norm else 1.0


def _sum_of_squares(gradient) -> float:
    flat = gradient.reshape(-1)
    if array_module(flat) is not np:
        return float((flat * flat).sum(dtype="float64"))
    return sum(float(np.dot(flat[i : i + BLOCK], flat[i : i + BLOCK])) for i in range(0, flat.size, BLOCK))
