"""What the benchmarks of single kernels share: the ways to compute an operation, timed in turn, with their errors.

Each of benchmarks/layer_norm.py, gelu.py, ... describes one operation as an `Operation` and calls `main`. The ways:

    numpy     minillm/layers on the CPU
    cupy      the same code on CuPy arrays, without our kernels
    kernel    minillm/kernels on CuPy arrays
    torch     PyTorch, where it is installed: on the GPU if it has one, else on the CPU

All ways take turns in every round, so that a machine that slows down slows all of them. The error is that against NumPy
in float64, relative and norm-wise, the worst of all results.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import quantiles
from types import SimpleNamespace

import numpy as np

from benchmarks.common import write_results
from minillm.backend import to_device, to_host
from minillm.kernels import use_kernels
from minillm.peaks import peaks_of


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
    """One way to compute an operation, with its own copy of the inputs."""

    def __init__(self, name: str, operation: Operation, given: dict, dtype):
        self.name, self.operation = name, operation
        copies = {key: _each(array, lambda a: _cast(a, dtype)) for key, array in given.items()}
        if name.startswith("torch"):
            self._torch = importlib.import_module("torch")
            copies = {key: _each(array, self._tensor) for key, array in copies.items()}
            for key in operation.differentiated:
                copies[key].requires_grad_()
        else:
            device = "cpu" if name == "numpy" else "cuda"
            copies = {key: _each(array, lambda a: to_device(a, device)) for key, array in copies.items()}
            package = "minillm.kernels" if name == "kernel" else "minillm.layers"
            home = f"{package}.{operation.name}" if name == "kernel" or not operation.layer else operation.layer
            self._op = importlib.import_module(home)
        self.arrays = SimpleNamespace(**copies)

    def forward(self) -> list[np.ndarray]:
        use_kernels(self.name == "kernel")
        if self.name.startswith("torch"):
            self._y = self.operation.torch_forward(self._torch, self.arrays)
            return [_host(y) for y in (self._y if isinstance(self._y, tuple) else (self._y,))]
        results, self._saved = self.operation.forward(self._op, self.arrays)
        return [_host(array) for array in results]

    def backward(self) -> list[np.ndarray]:
        if self.name.startswith("torch"):
            return [_host(gradient) for gradient in self._torch_gradients()]
        return [_host(array) for array in self.operation.backward(self._op, self.arrays, self._saved)]

    def time(self, direction: str) -> float:
        """Seconds of one call, the device waited for before and after."""
        use_kernels(self.name == "kernel")
        call = self._call(direction)
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def _call(self, direction: str):
        if self.name.startswith("torch"):
            if direction == "backward":
                return self._torch_gradients
            return lambda: self.operation.torch_forward(self._torch, self.arrays)
        if direction == "backward":
            return lambda: self.operation.backward(self._op, self.arrays, self._saved)
        return lambda: self.operation.forward(self._op, self.arrays)

    def _torch_gradients(self):
        inputs = [getattr(self.arrays, key) for key in self.operation.differentiated]
        outputs = self._y if isinstance(self._y, tuple) else (self._y,)
        seeds = [getattr(self.arrays, key) for key in ("dsum", "dy")[-len(outputs) :]] if outputs[0].ndim else [None]
        return self._torch.autograd.grad(outputs, inputs, seeds, retain_graph=True)

    def _tensor(self, array: np.ndarray):
        return self._torch.from_numpy(array).to("cuda" if self.name == "torch cuda" else "cpu")

    def _wait(self) -> None:
        if self.name in ("cupy", "kernel"):
            importlib.import_module("cupy").cuda.Device().synchronize()
        elif self.name == "torch cuda":
            self._torch.cuda.synchronize()


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
    p20, _, _, p80 = quantiles(seconds, n=5)
    return {"median_ms": 1e3 * float(np.median(seconds)), "p20_ms": 1e3 * p20, "p80_ms": 1e3 * p80}


def _line(row: dict) -> str:
    size = " x ".join(map(str, row["size"].values()))
    spread = f"{row['p20_ms']:.3f} - {row['p80_ms']:.3f}"
    share = f"{row['share_of_bandwidth']:.0%}" if row["share_of_bandwidth"] else "n/a"
    return (
        f"{size:<22} {row['way']:<12} {row['direction']:<9} {row['median_ms']:>10.3f} {spread:>17} "
        f"{row['gigabytes_per_second']:>8.1f} {share:>6} {row['error']:>9.1e}"
    )
