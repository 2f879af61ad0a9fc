"""Where the time of a training step goes, part by part.

A step is taken while watchers note when each piece of work begins and ends:

    kernel             a launch of one of our CUDA kernels, by its name
    matrix product     a call of `matmul`, by the layer that makes it
    elementwise        what is left of a layer's forward or backward: NumPy's or CuPy's own operations
    between            what is left of the step: Python, the batch, and on a GPU the time in which it waits for a launch

A piece inside another one counts for itself and not for the outer one, so that the parts add up to the step. On the CPU several
workers may share a batch; each part is then the mean over the workers.

On a GPU the host only hands work over, and its clock says nothing. There the step is taken twice. Once as always: the time of
the whole. Once with the stream held up until the host has handed over everything: work then follows work with no gap, and CUDA
events before and after each piece give its time on the device. The difference between the whole and the sum of the pieces is
the launch gap.

Bytes are those of the arrays that a piece takes and gives, read or written once: the least that it has to move. Operations of a
product (N, K) @ (K, M) are 2 N K M; those of attention kernels 4 B H T^2 D forward, 8 backward (operations.py); others are not
counted. The share of peak is that of the operations of matrix products, and that of the bytes of everything else, of what the
device can do at most (peaks.py); "n/a" where that is not known.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from minillm.layers.layer import Layer
from minillm.peaks import Peaks, peaks_of
from minillm.training.operations import operations_of_a_token
from minillm.watching import watching

WARM_UP_STEPS = 3  # before the step that is profiled: caches, pools and compiled kernels are then as they stay
KINDS = ("kernel", "matrix product", "elementwise", "between")
ATTENTION_PRODUCTS = {
    "flash_forward": 2,
    "flash_backward_queries": 1,
    "flash_backward_keys": 3,
    "row_products": 1,
    "weighted_sum": 1,
    "transposed_sum": 1,
}
OF_MANY_TENSORS = {"adamw": 7, "sums_of_squares": 1}  # kernels that get tables of addresses: arrays like the weights
# Layers made of others: the projection that makes the array of their own work (None: the stream), arrays forward, backward.
OWN_ARRAYS = {
    "MLP": ("c_fc", 2, 3),
    "SwiGLU": ("up_proj", 3, 5),
    "ResidualBlock": (None, 6, 6),
    "LlamaBlock": (None, 6, 6),
}
SLACK = 1.5  # how much longer than the host needs the stream is held up


@dataclass
class Part:
    """A row of the table. bytes and operations are None where they are not known."""

    kind: str
    name: str
    calls: int = 0
    seconds: float = 0.0
    bytes: int | None = 0
    operations: int | None = 0


@dataclass(frozen=True)
class StepProfile:
    """A step: its parts, which add up to `seconds`.

    model_operations: by the formula of operations.py. dtype: as in precision.py.
    """

    parts: list[Part]
    seconds: float
    tokens: int
    model_operations: int
    device_name: str
    dtype: str
    workers: int = 1

    @property
    def peaks(self) -> Peaks | None:
        return peaks_of(self.device_name)

    @property
    def peak_operations(self) -> float | None:
        """Operations a second that the device can do at most with operands of this dtype, if that is known."""
        rate = getattr(self.peaks, self.dtype, None) if self.peaks else None
        return rate * 1e12 if rate else None

    @property
    def utilisation(self) -> float | None:
        """Model FLOP utilisation: the model's operations a second, of the peak."""
        return self.model_operations / self.seconds / self.peak_operations if self.peak_operations else None

    def share_of_peak(self, part: Part) -> float | None:
        if part.kind == "matrix product" or (part.kind == "kernel" and part.operations):
            amount, peak = part.operations, self.peak_operations
        else:
            amount, peak = part.bytes, self.peaks.bandwidth * 1e9 if self.peaks else None
        return amount / part.seconds / peak if amount and peak and part.seconds else None


# --------------------------------------------------------------------------------------------------------- recording


