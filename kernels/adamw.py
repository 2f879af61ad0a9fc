"""Launcher of adamw.cu: one step of minillm/optim/adamw.py, or adam.py, for all tensors, for
"cuda" and "cudasim"; and the copies of weights in bfloat16.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import device_of
from minillm.kernels.launch import CudaFile, ResourceLimit, device_id
from minillm.kernels.tensor_list import CONSTANTS, addresses, check_list, layout, on_device

CUDA = CudaFile(
    __file__,
    "adamw.cu",
    {"adamw": ResourceLimit(registers=48), "round_to_bfloat16": ResourceLimit(registers=32)},
    constants=CONSTANTS,
)


def adamw_update(
    values,
    gradients,
    first_moments,
    second_moments,
    lr,
    betas,
    eps,
    weight_decays,
    step,
    gradient_scale=1.0,
    decoupled=True,
    copies=None,
) -> None:
    """One step: the arrays of values, first_moments and second_moments are written over.

    Lists of equally many float32 arrays; weight_decays is a list of as many numbers; step counts
    from 1. gradient_scale: a number, or a 0-d array on the device, that every gradient is
    multiplied with; no weight is changed where it is not finite. decoupled=False is Adam: the decay
    goes into the gradient. copies: for each value an array in bfloat16 of its shape that is written
    over with the new value, or None; by default none at all.
    """
    if not len(values) == len(gradients) == len(first_moments) == len(second_moments) == len(weight_decays):
        raise ValueError("adamw_update: values, gradients, moments and weight_decays are not equally many")
    if not values:
        return
    lists = {"values": values, "gradients": gradients, "first_moments": first_moments, "second_moments": second_moments}
    check_list("adamw_update", "values", values, like=values[0])
    shapes = [value.shape for value in values]
    for name in ("gradients", "first_moments", "second_moments"):
        because = "values[{index}] is {shape}"
        check_list("adamw_update", name, lists[name], like=values[0], shapes=shapes, because=because)
    copies = [None] * len(values) if copies is None else copies
    order = sorted(range(len(values)), key=lambda index: copies[index] is None)  # those with a copy come first
    values, gradients, first_moments, second_moments, weight_decays, copies = (
        [each[index] for index in order] for each in (*lists.values(), weight_decays, copies)
    )
    copies = [copy for copy in copies if copy is not None]
    _check_copies(values, copies)
    tensors, blocks = layout(values)
    tables = addresses(values, gradients, first_moments, second_moments, copies)
    decays = on_device(device_id(values[0]), tuple(map(float, weight_decays)), "float32")
    beta1, beta2 = betas
    numbers = (lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, 1 - beta1**step, 1 - beta2**step)
    counts = (np.int32(len(values)), np.int32(len(copies)))
    arguments = (*tables, tensors, decays, _on_device_of(values[0], gradient_scale), *counts)
    CUDA.launch("adamw", (blocks,), (256,), (*arguments, *map(np.float32, numbers), np.int32(decoupled)))


def round_to_bfloat16(values, copies) -> None:
    """Write each value (float32) into its copy (bfloat16, of the same shape), in one launch."""
    check_list("round_to_bfloat16", "values", values, like=values[0])
    _check_copies(values, copies)
    tensors, blocks = layout(values)
    CUDA.launch("round_to_bfloat16", (blocks,), (256,), (*addresses(values, copies), tensors, np.int32(len(values))))


def _check_copies(values, copies) -> None:
    shapes = [value.shape for value in values[: len(copies)]]
    because = "its value is {shape}"
    check_list("adamw_update", "copies", copies, like=values[0], shapes=shapes, because=because, dtype="bfloat16")


def _on_device_of(value, gradient_scale):
    """The scale as the kernel reads it, float32 on the device of `value`: itself if it is that."""
    if device_of(gradient_scale) == "cpu":
        return on_device(device_id(value), float(gradient_scale), "float32")
    return gradient_scale.astype("float32", copy=False)
