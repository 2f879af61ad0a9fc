"""LAPACK, from the OpenBLAS inside NumPy's wheels.

Arrays are matrices by columns: their first axis has steps of one number. Each function returns
LAPACK's `info`: 0, or which pivot, row or value it stopped at.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

_NAMES = (("scipy_{}_64_", 8), ("{}_64_", 8), ("scipy_{}_", 4), ("{}_", 4))  # and the bytes of an int
_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}
_OPERATIONS = "NTC"


def run(name: str, dtype: np.dtype, *arguments) -> int:
    """Calls a LAPACK function, "getrf" for sgetrf, dgetrf, ... by `dtype`, without its last
    argument, info.

    A str of one letter, an int, an array or None (a null pointer) are what Fortran wants, by
    address.
    """
    function, int_size = _found(_LETTERS[dtype.char] + name)
    integer = ctypes.c_int64 if int_size == 8 else ctypes.c_int32
    info, kept, passed = integer(0), [], []
    for value in (*arguments, info):
        if isinstance(value, str):
            value = ctypes.c_char(value.encode())
        elif isinstance(value, (int, np.integer)):
            value = integer(int(value))
        kept.append(value)
        if isinstance(value, np.ndarray):
            passed.append(ctypes.c_void_p(value.ctypes.data))
        else:
            passed.append(None if value is None else ctypes.byref(value))
    lengths = [ctypes.c_size_t(1) for value in arguments if isinstance(value, str)]  # hidden, of Fortran's strings
    function(*passed, *lengths)
    if info.value < 0:
        raise ValueError(f"LAPACK's {name}: argument {-info.value} is wrong")
    return info.value


def with_workspace(name: str, dtype: np.dtype, *arguments) -> int:
    """The same for functions whose last arguments are a workspace and its size, which is asked for
    first.
    """
    size = np.zeros(1, dtype)
    run(name, dtype, *arguments, size, -1)
    work = np.zeros(max(1, int(size[0].real)), dtype)
    return run(name, dtype, *arguments, work, work.size)


@cache
def _found(name: str):
    """A function and the bytes of its integers.

    Raises NotImplementedError where NumPy has another BLAS.
    """
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    for pattern, int_size in _NAMES:
        function = getattr(library, pattern.format(name), None)
        if function is not None:
            function.restype = None
            return function, int_size
    raise NotImplementedError(
        f"LAPACK's {name} is not in this NumPy, another BLAS than its wheels' OpenBLAS: pip install --force-reinstall numpy"
    )


def integers() -> np.dtype:
    """The type of LAPACK's pivots."""
    return np.dtype(np.int64 if _found("sgetrf")[1] == 8 else np.int32)


def step(a: np.ndarray) -> int:
    """Numbers from one column of a matrix to the next."""
    return max(1, a.strides[1] // a.itemsize, a.shape[0])


def getrf(a: np.ndarray, pivots: np.ndarray) -> int:
    """P A = L U in place of A (m, n). pivots: int32, which row was exchanged with each, from 1."""
    wide = np.zeros(max(1, min(a.shape)), integers())
    info = run("getrf", a.dtype, *a.shape, a, step(a), wide)
    pivots[: min(a.shape)] = wide[: min(a.shape)]
    return info


def getrs(factors: np.ndarray, pivots: np.ndarray, b: np.ndarray, operation: int) -> int:
    """X of op(A) X = B from getrf's factors, in place of B (n, columns)."""
    wide = pivots.astype(integers())
    return run(
        "getrs", b.dtype, _OPERATIONS[operation], len(factors), b.shape[1], factors, step(factors), wide, b, step(b)
    )
