"""From a .cu file to a running kernel: the same way for the GPU and for the simulator.

A launcher declares its file, the kernels in it with their limits, and the constants that both use:

    CUDA = CudaFile(__file__, "gelu.cu", {"gelu_forward<true>": ResourceLimit(registers=32), ...})

and launches a kernel with

    CUDA.launch("gelu_forward<true>", grid, block, (x, y, np.int64(x.size)))

Arrays on a GPU go to cupy.RawModule, simulated ones to minillm.kernels.simulator.RawModule, which
has the same interface. CuPy does not check what it passes on: a transposed view arrives as if it
were contiguous, a Python float as a double where the kernel has a float. So every launcher checks
its arrays with `check_array`, and `launch` takes NumPy scalars only.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import array_module, current_on, device_of
from minillm.backend.hooks import instrumented
from minillm.backend.precision import dtype_name
from minillm.errors import UserError

# Source: CUDA C++ programming guide, "Technical specifications per compute capability".
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK_THREADS = 1024
SHARED_BY_DEFAULT = 48 * 1024  # bytes of shared memory that a block gets without a request
# dtype -> the template argument Number of kernels that read and write it. All compute in float.
NUMBERS = {"float32": "float", "bfloat16": "__nv_bfloat16"}
FLOATS = tuple(NUMBERS)


class ResourceLimit(NamedTuple):
    """The most that a kernel may use; tests compile every kernel and compare.

    registers: of a thread. shared: bytes of static shared memory of a block. dynamic_shared: bytes
    of dynamic shared memory of a block. smallest_arch: the first architecture (75 is sm_75) whose
    blocks can have that much shared memory; the kernel compiles for older ones too.
    """

    registers: int
    shared: int = 0
    dynamic_shared: int = 0
    smallest_arch: int = 75


class CudaFile:
    """A .cu file beside its launcher, compiled when a kernel of it is first launched, once for each
    device.

    launcher: the launcher's `__file__`. name: of the .cu file in the same folder. instances: name
    expression -> ResourceLimit, for every kernel and template instance that is launched, such as
    "f" or "f<64, true>". minimum_arch: the oldest architecture that the file compiles for, such as
    80 for tensor cores. constants: name -> number, the numbers that the file and its launcher
    share; the file gets them as macros (-D). one_by_one: compile each instance alone, when it is
    first launched. A model needs few of the many instances of an attention kernel: those of one
    head width take half of the compiler's time for flash.cu, a quarter for flash_tensor_cores.cu.
    """

    def __init__(
        self,
        launcher: str,
        name: str,
        instances: dict[str, ResourceLimit],
        minimum_arch: int = 75,
        constants: dict[str, int] | None = None,
        one_by_one: bool = False,
    ):
        self.path = Path(launcher).with_name(name)
        self.instances = instances
        self.minimum_arch = minimum_arch
        self.one_by_one = one_by_one
        self.constants = dict(constants or {})
        defined = (f"-D{key}={number}" for key, number in self.constants.items())
        self.options = (f"-I{self.path.parent}", f"-I{Path(__file__).parent}", *defined)
        self._modules = {}
        self._functions = {}  # (device, kernel) -> function: CuPy makes a new one at each request
        self._granted = {}  # (device, kernel) -> bytes of dynamic shared memory that were requested for it

    def with_text(self, text: str) -> CudaFile:
        """The same file with another text: for tests that plant faults."""
        other = CudaFile(self.path, self.path.name, self.instances, self.minimum_arch, self.constants, self.one_by_one)
        other.text = text
        return other

    @contextmanager
    def compiled_from(self, code: str, modules: list) -> Iterator[None]:
        """Within the `with` block, kernels are compiled from `code`, which has the file and its
        headers changed; `modules` gets what is compiled.
        """
        kept = self.__dict__.copy()
        self.code, self._modules, self._functions, self._granted = code, _Listed(modules), {}, {}
        try:
            yield
        finally:
            self.__dict__.clear()
            self.__dict__.update(kept)

    @cached_property
    def text(self) -> str:
        """The source text."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def code(self) -> str:
        """The text for the compiler, in which messages name the file.

        It ends with a digest of each included file: CuPy's cache of compiled kernels compares this
        text only, and a change in a header has to change it.
        """
        included = "".join(f"// {name} {digest}\n" for name, digest in sorted(self._included(self.text).items()))
        return f'#line 1 "{self.path.name}"\n{self.text}\n{included}'

    def _included(self, text: str) -> dict[str, str]:
        found = {}
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, flags=re.MULTILINE):
            for folder in (self.path.parent, Path(__file__).parent):
                if (folder / name).is_file():
                    header = (folder / name).read_text(encoding="utf-8")
                    found[name] = hashlib.sha256(header.encode()).hexdigest()
                    found.update(self._included(header))
                    break
        return found

    def module(self, array, kernel: str):
        """The compiled file for the device of `array`: a cupy.RawModule or the simulator's.

        kernel: the instance that it has to contain. Raises UserError for a GPU older than
        minimum_arch.
        """
        compiled = (kernel,) if self.one_by_one else tuple(self.instances)
        place = device_id(array), compiled
        if place not in self._modules:
            if device_of(array) == "cuda":
                check_architecture(self.path.name, int(array.device.compute_capability), self.minimum_arch)
                raw_module = array_module(array).RawModule
            else:
                from minillm.kernels.simulator import RawModule as raw_module
            self._modules[place] = raw_module(code=self.code, options=self.options, name_expressions=compiled)
        return self._modules[place]

    def launch(self, kernel: str, grid: tuple, block: tuple, arguments: tuple, shared_bytes: int = 0) -> None:
        """Run a kernel on the device of its first array.

        kernel: a key of `instances`. grid, block: one to three numbers; a grid with a 0 launches
        nothing. arguments: arrays and NumPy scalars in the order of the kernel's parameters; a
        struct is a scalar of a structured dtype. shared_bytes: dynamic shared memory of a block.
        Raises KeyError, TypeError or ValueError for a mistake of the launcher.
        """
        if 0 in grid:
            return
        array = self._check_launch(kernel, grid, block, arguments, shared_bytes)
        if current_on(array):
            instrumented("kernel", kernel, arguments, self._run, array, kernel, grid, block, arguments, shared_bytes)
        else:
            with array.device:
                self.launch(kernel, grid, block, arguments, shared_bytes)

    def _run(self, array, kernel, grid, block, arguments, shared_bytes) -> None:
        function = self._function(array, kernel, shared_bytes)
        if device_of(array) == "cuda":
            arguments = tuple([_struct(x) if isinstance(x, np.void) else x for x in arguments])
        function(grid, block, arguments, shared_mem=shared_bytes)

    def _function(self, array, kernel: str, shared_bytes: int):
        """The function that launches `kernel` on the device of `array`, with so much dynamic shared
        memory at least.
        """
        place = device_id(array), kernel
        function = self._functions.get(place)
        if function is None:
            function = self._functions[place] = self.module(array, kernel).get_function(kernel)
        if shared_bytes > self._granted.get(place, SHARED_BY_DEFAULT):  # CUDA gives more on request only
            function.max_dynamic_shared_size_bytes = self._granted[place] = shared_bytes
        return function

    def _check_launch(self, kernel, grid, block, arguments, shared_bytes):
        """Raises for mistakes of the launcher itself. Returns the first array."""
        if kernel not in self.instances:
            raise KeyError(f"{self.path.name} declares no instance {kernel}: add it to the launcher's table")
        if any(blocks > limit for blocks, limit in zip(grid, MAX_GRID)):
            raise ValueError(f"{kernel}: a grid of {grid} blocks is beyond CUDA's limit of {MAX_GRID}: split the batch")
        if math.prod(block) > MAX_BLOCK_THREADS:
            raise ValueError(f"{kernel}: a block of {block} threads is beyond CUDA's limit of {MAX_BLOCK_THREADS}")
        if shared_bytes > self.instances[kernel].dynamic_shared:
            raise ValueError(f"{kernel}: {shared_bytes} bytes of dynamic shared memory are more than it declares")
        for position, argument in enumerate(arguments):
            if isinstance(argument, (bool, int, float)):
                raise TypeError(
                    f"{kernel}: argument {position} is a Python {type(argument).__name__}: use NumPy's type"
                )
        arrays = [argument for argument in arguments if not isinstance(argument, np.generic)]
        places = set(map(device_id, arrays))
        if len(places) != 1:
            raise ValueError(f"{kernel}: arguments live on {' and '.join(map(str, sorted(places)))}")
        return arrays[0]


