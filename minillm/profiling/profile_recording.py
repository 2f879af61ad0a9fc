"""Noting when pieces of a training step begin and end, on the host's clock or a GPU's, and what
they move and compute.
"""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from minillm.layers.fused_block import fuses
from minillm.layers.layer import Layer
from minillm.layers.mlp import MLP
from minillm.layers.swiglu import SwiGLU

ATTENTION_PRODUCTS = {
    "flash_forward": 2,
    "flash_backward_queries": 1,
    "flash_backward_keys": 3,
    "online_forward": 2,
    "online_backward_queries": 1,
    "online_backward_keys": 3,
    "matmul_abt": 1,
    "matmul_ab": 1,
    "matmul_atb": 1,
}
OF_MANY_TENSORS = {"adamw": 7, "sums_of_squares": 1}  # kernels that get tables of addresses: arrays like the weights
# Layers made of others: the projection that makes the array of their own work, arrays forward,
# backward.
OWN_ARRAYS = {MLP: ("c_fc", 2, 3), SwiGLU: ("up_proj", 3, 5)}
COLLECTIVES = ("reduce_scatter", "start_reduce_scatter", "all_gather", "broadcast", "sum", "maximum", "barrier")
ARRAYS_OF_BLOCK = 6  # of the residual stream, in both directions


@dataclass(eq=False)
class Span:
    """A piece of work, and what it moves and computes."""

    kind: str
    name: str
    bytes: int | None
    operations: int | None


@dataclass(frozen=True)
class Window:
    """The boundaries from number `start` to number `stop` of a step; the stream is held up for
    `seconds` before the first.
    """

    start: int
    stop: int
    seconds: float


class Recorder:
    """Notes pieces of work, in the order in which they begin, for each thread by itself.

    weight_bytes: those of all weights.

    Each beginning and end of a piece is a boundary. A thread's timeline has the clock's mark at
    each, and the innermost piece from there on: what lies between two boundaries counts for that
    piece alone. window: mark these boundaries and no others.
    """

    def __init__(self, clock, weight_bytes: int = 0, window: Window | None = None):
        self.clock, self.weight_bytes, self.window = clock, weight_bytes, window
        self.spans: list[Span] = []
        self.timelines: list[list[tuple[object, Span | None]]] = []
        self._of_thread = threading.local()

    @contextmanager
    def span(self, kind: str, name: str, size: int | None = None, operations: int | None = None) -> Iterator[Span]:
        """Notes what happens inside as one piece. size: its bytes."""
        outer = self.innermost()
        span = Span(kind, name, size, operations)
        self.spans.append(span)
        self._boundary(span)
        try:
            yield span
        finally:
            self._boundary(outer)

    def innermost(self) -> Span | None:
        """The piece that this thread is at."""
        return getattr(self._of_thread, "span", None)

    def seconds(self) -> list[float]:
        """What each piece took, in the order of `spans`, without the pieces inside it: as far as
        boundaries were marked.
        """
        taken = dict.fromkeys(self.spans, 0.0)
        for timeline in self.timelines:
            for (mark, span), (next_mark, _) in zip(timeline, timeline[1:]):
                if span is not None and mark is not None and next_mark is not None:
                    taken[span] += self.clock.seconds(mark, next_mark)
        return list(taken.values())

    def _boundary(self, span: Span | None) -> None:
        if not hasattr(self._of_thread, "timeline"):
            self._of_thread.timeline = []
            self.timelines.append(self._of_thread.timeline)
        timeline, window = self._of_thread.timeline, self.window
        if window is not None and len(timeline) == window.start:
            self.clock.hold_up(window.seconds)
        is_marked = window is None or window.start <= len(timeline) <= window.stop
        timeline.append((self.clock.now() if is_marked else None, span))
        self._of_thread.span = span

    def work(self, kind: str, name: str, arrays):
        """The hook around kernels, matrix products and waiting (backend/hooks.py)."""
        if kind == "communication":
            return self.span(kind, name, None)
        if kind == "kernel":
            size = OF_MANY_TENSORS[name] * self.weight_bytes if name in OF_MANY_TENSORS else bytes_of(arrays)
            return self.span(kind, name, size, kernel_operations(name, arrays))
        if arrays[0].ndim == 1:  # the sum of rows that a bias's gradient is: no product of matrices
            return nullcontext()
        layer = self.innermost()
        return self.span(kind, layer.name if layer else name, product_bytes(*arrays), product_operations(*arrays[:2]))


# ------------------------------------------------------------------------------------------------------------- clocks


def clock_of(device: str) -> HostClock | GpuClock:
    """The clock of a device."""
    return GpuClock() if device == "cuda" else HostClock(device)


class HostClock:
    """Time as the host has it: work is done when the call returns."""

    is_held_up = False

    def __init__(self, device: str):
        self.device_name = device

    def hold_up(self, seconds: float) -> None:
        """Work cannot be handed over in advance."""

    def wait(self) -> None:
        """There is nothing to wait for."""

    def now(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


class GpuClock:
    """Time as the device has it: events in the stream."""

    is_held_up = True

    def __init__(self):
        self._cupy = sys.modules["cupy"]
        device = self._cupy.cuda.runtime.getDevice()
        self.device_name = self._cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()

    def hold_up(self, seconds: float) -> None:
        """The stream runs a function of the host that sleeps; what is handed over meanwhile piles
        up behind it.
        """
        self.wait()
        self._cupy.cuda.get_current_stream().launch_host_func(time.sleep, seconds)

    def wait(self) -> None:
        """Wait until the device has finished."""
        self._cupy.cuda.Device().synchronize()

    def now(self):
        event = self._cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start, end) -> float:
        return self._cupy.cuda.get_elapsed_time(start, end) / 1e3


