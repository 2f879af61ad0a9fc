"""CUDA kernels, and the choice between them and plain array operations.

`kernel_for("layer_norm", x)` is the launcher of the CUDA kernel, a module with the functions of the
layer's own file, if there is one that takes x; otherwise None. A launcher is imported at its first
use.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from minillm.backend.arrays import device_of
from minillm.backend.precision import dtype_name
from minillm.errors import UserError

# Operation -> the dtypes that its kernel takes.
OPERATIONS = {
    "adamw": ("float32",),
    "attention": ("float32", "bfloat16"),
    "bias": ("float32", "bfloat16"),
    "cross_entropy": ("float32", "bfloat16"),
    "dropout": ("float32", "bfloat16"),
    "embedding": ("float32",),
    "gelu": ("float32", "bfloat16"),
    "global_norm": ("float32",),
    "largest": ("float32",),
    "layer_norm": ("float32", "bfloat16"),
    "residual_bias": ("float32", "bfloat16"),
    "residual_layer_norm": ("float32", "bfloat16"),
    "residual_rms_norm": ("float32", "bfloat16"),
    "rms_norm": ("float32", "bfloat16"),
    "rotary": ("float32", "bfloat16"),
    "skinny_matmul": ("float32", "bfloat16"),
    "swiglu": ("float32", "bfloat16"),
}
RUNGS = ("naive", "tiled", "online", "flash", "flash_tensor_cores")  # of attention, kernels/attention
_choices: dict[str, bool | str] = {}  # True, False, or for attention the name of a rung


def use_kernels(choice=True, /, **operations) -> None:
    """Which kernels the layers use for arrays on "cuda" and "cudasim".

    use_kernels(True)                      all of them (the default)
    use_kernels(False)                     none: plain CuPy, or NumPy on "cudasim"
    use_kernels(False, layer_norm=True)    only this one
    use_kernels({"layer_norm": False})     the same choices as a dict
    use_kernels(attention="tiled")         all, and of attention this rung: "naive", "tiled", "online", "flash" or
                                           "flash_tensor_cores" (which rounds float32 to TF32)

    Raises UserError for an unknown operation or rung.
    """
    if isinstance(choice, dict):
        choice, operations = True, {**choice, **operations}
    for operation, chosen in operations.items():
        if operation not in OPERATIONS:
            raise UserError(f'no kernel for "{operation}": there are {", ".join(OPERATIONS)}')
        if not isinstance(chosen, bool) and not (operation == "attention" and chosen in RUNGS):
            names = f" or one of {', '.join(RUNGS)}" if operation == "attention" else ""
            raise UserError(f"{operation}={chosen!r}: use True or False{names}")
    _choices.clear()
    _choices.update({operation: operations.get(operation, bool(choice)) for operation in OPERATIONS})


def dispatch(array, forward, backward):
    """The pair of functions that works on `array`: the CUDA kernel's, or the given ones of the
    layer's own file.

    A layer passes its `NAME_forward` and `NAME_backward` and keeps the second for its own backward,
    so that what forward saved is read by the function that belongs to it.
    """
    kernel = kernel_for(forward.__name__.removesuffix("_forward"), array)
    if kernel is None:
        return forward, backward
    return getattr(kernel, forward.__name__), getattr(kernel, backward.__name__)


def kernel_for(operation: str, array):
    """The launcher of the operation's kernel, or None where plain array operations are to be used.

    It is a module with the functions of the layer's file, for an `array` (the first one of the
    operation) that lives on "cuda" or "cudasim" and has a dtype that the kernel takes, unless
    `use_kernels` said otherwise.
    """
    if device_of(array) == "cpu":
        return None
    if not _choices[operation] or dtype_name(array.dtype) not in OPERATIONS[operation]:
        return None
    return _launcher(operation)


@cache
def _launcher(operation: str):
    return import_module(f"{__name__}.{operation}")


def choices() -> tuple:
    """What `use_kernels` chose, to see whether it is still the same."""
    return tuple(_choices.items())


def chosen_rung() -> str | None:
    """The rung of attention that `use_kernels` named; None where the best one is to be taken."""
    rung = _choices["attention"]
    return rung if isinstance(rung, str) else None


use_kernels(True)
