"""Arguments against the kernel's C++ signature: what CuPy passes on without a look, and the GPU
then misreads.
"""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache

import numpy as np

from minillm.kernels.simulator.source import kernels, split_list

NUMPY_KINDS = {"i": "i", "u": "u", "f": "f", "b": "b", "h": "u"}


class Parameter(ctypes.Structure):
    """One parameter of a kernel, as entry.h describes it."""

    _fields_ = [
        ("kind", ctypes.c_char),
        ("is_const", ctypes.c_char),
        ("pointers", ctypes.c_short),
        ("size", ctypes.c_int),
        ("parts", ctypes.c_int),
    ]

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of an element; None where any will do (void, a type that NumPy does
        not have).
        """
        kind = self.kind.decode()
        return np.dtype(f"{NUMPY_KINDS[kind]}{self.size // self.parts}") if kind in NUMPY_KINDS else None

    @property
    def writable(self) -> bool:
        return self.pointers > 0 and self.is_const == b"\0"


def check_argument(label: str, parameter: Parameter, value) -> None:
    """Raises TypeError or ValueError, naming the argument by `label`, unless the kernel can take
    `value`.
    """
    if isinstance(value, (bool, int, float)):
        wanted = f"np.{parameter.dtype}({value})" if parameter.dtype is not None else "a NumPy scalar"
        raise TypeError(f"{label} is a Python {type(value).__name__}: pass {wanted} (CuPy would guess the type)")
    if parameter.pointers:
        _check_pointer(label, parameter, value)
    elif not isinstance(value, np.generic):
        raise TypeError(f"{label} is {_describe(value)}, the kernel takes a scalar {_kind(parameter)}")
    elif parameter.dtype is None or parameter.parts > 1:
        if value.nbytes != parameter.size:
            raise TypeError(f"{label} has {value.nbytes} bytes, the kernel's type has {parameter.size}")
    elif value.dtype != parameter.dtype:
        raise TypeError(f"{label} is {value.dtype}, the kernel takes {parameter.dtype}")


def _kind(parameter: Parameter) -> str:
    return str(parameter.dtype) if parameter.dtype is not None else f"of {parameter.size} bytes"


def _check_pointer(label: str, parameter: Parameter, value) -> None:
    if isinstance(value, np.integer) and value == 0:
        return  # a null pointer
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{label} is {_describe(value)}, the kernel takes a pointer: pass an array")
    expected = np.dtype(np.uint64) if parameter.pointers > 1 else parameter.dtype
    if parameter.kind == b"h" and parameter.pointers == 1 and value.dtype.name == "bfloat16":
        expected = value.dtype  # of the package ml_dtypes; __nv_bfloat16 takes uint16 too, bits as they are
    if expected is not None and value.dtype != expected:
        what = "device pointers (uint64)" if parameter.pointers > 1 else str(expected)
        raise TypeError(f"{label} is an array of {value.dtype}, the kernel takes {what}")
    if not value.flags.c_contiguous:
        raise ValueError(f"{label} is not C-contiguous (shape {value.shape}, strides {value.strides})")
    if parameter.writable and parameter.pointers == 1 and not value.flags.writeable:
        raise ValueError(f"{label} is read-only, and the kernel's pointer is not const")


@lru_cache(maxsize=256)  # asked for at every launch
def parameter_names(source: str, kernel: str) -> list[str]:
    """The names of a kernel's parameters as its source has them; empty where they cannot
    be read.
    """
    name = re.split(r"[<(\s]", kernel.strip().lstrip("&"))[0].split("::")[-1]
    found = [each for each in kernels(source) if each.name.split("::")[-1] == name]
    if not found:
        return []
    parts = [part.partition("=")[0] for part in split_list(found[0].parameters)]
    return [words[-1] for part in parts if (words := re.findall(r"[A-Za-z_]\w*", part)) and part != "void"]


def extern_c_kernels(source: str) -> list[str]:
    """The kernels of a source that are found by their plain name."""
    return [each.name.split("::")[-1] for each in kernels(source) if each.extern_c and each.template is None]


def _describe(value) -> str:
    if isinstance(value, np.generic):
        return f"a scalar {value.dtype}"
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
