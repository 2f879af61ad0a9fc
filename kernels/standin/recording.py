"""What a program asks of the GPU: every launch, every product, and how often memory is moved or
waited for.

    with recorded() as calls:
        step()
    print(collections.Counter(call.name for call in calls))

Recording costs the host time: measure that without, and count in another step.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from minillm.kernels.standin import libraries, passes

COUNTED = (
    "launches",
    "products",
    "allocations",
    "waits",
    "to_device",
    "to_host",
    "memsets",
    "events",
    "allocated_bytes",
    "graph_launches",
    "graph_nodes",
    "library_calls",
)
CUDA_TYPES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "int8",
    4: "complex64",
    5: "complex128",
    10: "int32",
    14: "bfloat16",
}
COMPUTE_TYPES = {64: "float16", 68: "float32", 70: "float64", 72: "int32", 74: "float16", 75: "bfloat16", 77: "tf32"}
OPERATIONS = "NTC"


class Kernel(NamedTuple):
    """A launch: the kernel's name as the compiler has it, and how many threads run it.

    arguments: their bytes, one string for each parameter. replayed: whether a graph launched it.
    """

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[bytes, ...] = ()
    replayed: bool = False

    @property
    def threads(self) -> int:
        return math.prod(self.grid + self.block)

    @property
    def elements(self) -> int | None:
        """What a kernel of CuPy's works on, element by element: None for every other kernel."""
        return passes.elements(self.arguments) if passes.is_cupys_own(self.name) else None

    @property
    def bytes(self) -> int | None:
        """The memory that an element-wise kernel of CuPy's reads and writes, each number once: None
        where its name does not say the arrays' types (kernels of a program's own) and for every
        other kernel.
        """
        return passes.bytes_moved(self.name, self.arguments) if passes.is_cupys_own(self.name) else None


class MatrixProduct(NamedTuple):
    """C (m, n) = op(A) (m, k) op(B) (k, n), matrices by columns as cuBLAS has them.

    operations: "NT" for op(A) = A, op(B) = B^T. steps: leading dimensions. aligned: whether all
    three begin at multiples of 16 bytes. added: whether C is added to. replayed: whether a graph
    asked for it.
    """

    name: str
    operations: str
    m: int
    n: int
    k: int
    batch: int
    steps: tuple[int, int, int]
    operands: str
    result: str
    compute: str
    aligned: bool
    added: bool
    replayed: bool = False

    @property
    def flop(self) -> int:
        return 2 * self.m * self.n * self.k * self.batch


class LibraryCall(NamedTuple):
    """A call of cuBLAS other than a product, of cuRAND, of cuSOLVER, or of Thrust ("thrust
    argsort").
    """

    name: str
    shape: tuple[int, ...] = ()


class GraphLaunch(NamedTuple):
    """The launch of a graph; its kernels and products follow, with `replayed` set."""

    name: str
    nodes: int


Sort = LibraryCall

_calls: list | None = None
_kernels = None  # what carries launches and products out, set by computing.py
_products = None
_call_hook = None


def counts() -> dict[str, int]:
    """How often each thing was asked for since the start of the process.

    A launch by a graph is one of graph_nodes.
    """
    values = (ctypes.c_long * len(COUNTED))()
    libraries.cuda.standin_counts(values)
    return dict(zip(COUNTED, values))


@contextmanager
def recorded(compute: bool = True) -> Iterator[list]:
    """The list to which Kernel, MatrixProduct, LibraryCall and GraphLaunch are appended within the
    `with` block, in their order. What is captured is not in it before its graph is launched.

    compute: False carries nothing out meanwhile, even where the process computes.
    """
    global _calls, _kernels, _products
    before, _calls, carried_out = _calls, [], (_kernels, _products)
    if not compute:
        _kernels = _products = None
    _set_hooks()
    try:
        yield _calls
    finally:
        _calls, (_kernels, _products) = before, carried_out
        _set_hooks()


def carry_out(kernels, products) -> None:
    """From here on, launches and products are handed to these functions, too; they give error
    codes.
    """
    global _kernels, _products
    _kernels, _products = kernels, products
    _set_hooks()


def interrupt_after_hook() -> None:
    """Raise KeyboardInterrupt where the program goes on: above a hook is C, which no exception
    crosses.
    """
    libraries.cuda.standin_interrupt_after_hook(ctypes.pythonapi.PyErr_SetInterrupt)


def hear_calls(hook) -> None:
    """From here on, calls of other libraries go to this hook, whatever else is recorded or
    computed.
    """
    global _call_hook
    _call_hook = hook
    _set_hooks()


def computes() -> bool:
    """Whether what is asked for is carried out now."""
    return _kernels is not None


def note_call(name: str, shape: tuple[int, ...] = ()) -> None:
    if _calls is not None:
        _calls.append(LibraryCall(name, tuple(shape)))


def _set_hooks() -> None:
    """Without anything to do there is no hook, so that the host's time is not that of this file."""
    wanted = _calls is not None or _kernels is not None
    libraries.set_hooks(
        _LAUNCH_HOOK if wanted else None,
        _PRODUCT_HOOK if wanted else None,
        _call_hook,  # sorts are carried out always
        _GRAPH_HOOK if _calls is not None else None,
    )


def _launched(pointer) -> int:
    launch = pointer.contents
    if _calls is not None:
        _calls.append(
            Kernel(
                launch.name.decode(),
                tuple(launch.grid),
                tuple(launch.block),
                launch.shared,
                tuple(
                    ctypes.string_at(launch.arguments[i], launch.parameter[i].size) for i in range(launch.parameters)
                ),
                bool(launch.replayed),
            )
        )
    return _kernels(launch) if _kernels is not None else 0


def _multiplied(pointer) -> int:
    p = pointer.contents
    if _calls is not None:
        aligned = all((address or 0) % 16 == 0 for address in (p.a, p.b, p.c))
        _calls.append(
            MatrixProduct(
                p.name.decode(),
                "".join(OPERATIONS[operation] for operation in (p.op_a, p.op_b)),
                p.m, p.n, p.k, p.batch,
                (p.lda, p.ldb, p.ldc),
                CUDA_TYPES.get(p.a_type, str(p.a_type)),
                CUDA_TYPES.get(p.c_type, str(p.c_type)),
                COMPUTE_TYPES.get(p.compute, str(p.compute)),
                aligned,
                bool(p.device_scalars) or any(p.beta),
                bool(p.replayed),
            )
        )  # fmt: skip
    return _products(p) if _products is not None else 0


def _graph_launched(nodes: int) -> None:
    _calls.append(GraphLaunch("cudaGraphLaunch", nodes))


_LAUNCH_HOOK, _PRODUCT_HOOK = libraries.LaunchHook(_launched), libraries.ProductHook(_multiplied)
_GRAPH_HOOK = libraries.GraphHook(_graph_launched)
