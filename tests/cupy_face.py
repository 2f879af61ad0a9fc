"""CuPy's face on NumPy's arrays: the whole path of device "cuda" runs on a machine that has no GPU.

Arrays refuse to meet NumPy's and to be converted to them, as CuPy's do. Kernels run in the simulator. cublasGemmEx is written
here, after its documentation, on the addresses that it is given. What this cannot show: what a GPU computes, and CuPy's own
limits (which dtypes its operations take).
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from minillm import backend
from minillm.backend import SimulatedArray
from minillm.kernels.simulator import PointerTable
from minillm.kernels.simulator import RawModule as SimulatedModule
from minillm.precision import bfloat16, rounded_to_tf32

HANDLE = 77


class Device:
    """A GPU with a number that no real one has, so that nothing is mistaken that is remembered by it."""

    id = 1007
    compute_capability = "90"
    attributes = {"MaxSharedMemoryPerBlockOptin": 227 * 1024}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


class Array(np.ndarray):
    """A cupy.ndarray in host memory."""

    __module__ = "cupy"
    device = Device()
    at_address = {}  # address -> the array that was last asked for it

    @property
    def data(self):
        self.at_address[self.ctypes.data] = self.view(SimulatedArray)
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self, out=None, blocking=True):
        if out is None:
            return np.array(self.view(np.ndarray))
        assert (out.shape, out.dtype) == (self.shape, self.dtype)
        out[...] = self.view(np.ndarray)
        return out

    def __array_ufunc__(self, function, method, *inputs, out=None, **settings):
        named = {} if out is None else {"out": tuple(map(_inside, out))}
        result = getattr(function, method)(*map(_inside, inputs), **settings, **named)
        return _outside(result) if out is None else out[0]

    def __array_function__(self, function, *arguments):
        raise TypeError(f"numpy.{function.__name__} is called with an array of CuPy")

    def __getitem__(self, key):
        return _outside(self.view(np.ndarray)[_inside(key)])

    def __setitem__(self, key, value):
        self.view(np.ndarray)[_inside(key)] = _inside(value)


def _answering(name):
    """A method that gives an array, as all of CuPy's reductions do."""
    return lambda self, *arguments, **named: _outside(getattr(self.view(np.ndarray), name)(*arguments, **named))


def _asking(name):
    """A method that asks for numbers, by way of `get`."""
    return lambda self, *arguments: getattr(self.get(), name)(*arguments)


for _name in ("all", "any", "max", "mean", "sum"):
    setattr(Array, _name, _answering(_name))
for _name in ("__bool__", "__float__", "__int__", "item", "tolist"):
    setattr(Array, _name, _asking(_name))


def _inside(x):
    """NumPy's array behind an Array. Raises TypeError for one that lives in host memory."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_inside, x))
    if isinstance(x, np.ndarray) and not isinstance(x, Array):
        raise TypeError(f"an array of NumPy {x.shape} meets CuPy")
    return x.view(np.ndarray) if isinstance(x, Array) else x


def _outside(x):
    if isinstance(x, tuple):
        return tuple(map(_outside, x))
    return np.asarray(x).view(Array) if isinstance(x, (np.ndarray, np.generic)) else x


class Module(ModuleType):
    """The module cupy: NumPy's functions, for Arrays."""

    ndarray = Array

    def __getattr__(self, name):
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function

        def called(*arguments, out=None, **named):
            named |= {} if out is None else {"out": out}
            result = function(*map(_inside, arguments), **{key: _inside(value) for key, value in named.items()})
            return _outside(result) if out is None else out

        return called

    @staticmethod
    def asarray(x, *settings):
        return x if isinstance(x, Array) else np.array(x, *settings).view(Array)

    @staticmethod
    def asnumpy(x):
        return x.get()


class RawModule:
    """cupy.RawModule, by the simulator."""

    def __init__(self, **settings):
        self._module = SimulatedModule(**settings)

    def get_function(self, name):
        kernel = self._module.get_function(name)

        def launch(grid, block, arguments, shared_mem=0):
            kernel(grid, block, tuple(map(self._argument, arguments)), shared_mem=shared_mem)

        return launch

    @staticmethod
    def _argument(x):
        if isinstance(x, np.generic):
            return x
        if not isinstance(x, Array):
            raise TypeError(f"a {type(x).__name__} is given to a kernel")
        if x.dtype == np.uint64:  # addresses of other arrays
            return PointerTable.of([Array.at_address[int(address)] for address in x.view(np.ndarray)])
        return x.view(SimulatedArray)


def gemm_ex(calls):
    """cublasGemmEx: C = alpha op(A) op(B) + beta C, matrices by columns; see "cuBLAS", section 2.8.12.

    Each call is appended to `calls`.
    """
    dtypes = {0: np.dtype(np.float32), 14: bfloat16()}

    def matrix(address, code, rows, columns, step):
        assert step >= rows, "the leading dimension is shorter than a column"
        dtype = dtypes[code]
        bytes_ = (ctypes.c_uint8 * (((columns - 1) * step + rows) * dtype.itemsize)).from_address(address)
        memory = np.ctypeslib.as_array(bytes_).view(dtype)
        return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype.itemsize, step * dtype.itemsize))

    def number(address):
        return ctypes.c_float.from_address(address).value

    def call(
        handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm
    ):
        assert handle == HANDLE and a_type == b_type
        add = number(beta)
        calls.append(SimpleNamespace(operands=a_type, result=c_type, compute=compute, steps=(lda, ldb), add=add))
        left = matrix(a, a_type, *((k, m) if op_a else (m, k)), lda)
        right = matrix(b, b_type, *((n, k) if op_b else (k, n)), ldb)
        left, right = (x.T if op else x for x, op in ((left, op_a), (right, op_b)))
        left, right = left.astype(np.float32), right.astype(np.float32)
        if compute == 77:
            left, right = rounded_to_tf32(left), rounded_to_tf32(right)
        result, into = number(alpha) * (left @ right), matrix(c, c_type, m, n, ldc)
        into[...] = (result + into.astype(np.float32) if add else result).astype(into.dtype)

    return call


class Event(SimpleNamespace):
    """cupy.cuda.Event: everything has come to pass already."""

    done = True

    def record(self):
        pass

    def synchronize(self):
        pass


def install(monkeypatch) -> list:
    """Puts it in the place of CuPy until the test ends. Returns the list to which calls of cublasGemmEx are appended."""
    calls = []
    cupy = Module("cupy")
    cupy.RawModule = RawModule
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.Event, cupy.cuda.Device = Event, lambda number: Device()
    device, cupyx, libraries = (ModuleType(name) for name in ("cupy.cuda.device", "cupyx", "cupy_backends.cuda.libs"))
    device.get_cublas_handle = lambda: HANDLE
    cupyx.empty_pinned = np.empty
    libraries.cublas = SimpleNamespace(gemmEx=gemm_ex(calls))
    modules = {"cupy": cupy, "cupy.cuda": cupy.cuda, "cupy.cuda.device": device, "cupyx": cupyx}
    modules |= {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda")}
    for name, module in {**modules, "cupy_backends.cuda.libs": libraries}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "_usable_cupy", lambda: cupy)
    monkeypatch.setattr(Array, "at_address", {})
    return calls
