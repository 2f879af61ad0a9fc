"""What the benchmarks of single kernels share: the ways to compute an operation, timed in turn, with their errors.

Each of benchmarks/layer_norm.py, gelu.py, ... describes one operation as an `Operation` and calls `main`. The ways:

    numpy     minillm/layers on the CPU
    cupy      the same code on CuPy arrays, without our kernels
    kernel    minillm/kernels on CuPy arrays
    torch     PyTorch, where it is installed: on the GPU if it has one, else on the CPU

All ways take turns in every round, so that a machine that slows down slows all of them. On a GPU the time is the device's
(gpu_timing.py), with inputs that are not in its cache any more. The error is that against NumPy
in float64, relative and norm-wise, the worst of all results.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np

from benchmarks.common import write_results
from benchmarks.gpu_timing import device_seconds, sets_of_inputs
from minillm.backend.arrays import to_device, to_host
from minillm.kernels import use_kernels
from minillm.profiling.peaks import peaks_of


@dataclass(frozen=True)
class Operation:
    """An operation to measure.

    inputs(rng, *size) gives named arrays. forward(op, a) returns (results, saved) and backward(op, a, saved) returns
    results; `op` is the module of the layer or of the kernel; backward is None where there is none.
    torch_forward(torch, a) returns the tensor (or tensors) that a.dy belongs to; its gradients are taken for the inputs
    in `differentiated`.
    forward_bytes and backward_bytes (*size): what has to be moved to and from memory at least.
    """

    name: str
    size_names: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    inputs: Callable
    forward: Callable
    forward_bytes: Callable
    backward: Callable | None = None
    backward_bytes: Callable | None = None
    torch_forward: Callable | None = None
    differentiated: tuple[str, ...] = ()
    layer: str | None = None  # where the NumPy functions are, "minillm.layers.NAME" by default


def main(operation: Operation) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=f"NumPy, CuPy, our kernel and PyTorch: {operation.name}")
    parser.add_argument("--repeats", type=int, default=15)
    sizes = ", ".join(operation.size_names)
    parser.add_argument("--size", type=int, nargs=len(operation.size_names), help=f"{sizes}; by default several")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/results/{operation.name}.json")
    arguments = parser.parse_args()
    ways, missing = available_ways(operation)
    for reason in missing:
        print(f"not measured: {reason}")
    print(f"{'size':<22} {'way':<12} {'':<9} {'median ms':>10} {'p20 - p80':>17} {'GB/s':>8} {'share':>6} {'error':>9}")
    rows = []
    for size in [tuple(arguments.size)] if arguments.size else operation.sizes:
        rows += measure(operation, size, ways, arguments.repeats)
    if arguments.write:
        write_results(operation.name, {"operation": operation.name, "missing": missing, "rows": rows})


def available_ways(operation: Operation) -> tuple[list[str], list[str]]:
    """The ways that this machine can go, and for each other one why it cannot."""
    ways, missing = ["numpy"], []
    try:
        import cupy

        if cupy.cuda.is_available():
            ways += ["cupy", "kernel"]
        else:
            missing.append("cupy, kernel: CuPy finds no NVIDIA GPU")
    except ImportError:
        missing.append('cupy, kernel: CuPy is not installed (pip install "minillm[cuda13]", and an NVIDIA GPU)')
    if operation.torch_forward is None:
        missing.append("torch: nothing to compare with")
    else:
        try:
            import torch

            ways.append("torch cuda" if torch.cuda.is_available() else "torch cpu")
        except ImportError:
            missing.append("torch: PyTorch is not installed (pip install torch)")
    return ways, missing


def measure(operation: Operation, size: tuple[int, ...], ways: list[str], repeats: int) -> list[dict]:
    """Times and errors of all ways for one size, as rows of the table, which are printed too."""
    given = operation.inputs(np.random.default_rng(0), *size)
    expected = run_once(operation, Way("numpy", operation, given, np.float64))
    prepared = {name: Way(name, operation, given, np.float32) for name in ways}
    found = {name: run_once(operation, way) for name, way in prepared.items()}
    rows = []
    for direction in ("forward", "backward") if operation.backward else ("forward",):
        times = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name, way in prepared.items():
                seconds = way.time(direction)
                if turn:  # the first turn compiles and warms up
                    times[name].append(seconds)
        moved = getattr(operation, f"{direction}_bytes")(*size)
        for name in ways:
            row = {
                "size": dict(zip(operation.size_names, size)),
                "way": name,
                "direction": direction,
                **_spread(times[name]),
                "error": _worst_error(found[name][direction], expected[direction]),
            }
            row["gigabytes_per_second"] = moved / row["median_ms"] / 1e6
            bandwidth = device_bandwidth() if name in ("cupy", "kernel", "torch cuda") else None
            row["share_of_bandwidth"] = row["gigabytes_per_second"] / bandwidth if bandwidth else None
            rows.append(row)
            print(_line(row))
    return rows


@cache
def device_bandwidth() -> float | None:
    """GB/s of the GPU's memory, where it is known."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return None
    peaks = peaks_of(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()) if cupy.cuda.is_available() else None
    return peaks.bandwidth if peaks else None


