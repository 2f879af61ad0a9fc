"""What the benchmarks of single kernels share: the ways to compute an operation, timed in turn, with their errors.

Each of benchmarks/layer_norm.py, gelu.py, ... takes one operation's case (minillm/checks/case.py), which has its inputs, its
calls and its sizes, and calls `main`. The ways:

    numpy     minillm/layers on the CPU
    cupy      the same code on CuPy arrays, without our kernels
    kernel    minillm/kernels on CuPy arrays
    torch     PyTorch, where it is installed: on the GPU if it has one, else on the CPU

All ways take turns in every round, so that a machine that slows down slows all of them. On a GPU the time is the device's
(gpu_timing.py), with inputs that are not in its cache any more. The error is that against NumPy in float64, relative and
norm-wise, the worst of all results. With --dtype bfloat16 the inputs are rounded that a model has in bfloat16; of PyTorch's
all are, weights too, so that it has its fastest kernels.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np

from benchmarks.common import write_results
from benchmarks.gpu_timing import device_seconds, sets_of_inputs
from minillm.backend.arrays import to_host
from minillm.checks.agreement import placed, relative_error
from minillm.checks.case import Case, Problem, at, by_name
from minillm.kernels import use_kernels
from minillm.profiling.peaks import peaks_of


@dataclass(frozen=True)
class Benchmark:
    """An operation to measure: its case, and what only a benchmark needs.

    forward_bytes and backward_bytes (*numbers of a size): what has to be moved to and from memory at least.
    torch_forward(torch, a) returns the tensor (or tensors) that the case's outputs are; its gradients are taken for the
    inputs that the case differentiates.
    dimensions, sizes, expand, settings: those of the problems, where they are not the case's own.
    small: the size of --small, by default that of `minillm simulate`.
    torch_draws: PyTorch's results are random ones of its own, which cannot be compared.
    """

    case: Case
    forward_bytes: Callable
    backward_bytes: Callable | None = None
    torch_forward: Callable | None = None
    dimensions: tuple[str, ...] = ()
    sizes: tuple[tuple[int, ...], ...] = ()
    expand: Callable[..., tuple] | None = None
    settings: dict = field(default_factory=dict)
    small: tuple[int, ...] = ()
    torch_draws: bool = False

    @property
    def size_names(self) -> tuple[str, ...]:
        return self.dimensions or self.case.dimensions

    @property
    def default_sizes(self) -> list[tuple[int, ...]]:
        return list(self.sizes) or [problem.size for problem in self.case.benchmark]

    def problem(self, size: tuple[int, ...]) -> Problem:
        """The problem of a size, with the settings that the case's benchmark has."""
        settings = self.settings or dict(next((problem.settings for problem in self.case.benchmark), ()))
        return at(*(self.expand(*size) if self.expand else size), **settings)


def main(benchmark: Benchmark) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=f"NumPy, CuPy, our kernel and PyTorch: {benchmark.case.name}")
    parser.add_argument("--repeats", type=int, default=15)
    sizes = ", ".join(benchmark.size_names)
    parser.add_argument("--size", type=int, nargs=len(benchmark.size_names), help=f"{sizes}; by default several")
    parser.add_argument("--small", action="store_true", help="one small size, to try the command")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--without-numpy", action="store_true", help="NumPy is not timed")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/results/{benchmark.case.name}.json")
    arguments = parser.parse_args()
    if arguments.dtype == "bfloat16" and not benchmark.case.low_precision:
        parser.error(f"--dtype bfloat16: {benchmark.case.name} is computed in float32")
    ways, missing = available_ways(benchmark)
    if arguments.without_numpy:
        ways.remove("numpy")
    for reason in missing:
        print(f"not measured: {reason}")
    print(f"{'size':<22} {'way':<12} {'':<9} {'median ms':>10} {'p20 - p80':>17} {'GB/s':>8} {'share':>6} {'error':>9}")
    rows = []
    sizes = [tuple(arguments.size)] if arguments.size else benchmark.default_sizes
    for size in [benchmark.small or benchmark.case.simulate] if arguments.small else sizes:
        rows += measure(benchmark, size, ways, arguments.repeats, arguments.dtype)
    if arguments.write:
        found = {"operation": benchmark.case.name, "dtype": arguments.dtype, "missing": missing, "rows": rows}
        write_results(benchmark.case.name, found)


