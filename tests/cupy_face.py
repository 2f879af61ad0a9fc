"""CuPy's face on NumPy's arrays: the whole path of device "cuda" runs on a machine that has no GPU.

Arrays refuse to meet NumPy's and to be converted to them, as CuPy's do; what CuPy does otherwise than NumPy is done as CuPy
does it (shape=() of empty_like, indices beyond the end, results that are always arrays). Kernels run in the simulator.
cublasGemmEx is written here, after its documentation, on the addresses that it is given. What this cannot show: what a GPU
computes, and CuPy's own limits (which dtypes its operations take).
"""

from __future__ import annotations

import ctypes
import inspect
import operator
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import numpy as np

from minillm.backend import arrays as backend
from minillm.backend.arrays import SimulatedArray
from minillm.backend.precision import bfloat16, rounded_to_tf32
from minillm.kernels.simulator import PointerTable
from minillm.kernels.simulator import RawModule as SimulatedModule

try:
    import cupy as REAL  # for the signatures of its functions; it needs no GPU for these
except ImportError:
    REAL = None
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


class Array:
    """A cupy.ndarray in host memory. It is no numpy.ndarray, and has what a cupy.ndarray has and nothing else."""

    __module__ = "cupy"
    __hash__ = None
    device = Device()
    at_address = {}  # address -> the array that was last asked for it

    def __init__(self, host):
        self.host = np.asarray(host)

    shape, dtype, ndim, size, nbytes, itemsize, strides = (
        property(lambda self, name=name: getattr(self.host, name))
        for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides")
    )
    T = property(lambda self: Array(self.host.T))
    flags = property(lambda self: Flags(self.host.flags.c_contiguous, self.host.flags.f_contiguous))

    @property
    def data(self):
        address = self.host.ctypes.data
        self.at_address[address] = self
        return SimpleNamespace(ptr=address, device_id=Device.id)

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is None:
            return np.array(self.host, order=order)
        if (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        out[...] = self.host
        return out

    def view(self, dtype=None):
        if isinstance(dtype, type) and issubclass(dtype, (np.ndarray, Array)):
            raise TypeError(f"Cannot interpret {dtype} as a data type")
        return Array(self.host.view(np.dtype(dtype)) if dtype is not None else self.host.view())

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(f"'ndarray' object has no attribute '{name}'")
        method = getattr(self.host, name)

        def call(*arguments, **named):
            if unknown := named.keys() - KEYWORDS:
                raise TypeError(f"{name}() got an unexpected keyword argument {min(unknown)!r}")
            result = method(*map(_inside, arguments), **{key: _inside(value) for key, value in named.items()})
            return self if result is self.host else _outside(result)

        return call

    def __array__(self, *arguments, **named):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one")

    def __array_ufunc__(self, function, method, *inputs, out=None, **settings):
        if method != "__call__":
            return NotImplemented
        named = {} if out is None else {"out": tuple(map(_inside, out))}
        result = function(*map(_inside, inputs), **settings, **named)
        return _outside(result) if out is None else out[0]

    def __array_function__(self, function, types, arguments, named):
        return getattr(sys.modules["cupy"], function.__name__)(*arguments, **named)

    def __getitem__(self, key):
        return _outside(self.host[_wrapped(key, self.shape)])

    def __setitem__(self, key, value):
        self.host[_wrapped(key, self.shape)] = _inside(value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[index] for index in range(len(self)))


Flags = namedtuple("Flags", ["c_contiguous", "f_contiguous"])
# Of the public methods of cupy.ndarray those that NumPy's arrays have, too; and what the reductions among them take.
METHODS = frozenset(
    "all any argmax argmin argpartition argsort astype choose clip compress conj copy cumprod cumsum diagonal dot fill "
    "flatten max mean min nonzero partition prod put ravel repeat reshape round searchsorted sort squeeze std sum swapaxes "
    "take tobytes trace transpose var".split()
)
KEYWORDS = frozenset("axis dtype out keepdims ddof order copy casting offset kind decimals repeats".split())


def _asking(name):
    """A method that asks for numbers, by way of `get`."""
    return lambda self, *arguments: getattr(self.get(), name)(*arguments)


def _operator(name):
    """A method of Python's operators: the result is an array, never a number of NumPy's."""
    function = getattr(operator, REFLECTED.get(name, name))

    def method(self, *others):
        values = [self.host, *map(_inside, others)]
        result = function(*(reversed(values) if name in REFLECTED else values))
        return self if result is self.host else _outside(result)

    return method


BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
REFLECTED = {f"__r{name}__": f"__{name}__" for name in BINARY}
for _name in ("__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "tolist"):
    setattr(Array, _name, _asking(_name))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert", *BINARY, *(f"i{n}" for n in BINARY)):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))
for _name in REFLECTED:
    setattr(Array, _name, _operator(_name))


def _inside(x):
    """NumPy's array behind an Array. Raises TypeError for one that lives in host memory."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_inside, x))
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x.host if isinstance(x, Array) else x


def _outside(x):
    if isinstance(x, (list, tuple)):
        return type(x)(map(_outside, x))
    return Array(x) if isinstance(x, (np.ndarray, np.generic)) else x


def _wrapped(key, shape):
    """An index for NumPy: numbers in arrays count round the end, as CuPy has them; others stay as they are."""
    if isinstance(key, tuple):
        if any(isinstance(part, Array) and part.dtype.kind in "iu" for part in key):
            parts = [part for part in key if part is not None]
            if Ellipsis in [part for part in parts if not isinstance(part, Array)] or len(parts) > len(shape):
                return _inside(key)
            sizes = iter(shape)
            return tuple(part if part is None else _wrapped(part, (next(sizes),)) for part in key)
        return _inside(key)
    if isinstance(key, Array) and key.dtype.kind in "iu" and shape[0]:
        return key.host % shape[0]
    return _inside(key)


class Module(ModuleType):
    """The module cupy: NumPy's functions, for Arrays, with what CuPy does otherwise.

    Where the real CuPy is installed, calls that its functions do not take are refused.
    """

    ndarray = Array

    def __getattr__(self, name):
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function
        if REAL is not None and not hasattr(REAL, name):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")

        def called(*arguments, out=None, **named):
            named |= {} if out is None else {"out": out}
            if REAL is not None and inspect.isfunction(taken := getattr(REAL, name)):
                inspect.signature(taken).bind(*arguments, **named)
            result = function(*map(_inside, arguments), **{key: _inside(value) for key, value in named.items()})
            return _outside(result) if out is None else out

        return called

    @staticmethod
    def asarray(x, *settings, **named):
        if isinstance(x, Array) and not (settings or named):
            return x
        return Array(np.array(getattr(x, "host", x), *settings, **named))

    @staticmethod
    def asnumpy(x):
        return x.get() if isinstance(x, Array) else np.asarray(x)


def _like(name, *more):
    """empty_like and its kind. For CuPy the shape () is none at all: the result has the shape of the array."""
    function = getattr(np, name)

    def called(a, *arguments, shape=None, **named):
        if len(arguments) > len(more) and not isinstance(arguments[len(more)], (str, type, np.dtype, type(None))):
            raise TypeError(f"{name}: {arguments[len(more)]!r} is no dtype")
        return Array(function(a.host, *arguments, shape=shape or None, subok=False, **named))

    return staticmethod(called)


for _name in ("empty_like", "zeros_like", "ones_like"):
    setattr(Module, _name, _like(_name))
Module.full_like = _like("full_like", "fill_value")


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
        if isinstance(x, np.ndarray) and x.size == 1:  # by value; how CuPy takes a struct
            return x[()]
        if isinstance(x, np.void):
            raise TypeError(f"Unsupported type {type(x)}")
        if isinstance(x, np.generic):
            return x
        if not isinstance(x, Array):
            raise TypeError(f"a {type(x).__name__} is given to a kernel")
        if x.dtype == np.uint64:  # addresses of other arrays
            return PointerTable.of([Array.at_address[int(address)].host.view(SimulatedArray) for address in x.host])
        return x.host.view(SimulatedArray)


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
    device.get_cublas_handle, device.get_device_id = lambda: HANDLE, lambda: Device.id
    cupy.cuda.device = device
    cupyx.empty_pinned = np.empty
    libraries.cublas = SimpleNamespace(gemmEx=gemm_ex(calls))
    modules = {"cupy": cupy, "cupy.cuda": cupy.cuda, "cupy.cuda.device": device, "cupyx": cupyx}
    modules |= {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda")}
    for name, module in {**modules, "cupy_backends.cuda.libs": libraries}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "_usable_cupy", lambda: cupy)
    monkeypatch.setattr(Array, "at_address", {})
    return calls
