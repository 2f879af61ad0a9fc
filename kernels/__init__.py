"""CUDA kernels, and the choice between them and plain array operations.

A layer asks `twin("layer_norm", x)` and gets the launcher of the CUDA kernel, with the functions of the layer's own
file, if there is one that takes x; otherwise None. Launchers are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from minillm.backend import device_of
from minillm.errors import UserError

# Operation -> the dtypes that its kernel takes.
OPERATIONS = {
    "adamw": ("float32",),
    "attention": ("float32",),
    "cross_entropy": ("float32",),
    "dropout": ("float32",),
    "embedding": ("float32",),
    "gelu": ("float32",),
    "global_norm": ("float32",),
    "layer_norm": ("float32",),
    "residual_layer_norm": ("float32",),
    "rms_norm": ("float32",),
    "rotary": ("float32",),
}
_choices: dict[str, bool | str] = {}


def use_kernels(choice=True, /, **operations) -> None:
    """Which kernels the layers use for arrays on "cuda" and "cudasim".

    use_kernels(True)                      all of them (the default)
    use_kernels(False)                     none: plain CuPy, or NumPy on "cudasim"
    use_kernels(attention="flash")         all, and for attention this rung (a file of kernels/attention)
    use_kernels(False, layer_norm=True)    only this one
    use_kernels({"layer_norm": False})     the same choices as a dict
    """
    if isinstance(choice, dict):
        choice, operations = True, {**choice, **operations}
    for operation, chosen in operations.items():
        if operation not in OPERATIONS:
            raise UserError(f'no kernel for "{operation}": there are {", ".join(OPERATIONS)}')
        if not isinstance(chosen, bool) and chosen not in rungs(operation):
            names = ", ".join(f'"{rung}"' for rung in rungs(operation))
            raise UserError(f"{operation}={chosen!r}: use True, False{f' or one of {names}' if names else ''}")
    _choices.clear()
    _choices.update({operation: operations.get(operation, bool(choice)) for operation in OPERATIONS})


def rungs(operation: str) -> list[str]:
    """The kernels of an operation that has several, each a .cu file in a folder of its name; empty for the others."""
    return sorted(path.stem for path in (Path(__file__).parent / operation).glob("*.cu"))


def twin(operation: str, array):
    """The launcher of the operation's kernel, or None where plain array operations are to be used.

    It is a module with the functions of the layer's file, for an `array` (the first one of the operation) that lives on
    "cuda" or "cudasim" and has a dtype that the kernel takes, unless `use_kernels` said otherwise.
    """
    if device_of(array) == "cpu":
        return None
    choice = _choices[operation]
    if choice is False or array.dtype.name not in OPERATIONS[operation]:
        return None
    return import_module(f"{__name__}.{operation}" if choice is True else f"{__name__}.{operation}.{choice}")


use_kernels(True)