def available_ways(benchmark: Benchmark) -> tuple[list[str], list[str]]:
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
    if benchmark.torch_forward is None:
        missing.append("torch: nothing to compare with")
    else:
        try:
            import torch

            ways.append("torch cuda" if torch.cuda.is_available() else "torch cpu")
        except ImportError:
            missing.append("torch: PyTorch is not installed (pip install torch)")
    return ways, missing


def measure(
    benchmark: Benchmark, size: tuple[int, ...], ways: list[str], repeats: int, number: str = "float32"
) -> list[dict]:
    """Times and errors of all ways for one size, as rows of the table, which are printed too."""
    given = benchmark.case.make(benchmark.problem(size))
    expected = run_once(benchmark, Way("numpy", benchmark, given, number, np.float64))
    prepared = {name: Way(name, benchmark, given, number) for name in ways}
    found = {name: run_once(benchmark, way) for name, way in prepared.items()}
    rows = []
    for direction in ("forward", "backward") if benchmark.case.backward else ("forward",):
        times = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name, way in prepared.items():
                seconds = way.time(direction)
                if turn:  # the first turn compiles and warms up
                    times[name].append(seconds)
        moved = getattr(benchmark, f"{direction}_bytes")(*size) * (0.5 if number == "bfloat16" else 1)
        for name in ways:
            row = {
                "size": dict(zip(benchmark.size_names, size)),
                "way": name,
                "direction": direction,
                **_spread(times[name]),
                "error": _error_of(benchmark, name, found[name][direction], expected[direction]),
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


def run_once(benchmark: Benchmark, way: Way) -> dict[str, dict[str, np.ndarray]]:
    """The results of forward and of backward, from inputs that nothing has written to yet."""
    results = {"forward": way.forward()}
    if benchmark.case.backward:
        results["backward"] = way.backward()
    return results


class Way:
    """One way to compute an operation, with its own copy of the inputs; on a GPU with several, to be taken in turn."""

    def __init__(self, name: str, benchmark: Benchmark, given: SimpleNamespace, number: str, dtype=None):
        """number: what the inputs are rounded to. dtype: of the arrays that hold them, if it is another one."""
        self.name, self.benchmark, self.case, self.number = name, benchmark, benchmark.case, number
        self.on_gpu = name in ("cupy", "kernel", "torch cuda")
        if name.startswith("torch"):
            self._torch = importlib.import_module("torch")
        else:
            has_kernel = name == "kernel" and self.case.kernel  # else the layer's function takes the kernels itself
            self._op = importlib.import_module(self.case.kernel[0].module) if has_kernel else self.case.module
        arrays = [x for value in vars(given).values() for x in (value if isinstance(value, list) else [value])]
        count = sets_of_inputs(sum(getattr(array, "nbytes", 0) for array in arrays)) if self.on_gpu else 1
        self._sets = [self._copied(given, dtype) for _ in range(count)]
        self._saved = [None] * count  # what forward left for backward, of each set

    def _copied(self, given: SimpleNamespace, dtype) -> SimpleNamespace:
        is_torch = self.name.startswith("torch")
        place = "cpu" if is_torch or self.name == "numpy" else "cuda"
        arrays = placed(self.case, given, place, dtype, self.number)
        if not is_torch:
            return arrays
        tensors = SimpleNamespace(**{key: _each(value, self._tensor) for key, value in vars(arrays).items()})
        for key in self.case.differentiated:
            getattr(tensors, key).requires_grad_()
        return tensors

    def forward(self) -> dict[str, np.ndarray]:
        """The results by name, from the first set of inputs."""
        use_kernels(self.name == "kernel")
        return _on_host(self.case.outputs, self._forward(0))

    def backward(self) -> dict[str, np.ndarray]:
        """The gradients by name."""
        return _on_host(self.case.differentiated, self._backward(0))

    def time(self, direction: str) -> float:
        """Seconds of one call: by the host's clock on the CPU, by the device's on a GPU."""
        use_kernels(self.name == "kernel")
        call = self._forward if direction == "forward" else self._backward
        if self.on_gpu:
            if direction == "backward":
                for number in range(len(self._sets)):
                    if self._saved[number] is None:
                        self._forward(number)
            return device_seconds(lambda number: call(number % len(self._sets)))
        started = time.perf_counter()
        call(0)
        return time.perf_counter() - started

    def _forward(self, number: int):
        arrays = self._sets[number]
        if self.name.startswith("torch"):
            outputs = self._saved[number] = self.benchmark.torch_forward(self._torch, arrays)
        else:
            outputs, self._saved[number] = self.case.forward(self._op, arrays)
        return outputs

    def _backward(self, number: int):
        arrays, saved = self._sets[number], self._saved[number]
        if not self.name.startswith("torch"):
            return self.case.backward(self._op, arrays, saved)
        inputs = [getattr(arrays, key) for key in self.case.differentiated]
        outputs = saved if isinstance(saved, tuple) else (saved,)
        seeds = [getattr(arrays, f"d{name}") if y.ndim else None for name, y in zip(self.case.outputs, outputs)]
        return self._torch.autograd.grad(outputs, inputs, seeds, retain_graph=True)

    def _tensor(self, value):
        if not isinstance(value, np.ndarray):
            return value
        tensor = self._torch.from_numpy(value.astype(np.float32) if value.dtype.kind not in "iub" else value)
        if self.number == "bfloat16" and tensor.is_floating_point():
            tensor = tensor.to(self._torch.bfloat16)
        return tensor.to("cuda" if self.name == "torch cuda" else "cpu")


def _each(value, function):
    return [function(array) for array in value] if isinstance(value, list) else function(value)


def _on_host(names: tuple[str, ...], values) -> dict[str, np.ndarray]:
    """Copies in host memory of arrays or tensors, by name. PyTorch may give fewer of them than there are names."""
    values = values if isinstance(values, tuple) else (values,)
    return {name: _host(value) for name, value in by_name(names[: len(values)], values).items()}


def _host(array) -> np.ndarray | None:
    """A copy in host memory of an array, a tensor or a number."""
    if array is None:
        return None
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy().copy()
    return np.array(to_host(array) if hasattr(array, "dtype") and hasattr(array, "shape") else array)


def _error_of(benchmark: Benchmark, way: str, found: dict, expected: dict) -> float | None:
    """The worst relative error of the results of a way; None where they are random ones of its own."""
    if benchmark.torch_draws and way.startswith("torch"):
        return None
    return max(relative_error(result, expected[name]) for name, result in found.items())


def _spread(seconds: list[float]) -> dict[str, float]:
    p20, p80 = np.quantile(seconds, [0.2, 0.8])
    return {"median_ms": 1e3 * float(np.median(seconds)), "p20_ms": 1e3 * float(p20), "p80_ms": 1e3 * float(p80)}


def _line(row: dict) -> str:
    size = " x ".join(map(str, row["size"].values()))
    spread = f"{row['p20_ms']:.3f} - {row['p80_ms']:.3f}"
    share = f"{row['share_of_bandwidth']:.0%}" if row["share_of_bandwidth"] else "n/a"
    error = "n/a" if row["error"] is None else f"{row['error']:.1e}"
    return (
        f"{size:<22} {row['way']:<12} {row['direction']:<9} {row['median_ms']:>10.3f} {spread:>17} "
        f"{row['gigabytes_per_second']:>8.1f} {share:>6} {error:>9}"
    )