class Profiler:
    """Calls a step's function, as `profiler(step, ...)`, and takes one of the calls apart.

    After WARM_UP_STEPS calls one is timed as a whole, and the next one is taken apart and told to `done`. From then on steps
    are called and nothing else.
    """

    def __init__(self, models: list, optimizer, tokens: int, time: int, done: Callable[[StepProfile], None]):
        """models: the model and its replicas; tokens: those of a step; time: those of a window."""
        self.models, self.optimizer, self.tokens, self.time, self.done = models, optimizer, tokens, time, done
        self._calls = 0
        self._whole = self._handed_over = 0.0

    def __call__(self, step: Callable, *arguments):
        self._calls += 1
        if self._calls == WARM_UP_STEPS + 1:
            return self._time(step, arguments)
        if self._calls == WARM_UP_STEPS + 2:
            return self._take_apart(step, arguments)
        return step(*arguments)

    @property
    def _on_gpu(self) -> bool:
        return self.models[0].device == "cuda"

    def _time(self, step, arguments):
        wait = _wait_for_gpu if self._on_gpu else _nothing
        wait()
        started = time.perf_counter()
        value = step(*arguments)
        self._handed_over = time.perf_counter() - started
        wait()
        self._whole = time.perf_counter() - started
        return value

    def _take_apart(self, step, arguments):
        clock = GpuClock(SLACK * self._handed_over) if self._on_gpu else HostClock(self.models[0].device)
        recorder = Recorder(clock, sum(p.value.nbytes for p in self.optimizer.parameters.values()))
        with watching(recorder.work), wrapped_layers(self.models, recorder), wrapped_step(self.optimizer, recorder):
            clock.start()
            started = clock.now()
            value = step(*arguments)
            ended = clock.now()
        clock.finish()
        parts = add_up(recorder.spans, clock, len(self.models))
        busy = sum(part.seconds for part in parts)
        whole = max(self._whole, busy) if self._on_gpu else clock.seconds(started, ended)
        parts.append(Part("between", "launch gap" if self._on_gpu else "Python", 1, whole - busy, None, None))
        self.done(self._profile(parts, whole, clock.device_name))
        return value

    def _profile(self, parts: list[Part], whole: float, device_name: str) -> StepProfile:
        model = self.models[0]
        return StepProfile(
            parts=parts,
            seconds=whole,
            tokens=self.tokens,
            model_operations=self.tokens * operations_of_a_token(model.config, self.time),
            device_name=device_name,
            dtype=model.precision,
            workers=len(self.models),
        )


@dataclass
class Span:
    """A piece of work: when it began and ended, by the clock's marks, and the piece that it is part of."""

    kind: str
    name: str
    outer: Span | None
    bytes: int | None
    operations: int | None
    start: object = None
    end: object = None


class Recorder:
    """Notes pieces of work, in the order in which they begin, for each thread by itself. weight_bytes: those of all weights."""

    def __init__(self, clock, weight_bytes: int = 0):
        self.clock, self.weight_bytes = clock, weight_bytes
        self.spans: list[Span] = []
        self._of_thread = threading.local()

    @contextmanager
    def span(self, kind: str, name: str, size: int | None = None, operations: int | None = None) -> Iterator[Span]:
        """Notes what happens inside as one piece. size: its bytes."""
        outer = getattr(self._of_thread, "span", None)
        span = Span(kind, name, outer, size, operations)
        self.spans.append(span)
        self._of_thread.span = span
        span.start = self.clock.now()
        try:
            yield span
        finally:
            span.end = self.clock.now()
            self._of_thread.span = outer

    def work(self, kind: str, name: str, arrays):
        """A watcher of kernels and matrix products (watching.py)."""
        if kind == "kernel":
            size = OF_MANY_TENSORS[name] * self.weight_bytes if name in OF_MANY_TENSORS else bytes_of(arrays)
            return self.span(kind, name, size, kernel_operations(name, arrays))
        if arrays[0].ndim == 1:  # the sum of rows that a bias's gradient is: no product of matrices
            return nullcontext()
        layer = getattr(self._of_thread, "span", None)
        return self.span(kind, layer.name if layer else name, product_bytes(*arrays), product_operations(*arrays[:2]))


def add_up(spans: list[Span], clock, workers: int) -> list[Part]:
    """One part for each kind and name, in the order in which they first came; what lies inside counts once."""
    inside: dict[int, float] = {}
    for span in spans:
        if span.outer is not None:
            inside[id(span.outer)] = inside.get(id(span.outer), 0.0) + clock.seconds(span.start, span.end)
    parts: dict[tuple[str, str], Part] = {}
    for span in spans:
        part = parts.setdefault((span.kind, span.name), Part(span.kind, span.name))
        part.calls += 1
        part.seconds += (clock.seconds(span.start, span.end) - inside.get(id(span), 0.0)) / workers
        part.bytes = _sum(part.bytes, span.bytes)
        part.operations = _sum(part.operations, span.operations)
    return sorted(parts.values(), key=lambda part: (KINDS.index(part.kind), -part.seconds))


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


# ------------------------------------------------------------------------------------------------------------- clocks


