"""Arrays and their devices.

A layer does not depend on the device. It takes the module of each array, `xp = array_module(x)`,
and calls `xp.exp`, `xp.matmul`, ...: NumPy for an array in host memory, CuPy for one on the GPU.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import lru_cache

import numpy as np

from minillm.backend.allocator import keep_freed_memory
from minillm.errors import MissingExtra, UserError

DTYPES = ("float32", "float64")


class SimulatedArray(np.ndarray):
    """An array on the device "cudasim": host memory, for which the CUDA kernels run in the
    simulator.

    Results of operations on it are simulated arrays as well, single numbers included, so that the
    device passes from layer to layer. As with CuPy's arrays, a number is copied to the host by
    float(), by item(), or in an `if`.
    """

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return array.view(SimulatedArray)

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return found if isinstance(found, np.ndarray) else np.asarray(found).view(SimulatedArray)


def _asking(name: str):
    """Wrap a method of an array that copies numbers to the host."""
    inherited = getattr(np.ndarray, name)

    def method(self, *arguments):
        forbid_sync(name)
        return inherited(self, *arguments)

    return method


SYNC_METHODS = ("__bool__", "__float__", "__index__", "__int__", "item", "tolist")
for _name in SYNC_METHODS:
    setattr(SimulatedArray, _name, _asking(_name))

# Whether the host may wait for numbers of a device: not within minillm.backend.async_read.no_waits.
may_wait: ContextVar[bool] = ContextVar("may_wait", default=True)


class HostSyncError(RuntimeError):
    """A copy from a device to the host in code where the host must not wait for the device."""


def forbid_sync(what: str) -> None:
    """Raises HostSyncError within `no_waits`."""
    if not may_wait.get():
        raise HostSyncError(
            f"{what} copies from the device to the host, which has to wait until the device has finished all its work"
        )


def array_module(array):
    """The module that works on `array`: numpy, or cupy for an array that lives on a GPU."""
    return sys.modules["cupy"] if _device_of_class(type(array)) == "cuda" else np


def device_of(array) -> str:
    """The device of `array`: "cpu", "cuda" or "cudasim"."""
    return _device_of_class(type(array))


@lru_cache(maxsize=256)
def _device_of_class(array_class: type) -> str:
    """A step asks thousands of times, of a few classes."""
    if array_class.__module__.partition(".")[0] == "cupy":
        return "cuda"
    return "cudasim" if issubclass(array_class, SimulatedArray) else "cpu"


def current_on(array) -> bool:
    """Whether work on `array` goes to the GPU it lives on, without `with array.device`."""
    if device_of(array) != "cuda":
        return True
    return array.data.device_id == sys.modules["cupy"].cuda.device.get_device_id()


def to_device(array, device: str):
    """`array` on the device "cpu", "cuda" or "cudasim"; the array itself if it is there already.

    Raises UserError for any other name, and MissingExtra for "cuda" without CuPy.
    """
    if device == "cpu":
        return to_host(array)
    if device == "cudasim":
        return to_host(array).view(SimulatedArray)
    if device == "cuda":
        return _usable_cupy().asarray(array)
    raise UserError(f'unknown device "{device}": use cpu, cuda or cudasim')


@lru_cache(maxsize=1)
def _usable_cupy():
    """CuPy, if it can reach a GPU.

    Raises MissingExtra without CuPy, UserError without a driver that is new enough.
    """
    try:
        import cupy
    except ImportError:
        raise MissingExtra('device "cuda"', "CuPy", "cuda13") from None
    if cupy.cuda.is_available():
        return cupy
    driver, needed = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    if not driver:
        raise UserError('device "cuda": there is no NVIDIA driver; install one, or use device "cpu" or "cudasim"')
    if driver // 1000 < needed // 1000:
        raise UserError(
            f'device "cuda": the driver supports CUDA {_release(driver)}, this CuPy needs CUDA {_release(needed)}: '
            f'update the driver, or pip install "minillm[cuda{driver // 1000}]"'
        )
    raise UserError('device "cuda": CuPy finds no GPU (nvidia-smi shows those of this machine); use device "cpu"')


def _release(version: int) -> str:
    """CUDA's number of a version as people write it: 13020 -> 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def to_host(array) -> np.ndarray:
    """`array` as a plain NumPy array in host memory; the array itself if it is one already."""
    if isinstance(array, SimulatedArray):
        forbid_sync("to_host")
    return array_module(array).asnumpy(array) if device_of(array) == "cuda" else array.view(np.ndarray)


def contiguous(array):
    """`array` in C order, on its device: itself if it is so already, else a copy."""
    return array if array.flags.c_contiguous else array.copy()  # numpy.ascontiguousarray would forget the device


def is_held_elsewhere(holder, name: str) -> bool:
    """Whether anything but the attribute `name` of `holder` refers to the array that it is, or to
    its memory: then others can write into it.

    By CPython's counts of references. A count of 2 is that of the attribute and of the call that
    counts. A view holds the array or its base, and with CuPy its memory.
    """
    if sys.getrefcount(getattr(holder, name)) > 2:
        return True
    array = getattr(holder, name)
    if device_of(array) == "cuda":
        if array.base is not None or sys.getrefcount(array.data) > 2:
            return True
        return sys.getrefcount(array.data.mem) > 2
    base = array.base
    while isinstance(base, np.ndarray):  # held by what it is the base of, by `base` and by the call
        if sys.getrefcount(base) > 3:
            return True
        base = base.base
    return base is not None


def float_dtype(name) -> np.dtype:
    """The NumPy dtype for a name in DTYPES. Raises UserError for any other name."""
    name = name if isinstance(name, str) else np.dtype(name).name
    if name not in DTYPES:
        raise UserError(f'unknown dtype "{name}": use one of {", ".join(DTYPES)}')
    return np.dtype(name)


keep_freed_memory()
