"""Arrays, devices and random numbers: the one thing that everything else leans on.

*Arrays.* A layer never asks which device it runs on. It asks each array for its module, `xp = array_module(x)`, and
calls `xp.exp`, `xp.matmul`, ...: NumPy for an array in host memory, CuPy for one on the GPU.

*Random numbers.* There is no hidden generator. `stream(seed, "dropout", step)` makes a generator from its key, and the
same key gives the same numbers on every machine and in every process. A resumed run therefore needs its step number
and nothing else to continue bit for bit.

The generator is Philox4x64-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). It
is *counter based*: word i of a stream is a pure function of (key, i), so that a GPU thread can compute the word that
belongs to its element without asking anyone. Everything drawn here is defined by those words alone, and not by the
distributions of `numpy.random.Generator`, which may change from one release of NumPy to the next.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import sys
from contextvars import ContextVar
from functools import lru_cache

import numpy as np

from minillm.errors import MissingExtra, UserError

DTYPES = ("float32", "float64")


# ------------------------------------------------------------------------------------------------ arrays and devices


class SimulatedArray(np.ndarray):
    """An array on the device "cudasim": host memory, for which the CUDA kernels run in the simulator.

    Results of operations on it are simulated arrays too, single numbers included, so that the device is handed on from layer
    to layer. As with CuPy's arrays, a number reaches the host when somebody asks for it: by float(), by item(), in an `if`.
    """

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return array.view(SimulatedArray)

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return found if isinstance(found, np.ndarray) else np.asarray(found).view(SimulatedArray)


def _asking(name: str):
    """A method of an array that brings numbers to the host."""
    inherited = getattr(np.ndarray, name)

    def method(self, *arguments):
        refuse_to_wait(name)
        return inherited(self, *arguments)

    return method


ASKING = ("__bool__", "__float__", "__index__", "__int__", "item", "tolist")
for _name in ASKING:
    setattr(SimulatedArray, _name, _asking(_name))

# Whether the host may wait for a device to bring it numbers: not within minillm.waits.no_waits.
may_wait: ContextVar[bool] = ContextVar("may_wait", default=True)


class Waited(RuntimeError):
    """The host asked for a number of a device where it must not wait for it."""


def refuse_to_wait(what: str) -> None:
    """Raises Waited where the host must not wait."""
    if not may_wait.get():
        raise Waited(f"{what} copies from the device to the host, which has to wait until it has done all its work")


def array_module(array):
    """The module that works on `array`: numpy, or cupy for an array that lives on a GPU."""
    return sys.modules["cupy"] if _is_cupy(array) else np


def device_of(array) -> str:
    """Where `array` lives: "cpu", "cuda" or "cudasim"."""
    if _is_cupy(array):
        return "cuda"
    return "cudasim" if isinstance(array, SimulatedArray) else "cpu"


def _is_cupy(array) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy"


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
    """CuPy, if it can reach a GPU. Raises MissingExtra without CuPy, UserError without a driver that is new enough."""
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
            f'device "cuda": the NVIDIA driver knows CUDA {_release(driver)}, this CuPy is made for CUDA {_release(needed)}: '
            f'update the driver, or pip install "minillm[cuda{driver // 1000}]"'
        )
    raise UserError('device "cuda": CuPy finds no GPU (nvidia-smi shows those of this machine); use device "cpu"')


def _release(version: int) -> str:
    """CUDA's number of a version as people write it: 13020 -> 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def to_host(array) -> np.ndarray:
    """`array` as a plain NumPy array in host memory; the array itself if it is one already."""
    if isinstance(array, SimulatedArray):
        refuse_to_wait("to_host")
    return array_module(array).asnumpy(array) if _is_cupy(array) else array.view(np.ndarray)


def contiguous(array):
    """`array` in C order, on its device: itself if it is so already, else a copy."""
    return array if array.flags.c_contiguous else array.copy()  # numpy.ascontiguousarray would forget the device


def float_dtype(name) -> np.dtype:
    """The NumPy dtype for a name in DTYPES. Raises UserError for any other name."""
    name = name if isinstance(name, str) else np.dtype(name).name
    if name not in DTYPES:
        raise UserError(f'unknown dtype "{name}": use one of {", ".join(DTYPES)}')
    return np.dtype(name)


# ------------------------------------------------------------------------------------------------------ random streams


def stream(*key: int | str) -> Stream:
    """The random stream of a key, such as `stream(seed, "dropout", step, "h.0.attn")`.

    Parts of the key are integers and strings. Different keys give streams that are independent for every practical
    purpose: the 128-bit Philox key is a BLAKE2b hash of the parts.
    """
    parts = (f"s{part}" if isinstance(part, str) else f"i{int(part)}" for part in key)
    text = "\x00".join(parts)  # no part can imitate two: strings with a NUL are rejected below
    if text.count("\x00") != max(len(key) - 1, 0):
        raise ValueError(f"a part of a stream's key contains a NUL character: {key!r}")
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return Stream(np.frombuffer(digest, dtype="<u8").astype(np.uint64))


class Stream:
    """A sequence of random words that is a pure function of its key: word i is Philox4x64-10 of (key, 1 + i // 4)[i % 4].

    (NumPy's generator increments the counter before it computes the first block, hence the 1.) Each method consumes
    the next words of the sequence.
    """

    def __init__(self, philox_key: np.ndarray):
        self.philox_key = philox_key  # two uint64: all that a kernel needs to draw the same numbers
        self._generator = np.random.Philox(key=philox_key)

    def words(self, count: int) -> np.ndarray:
        """The next `count` words, uint64."""
        return self._generator.random_raw(count)

    def words32(self, count: int, start: int = 0) -> np.ndarray:
        """Words cut into halves, low half first: numbers `start` to `start + count` of this sequence, uint32."""
        blocks, first = divmod(start, 8)  # a block is four words
        if blocks:
            self._generator.advance(blocks)
        return self.words(-(-(first + count) // 2)).astype("<u8", copy=False).view("<u4")[first : first + count]

    def uniform(self, shape=()) -> np.ndarray:
        """Uniform on [0, 1): the upper 53 bits of one word each, float64."""
        shape = (shape,) if isinstance(shape, int) else shape
        return ((self.words(math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integers(self, high: int, shape=()) -> np.ndarray:
        """Uniform on {0, ..., high - 1}: one word each, int64. `high` is at most 2**53."""
        return np.minimum((self.uniform(shape) * high).astype(np.int64), high - 1)

    def normal(self, shape=()) -> np.ndarray:
        """Standard normal, float64, by the transform of Box and Muller (1958): two words give two numbers."""
        shape = (shape,) if isinstance(shape, int) else shape
        count = math.prod(shape)
        u = self.uniform((-(-count // 2), 2))
        radius = np.sqrt(-2.0 * np.log1p(-u[:, 0]))  # 1 - u lies in (0, 1]: no logarithm of zero
        angle = 2.0 * np.pi * u[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count].reshape(shape)


# -------------------------------------------------------------------------------------------------- the C allocator


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks up to 32 MiB for the next allocation instead of handing them to the kernel.

    A training step allocates the same arrays again and again. By default glibc maps each large one afresh, and the
    kernel then has to zero every page of it: benchmarks/train_step.py shows what this costs. Linux with glibc only;
    elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library (musl)
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    mallopt(m_mmap_threshold, 32 << 20)  # glibc accepts no more than HEAP_MAX_SIZE / 2
    mallopt(m_trim_threshold, (1 << 31) - 1)


_keep_freed_memory()