class HostClock:
    """Time as the host has it: work is done when the call returns."""

    def __init__(self, device: str):
        self.device_name = device

    def start(self) -> None:
        """Nothing is to be held up."""

    def finish(self) -> None:
        """Nothing is to be waited for."""

    def now(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


class GpuClock:
    """Time as the device has it: events in the stream. hold: seconds for which the stream is held up at the start."""

    def __init__(self, hold: float):
        self._cupy, self._hold = sys.modules["cupy"], hold
        device = self._cupy.cuda.runtime.getDevice()
        self.device_name = self._cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()

    def start(self) -> None:
        """The stream runs a function of the host that sleeps; what is handed over meanwhile piles up behind it."""
        _wait_for_gpu()
        self._cupy.cuda.get_current_stream().launch_host_func(time.sleep, self._hold)

    def finish(self) -> None:
        _wait_for_gpu()

    def now(self):
        event = self._cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start, end) -> float:
        return self._cupy.cuda.get_elapsed_time(start, end) / 1e3


def _wait_for_gpu() -> None:
    sys.modules["cupy"].cuda.Device().synchronize()


def _nothing() -> None:
    pass


# ------------------------------------------------------------------------------------------------- layers and optimizer


@contextmanager
def wrapped_layers(models: list, recorder: Recorder) -> Iterator[None]:
    """Inside, forward and backward of every layer below the models are pieces of work."""
    layers = [layer for model in models for _, layer in model.layers() if layer is not model]
    for layer in layers:
        for direction in ("forward", "backward"):
            if hasattr(layer, direction):
                setattr(layer, direction, _noting(layer, direction, recorder))
    try:
        yield
    finally:
        for layer in layers:
            for direction in ("forward", "backward"):
                vars(layer).pop(direction, None)


def _noting(layer: Layer, direction: str, recorder: Recorder) -> Callable:
    method, name = getattr(layer, direction), f"{type(layer).__name__} {direction}"

    def noted(*arguments, **settings):
        with recorder.span("elementwise", name) as span:
            result = method(*arguments, **settings)
            span.bytes = own_bytes(layer, direction, arguments, result)
        return result

    return noted


@contextmanager
def wrapped_step(optimizer, recorder: Recorder) -> Iterator[None]:
    """Inside, the optimizer's step is a piece of work: value, gradient and moments are read, all but the gradient written."""
    step, name, size = optimizer.step, f"{type(optimizer).__name__} step", 7 * recorder.weight_bytes

    def noted(*arguments):
        with recorder.span("elementwise", name, size):
            return step(*arguments)

    optimizer.step = noted
    try:
        yield
    finally:
        del optimizer.step


# --------------------------------------------------------------------------------------------- bytes and operations


def own_bytes(layer: Layer, direction: str, arguments: tuple, result) -> int | None:
    """Bytes of what a layer does itself, its sub-layers left out; None where that is not known.

    A layer without sub-layers reads its arguments and parameters and writes its result. Blocks add twice, two arrays into a
    third. The MLPs have their activation: z -> h, and dh, z -> dz; SwiGLU: gate, up -> h, and dh, gate, up -> dgate, dup.
    """
    kind = type(layer).__name__
    if kind in OWN_ARRAYS:
        inner, count = OWN_ARRAYS[kind][0], OWN_ARRAYS[kind][1 if direction == "forward" else 2]
        x = arguments[0]
        width = getattr(layer, inner).weight.value.size // x.shape[-1] if inner else x.shape[-1]
        return count * x.size // x.shape[-1] * width * x.itemsize
    if any(True for _ in layer.children()):
        return None
    return bytes_of([*arguments, result, *(parameter.value for parameter in layer.parameters().values())])


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
    """Bytes of both operands and of the result, which has the dtype of a where no array was given for it."""
    result = out.nbytes if out is not None else math.prod(a.shape[:-1]) * b.shape[-1] * a.dtype.itemsize
    return a.nbytes + b.nbytes + result


def kernel_operations(name: str, arrays) -> int | None:
    """Those of the products of attention that a kernel does, each 2 B H T^2 D; None for kernels that do none.

    The model needs two in forward, and in backward dP, dq, dk and dv: the flash kernel for queries does dq, the one for keys
    the other three. (Both compute the scores again, and the first one dP: that is not counted, see operations.py.)
    """
    products = next((count for start, count in ATTENTION_PRODUCTS.items() if name.startswith(start)), None)
    if products is None:
        return None
    batch, heads, rows, width = *arrays[0].shape[:3], arrays[1].shape[-1]  # q, k or P, v
    return products * 2 * batch * heads * rows * rows * width