def run_once(operation: Operation, way: Way) -> dict[str, list[np.ndarray]]:
    """The results of forward and of backward, from inputs that nothing has written to yet."""
    results = {"forward": way.forward()}
    if operation.backward:
        results["backward"] = way.backward()
    return results


class Way:
    """One way to compute an operation, with its own copy of the inputs; on a GPU with several, to be taken in turn."""

    def __init__(self, name: str, operation: Operation, given: dict, dtype):
        self.name, self.operation = name, operation
        self.on_gpu = name in ("cupy", "kernel", "torch cuda")
        if name.startswith("torch"):
            self._torch = importlib.import_module("torch")
        else:
            package = "minillm.kernels" if name == "kernel" else "minillm.layers"
            home = f"{package}.{operation.name}" if name == "kernel" or not operation.layer else operation.layer
            self._op = importlib.import_module(home)
        arrays = [x for value in given.values() for x in (value if isinstance(value, list) else [value])]
        count = sets_of_inputs(sum(array.nbytes for array in arrays)) if self.on_gpu else 1
        self._sets = [self._copied(given, dtype) for _ in range(count)]
        self._kept = [None] * count  # what forward left for backward, of each set

    def _copied(self, given: dict, dtype) -> SimpleNamespace:
        copies = {key: _each(array, lambda a: _cast(a, dtype)) for key, array in given.items()}
        if not self.name.startswith("torch"):
            device = "cpu" if self.name == "numpy" else "cuda"
            return SimpleNamespace(**{key: _each(x, lambda a: to_device(a, device)) for key, x in copies.items()})
        copies = {key: _each(array, self._tensor) for key, array in copies.items()}
        for key in self.operation.differentiated:
            copies[key].requires_grad_()
        return SimpleNamespace(**copies)

    def forward(self) -> list[np.ndarray]:
        """The results, from the first set of inputs."""
        use_kernels(self.name == "kernel")
        return [_host(result) for result in self._forward(0)]

    def backward(self) -> list[np.ndarray]:
        return [_host(gradient) for gradient in self._backward(0)]

    def time(self, direction: str) -> float:
        """Seconds of one call: by the host's clock on the CPU, by the device's on a GPU."""
        use_kernels(self.name == "kernel")
        call = self._forward if direction == "forward" else self._backward
        if self.on_gpu:
            if direction == "backward":
                for number in range(len(self._sets)):
                    if self._kept[number] is None:
                        self._forward(number)
            return device_seconds(lambda number: call(number % len(self._sets)))
        started = time.perf_counter()
        call(0)
        return time.perf_counter() - started

    def _forward(self, number: int):
        arrays = self._sets[number]
        if self.name.startswith("torch"):
            y = self._kept[number] = self.operation.torch_forward(self._torch, arrays)
            return y if isinstance(y, tuple) else (y,)
        results, self._kept[number] = self.operation.forward(self._op, arrays)
        return results

    def _backward(self, number: int):
        arrays, kept = self._sets[number], self._kept[number]
        if not self.name.startswith("torch"):
            return self.operation.backward(self._op, arrays, kept)
        inputs = [getattr(arrays, key) for key in self.operation.differentiated]
        outputs = kept if isinstance(kept, tuple) else (kept,)
        seeds = [getattr(arrays, key) for key in ("dsum", "dy")[-len(outputs) :]] if outputs[0].ndim else [None]
        return self._torch.autograd.grad(outputs, inputs, seeds, retain_graph=True)

    def _tensor(self, array: np.ndarray):
        return self._torch.from_numpy(array).to("cuda" if self.name == "torch cuda" else "cpu")


def _each(value, function):
    return [function(array) for array in value] if isinstance(value, list) else function(value)


def _cast(array: np.ndarray, dtype) -> np.ndarray:
    return array.astype(np.float32).astype(dtype) if array.dtype.kind == "f" else array.copy()


def _host(array) -> np.ndarray:
    """A copy in host memory of an array or a tensor."""
    if hasattr(array, "detach"):
        return array.detach().cpu().numpy().copy()
    return np.array(to_host(array) if hasattr(array, "dtype") and hasattr(array, "shape") else array)


def _worst_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    distances = [np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b) for a, b in zip(found, expected)]
    return float(max(distances))


def _spread(seconds: list[float]) -> dict[str, float]:
    p20, p80 = np.quantile(seconds, [0.2, 0.8])
    return {"median_ms": 1e3 * float(np.median(seconds)), "p20_ms": 1e3 * float(p20), "p80_ms": 1e3 * float(p80)}


def _line(row: dict) -> str:
    size = " x ".join(map(str, row["size"].values()))
    spread = f"{row['p20_ms']:.3f} - {row['p80_ms']:.3f}"
    share = f"{row['share_of_bandwidth']:.0%}" if row["share_of_bandwidth"] else "n/a"
    return (
        f"{size:<22} {row['way']:<12} {row['direction']:<9} {row['median_ms']:>10.3f} {spread:>17} "
        f"{row['gigabytes_per_second']:>8.1f} {share:>6} {row['error']:>9.1e}"
    )