# ------------------------------------------------------------------------------------------------- layers and optimizer


@contextmanager
def wrapped_layers(models: list, recorder: Recorder) -> Iterator[None]:
    """Inside, forward and backward of every layer below the models are pieces of work."""
    layers = [layer for model in models for _, layer in model.layers() if layer is not model]
    blocks = {id(block) for model in models for block in model.blocks}
    for layer in layers:
        for direction in ("forward", "backward"):
            if hasattr(layer, direction):
                setattr(layer, direction, _noting(layer, direction, recorder, id(layer) in blocks))
    try:
        yield
    finally:
        for layer in layers:
            for direction in ("forward", "backward"):
                vars(layer).pop(direction, None)


def _noting(layer: Layer, direction: str, recorder: Recorder, is_block: bool) -> Callable:
    method, name = getattr(layer, direction), f"{type(layer).__name__} {direction}"

    def noted(*arguments, **settings):
        with recorder.span("elementwise", name) as span:
            result = method(*arguments, **settings)
            span.bytes = own_bytes(layer, direction, arguments, result, is_block)
        return result

    noted.only_takes_time = True  # a block may be fused all the same (layers/fused_block.py)
    return noted


@contextmanager
def wrapped_step(optimizer, recorder: Recorder, name: str, ranks: int = 1) -> Iterator[None]:
    """Inside, `optimizer.step` is a piece of work: of this rank's share of the weights, value,
    gradient and moments are read, all but the gradient written.
    """
    step, size = optimizer.step, 7 * recorder.weight_bytes // ranks

    def noted(*arguments):
        with recorder.span("elementwise", f"{name} step", size):
            return step(*arguments)

    optimizer.step = noted
    try:
        yield
    finally:
        del optimizer.step


@contextmanager
def wrapped_communicator(communicator, recorder: Recorder) -> Iterator[None]:
    """Inside, what is exchanged with other ranks is a piece of work, by the name of the collective,
    with the bytes that this rank sends. One that is started and waited for later is two: what the
    second one takes is what the work between them did not hide.
    """

    def noted(method, name: str):
        def collective(*arguments):
            before = sum(communicator.sent.values())
            with recorder.span("communication", name) as span:
                result = method(*arguments)
                span.bytes = sum(communicator.sent.values()) - before
            return noted(result, f"{name}, waited for") if callable(result) else result

        return collective

    wrapped = COLLECTIVES if communicator is not None and communicator.size > 1 else ()
    for name in wrapped:
        setattr(communicator, name, noted(getattr(communicator, name), name))
    try:
        yield
    finally:
        for name in wrapped:
            vars(communicator).pop(name)


# --------------------------------------------------------------------------------------------- bytes and operations


def own_bytes(layer: Layer, direction: str, arguments: tuple, result, is_block: bool = False) -> int | None:
    """Bytes of what a layer does itself, its sub-layers left out; None where that is not known.

    A layer without sub-layers reads its arguments and parameters and writes its result. Blocks add
    twice, two arrays into a third; a fused one does nothing itself. The MLPs have their activation:
    z -> h, and dh, z -> dz; SwiGLU: gate, up -> h, and dh, gate, up -> dgate, dup.
    """
    if is_block and hasattr(layer, "parts") and fuses(layer.parts(), arguments[0]):
        return None
    if is_block:
        return ARRAYS_OF_BLOCK * arguments[0].nbytes
    if type(layer) in OWN_ARRAYS:
        projection, *counts = OWN_ARRAYS[type(layer)]
        x = arguments[0]
        width = getattr(layer, projection).weight.peek().size // x.shape[-1]
        return counts[direction == "backward"] * x.size // x.shape[-1] * width * x.itemsize
    if any(True for _ in layer.children()):
        return None
    return bytes_of([*arguments, result, *(parameter.peek() for parameter in layer.parameters().values())])


def bytes_of(values) -> int:
    """The bytes of the arrays among `values`, each once."""
    arrays = {id(value): value for value in values if hasattr(value, "nbytes") and getattr(value, "ndim", 0)}
    return sum(array.nbytes for array in arrays.values())


def product_operations(a, b) -> int:
    """2 N K M for a (..., N, K) @ b (..., K, M), for every matrix of a stack; a may be a row (K,).

    >>> import numpy as np
    >>> product_operations(np.empty((5, 2, 3)), np.empty((5, 3, 4))), product_operations(np.empty(3), np.empty((3, 4)))
    (240, 24)
    """
    return 2 * math.prod(a.shape) * b.shape[-1]


def product_bytes(a, b, out=None) -> int:
    """Bytes of both operands and of the result, which has the dtype of a where no array was given
    for it.
    """
    result = out.nbytes if out is not None else math.prod(a.shape[:-1]) * b.shape[-1] * a.dtype.itemsize
    return a.nbytes + b.nbytes + result


def kernel_operations(name: str, arrays) -> int | None:
    """Those of the products of attention that a kernel does, each 2 B H T^2 D; None for kernels
    that do none.

    The model needs two in forward, and in backward dP, dq, dk and dv: the flash kernel for queries
    does dq, the one for keys the other three. (Both compute the scores again, and the first one dP:
    that is not counted, see flops.py.)
    """
    products = next((count for start, count in ATTENTION_PRODUCTS.items() if name.startswith(start)), None)
    if products is None:
        return None
    if name.startswith("flash"):  # q, k and v may be views, whose shape the simulator does not get
        batch, heads, rows = next(array.shape for array in arrays if array.ndim == 3)  # of L
        width = int(re.search(r"\d+", name.partition("<")[2].partition("Bf16")[2] or name)[0])
    else:
        batch, heads, rows, width = *arrays[0].shape[:3], arrays[1].shape[-1]  # q, k or P, v
    return products * 2 * batch * heads * rows * rows * width