class _Listed(dict):
    """Modules by place, which are put into a list, too."""

    def __init__(self, modules: list):
        self.modules = modules

    def __setitem__(self, place, module) -> None:
        super().__setitem__(place, module)
        self.modules.append(module)


def _struct(struct: np.void) -> np.ndarray:
    """A struct as CuPy takes it: an array of size 1. Its bytes alone, because NumPy describes
    fields in Python, 25 us each time that CuPy asks where the array lies.
    """
    return np.array(struct).view(_bytes_type(struct.itemsize))


@lru_cache
def _bytes_type(size: int) -> np.dtype:
    return np.dtype(f"V{size}")


def check_architecture(name: str, arch: int, minimum: int) -> None:
    """Raises UserError if a GPU is too old for a file. arch, minimum: such as 75 for sm_75."""
    if arch < minimum:
        raise UserError(f"{name} needs a GPU of sm_{minimum} or later, this one is sm_{arch}: choose another kernel")


def check_array(
    kernel: str, name: str, array, *, like=None, shape=None, dtype="float32", because: str = "", contiguous: bool = True
) -> None:
    """Raises unless `array` is what the kernel takes.

    kernel, name: of the function and its argument, for the message. like: an array on whose device
    it has to be. shape: the only shape possible, None for any. dtype: one, or a tuple of names such
    as FLOATS. because: the reason for the shape, for the message ("x has 512 channels").
    contiguous=False: the kernel takes steps, which the launcher checks. Raises TypeError if it is
    no array or has another dtype; ValueError if its shape, its device or its memory layout (not
    C-contiguous) is wrong.
    """
    found, flags = getattr(array, "dtype", None), getattr(array, "flags", None)
    if found is None or flags is None:
        raise TypeError(f"{kernel}: {name} is a {type(array).__name__}, not an array")
    dtypes = dtype if isinstance(dtype, tuple) else (dtype_name(dtype),)
    if dtype_name(found) not in dtypes:
        raise TypeError(f"{kernel}: {name} is {array.dtype}, the kernel takes {' or '.join(dtypes)}")
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(f"{kernel}: {name} is {array.shape} but {because or f'has to be {tuple(shape)}'}")
    if contiguous and not flags.c_contiguous:
        raise ValueError(
            f"{kernel}: {name} is not C-contiguous (shape {array.shape}, strides {array.strides}): "
            f"pass {array_module(array).__name__}.ascontiguousarray({name})"
        )
    place = device_id(array)
    if place == "cpu":
        raise ValueError(f'{kernel}: {name} lives on "cpu": kernels take arrays on "cuda" or "cudasim"')
    if like is not None and place != device_id(like):
        raise ValueError(f"{kernel}: {name} lives on {place} but the other arrays on {device_id(like)}")


