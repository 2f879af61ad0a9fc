"""Launcher of adamw.cu: one step of minillm/optim/adamw.py, or adam.py, for all tensors, for
"cuda" and "cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module
from minillm.kernels.launch import CudaFile, ResourceLimit, check_array, device_id, empty
from minillm.kernels.tensor_list import CONSTANTS, addresses, layout, on_device

CUDA = CudaFile(__file__, "adamw.cu", {"adamw": ResourceLimit(registers=48)}, constants=CONSTANTS)


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
) -> None:
    """One step: the arrays of values, first_moments and second_moments are written over.

    Lists of equally many float32 arrays; weight_decays is a list of as many numbers; step counts
    from 1. gradient_scale: a number, or a 0-d array on the device, that every gradient is
    multiplied with; nothing is changed where it is not finite. decoupled=False is Adam: the decay
    goes into the gradient.
    """
    if not len(values) == len(gradients) == len(first_moments) == len(second_moments) == len(weight_decays):
        raise ValueError("adamw_update: values, gradients, moments and weight_decays are not equally many")
    if not values:
        return
    lists = {"values": values, "gradients": gradients, "first_moments": first_moments, "second_moments": second_moments}
    for name, arrays in lists.items():
        for index, (array, value) in enumerate(zip(arrays, values)):
            because = f"values[{index}] is {value.shape}"
            check_array("adamw_update", f"{name}[{index}]", array, like=values[0], shape=value.shape, because=because)
    scale = empty((), values[0])
    scale[...] = gradient_scale if np.isscalar(gradient_scale) else array_module(scale).asarray(gradient_scale)
    table = addresses(*lists.values())
    tensors, blocks = layout(values)
    decays = on_device(device_id(values[0]), tuple(map(float, weight_decays)), "float32")
    beta1, beta2 = betas
    numbers = (lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, 1 - beta1**step, 1 - beta2**step)
    arguments = (*table, tensors, decays, scale, np.int32(len(values)), *map(np.float32, numbers), np.int32(decoupled))
    CUDA.launch("adamw", (blocks,), (256,), arguments)
