"""With what a cupy.RawKernel is called: the driver gets addresses only, and check mode wants to
know how long arrays are.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from types import WrapperDescriptorType
from typing import NamedTuple

import numpy as np

POINTER_BYTES = 8
TP_CALL = 16 * POINTER_BYTES  # of CPython's PyTypeObject, the same from 3.10 to 3.13
NUMBERS = {b"i": "iu", b"u": "iu", b"f": "f"}  # kind of a parameter -> kinds of dtypes that mean the same


class Given(NamedTuple):
    """An argument of a launch.

    dtype: of a scalar or of an array's elements. start, end: the memory from the first to the last
    byte of an array; None for a scalar.
    """

    dtype: np.dtype
    start: int | None = None
    end: int | None = None


_given: list[Given] | None = None


def given() -> list[Given] | None:
    """The arguments of the RawKernel that is being launched; None for CuPy's other kernels."""
    return _given


def see_arguments() -> None:
    """From here on, `given` knows the arguments.

    The class is compiled, and Python does not let its methods be replaced: the function for a call
    in the type itself becomes the one of classes that are written in Python, which looks __call__
    up in the type's dictionary.
    """
    import cupy

    kernel_type = cupy.RawKernel
    original = kernel_type.__dict__["__call__"]
    if not isinstance(original, WrapperDescriptorType):
        return  # replaced already

    def call(kernel, grid, block, args, **named):
        global _given
        before, _given = _given, [_described(each, cupy) for each in args]
        try:
            return original(kernel, grid, block, args, **named)
        finally:
            _given = before

    class Callable:
        def __call__(self):
            """Only its type is of use."""

    gc.get_referents(kernel_type.__dict__)[0]["__call__"] = call
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kernel_type))
    _call_slot(kernel_type).value = _call_slot(Callable).value


def _call_slot(of: type):
    return ctypes.c_void_p.from_address(id(of) + TP_CALL)


def mistakes(parameters: Sequence, names: Sequence[str], arguments: Sequence[Given]) -> list[str]:
    """What is wrong with the arguments of a launch: a GPU would take the bytes as they are.

    parameters: as the simulator describes those of the kernel.
    """
    found = []
    for position, (parameter, argument) in enumerate(zip(parameters, arguments)):
        if parameter.kind not in NUMBERS or parameter.parts != 1:
            continue
        takes = f"{dict(i='int', u='uint', f='float')[parameter.kind.decode()]}{8 * parameter.size}"
        label = f"argument {position}" + (f" ({names[position]})" if position < len(names) else "")
        dtype, same_kind = argument.dtype, argument.dtype.kind in NUMBERS[parameter.kind]
        if argument.start is None and not parameter.pointers:
            whole = parameter.kind != b"f" and dtype.kind in "iub" and dtype.itemsize >= parameter.size
            if not whole and not (same_kind and dtype.itemsize == parameter.size):
                found.append(f"{label} is a scalar {dtype}, the kernel takes {takes}: pass numpy.{takes}(...)")
        elif argument.start is not None and parameter.pointers == 1 and dtype.kind in "iuf":
            if not same_kind or dtype.itemsize != parameter.size:
                found.append(f"{label} is an array of {dtype}, the kernel takes {takes}*")
    return found


def _described(argument, cupy) -> Given:
    if not isinstance(argument, cupy.ndarray):
        return Given(np.asarray(argument).dtype if not hasattr(argument, "ptr") else np.dtype(np.uint64))
    start = end = argument.data.ptr
    if argument.size:
        reach = [(n - 1) * step for n, step in zip(argument.shape, argument.strides)]
        start += sum(step for step in reach if step < 0)
        end += sum(step for step in reach if step > 0) + argument.itemsize
    return Given(argument.dtype, start, end)