def check_integers(kernel: str, name: str, array, *, like, shape=None, because: str = ""):
    """Returns `array` as int64, which the kernels take.

    Raises as `check_array`, and for other than integers.
    """
    if getattr(array, "dtype", np.dtype(bool)).kind not in "iu":
        raise TypeError(
            f"{kernel}: {name} is {getattr(array, 'dtype', type(array).__name__)}, not an array of integers"
        )
    array = array.astype("int64", copy=False)
    check_array(kernel, name, array, like=like, shape=shape, dtype="int64", because=because)
    return array


def blocks_for(count: int, block: int, limit: int | None = None) -> int:
    """The number of blocks of `block` threads for `count` elements; at most `limit`, for
    grid-stride loops.
    """
    blocks = -(-count // block)
    return blocks if limit is None else min(blocks, limit)


def row_threads(width: int) -> int:
    """Threads of a block for one row of `width` numbers: whole warps, about four numbers a thread,
    at most 512.
    """
    return 32 * max(1, min(16, -(-width // 128)))


def c_type(array) -> str:
    """The template argument Number for a float32 or bfloat16 array. KeyError for another dtype."""
    return NUMBERS[dtype_name(array.dtype)]


def empty(shape, like, dtype="float32"):
    """A new array, not initialized, on the device of `like`.

    In check mode every byte of it is 255, NaN as a number: what a kernel does not write shows.
    """
    if device_of(like) == "cuda":  # the shape () would be none at all for cupy.empty_like: it takes that of `like`
        return array_module(like).empty(shape, dtype)
    from minillm.kernels.simulator import settings

    found = np.empty_like(like, shape=shape, dtype=dtype, order="C")
    if settings.current().mode == "check" and found.size:
        found.reshape(-1).view(np.uint8).fill(255)
    return found


def device_id(array) -> str:
    """The device of an array, a GPU with its number: "cuda:0", "cudasim", "cpu"."""
    device = device_of(array)
    return _gpu_name(array.data.device_id) if device == "cuda" else device


@lru_cache
def _gpu_name(number: int) -> str:
    return f"cuda:{number}"
