"""What `minillm simulate` does: run a kernel of ours, or one of the reader's own, in the simulator.

A kernel of one's own is given its arguments as text:

    float32:2        a scalar                      float32[1000]     an array of standard normal numbers
    int32:1000       a scalar                      int32[8,4]=7      an array filled with a number
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np

from minillm.backend import SimulatedArray
from minillm.errors import UserError
from minillm.kernel_samples import SAMPLES, run_sample
from minillm.kernels.simulator import CompileError, RawModule, SimulatorError, configured

ARGUMENT = re.compile(r"(?P<dtype>[a-z]+\d*)(?:\[(?P<shape>\d+(?:,\d+)*)\])?(?:[:=](?P<value>[^\[\]]+))?$")
MODES = ("run", "check", "profile")


def simulate_sample(name: str, size: tuple[int, ...], mode: str, order: str, seed: int) -> tuple[str, bool]:
    """Run a kernel of ours: a report, and whether all is well. Raises UserError for an unknown name or a wrong size."""
    if name not in SAMPLES:
        raise UserError(f'no kernel "{name}": there are {", ".join(sorted(SAMPLES))}, or name a .cu file')
    sample = SAMPLES[name]
    if size and len(size) != len(sample.size_names):
        raise UserError(
            f"{name} takes {len(sample.size_names)} sizes ({', '.join(sample.size_names)}), not {len(size)}"
        )
    if any(number < 1 for number in size):
        raise UserError(f"a size of {min(size)}: sizes are whole numbers from 1 on")
    size = size or sample.size

    def run() -> tuple[str, bool]:
        outcome = run_sample(sample, size)
        shape = ", ".join(f"{key} {number}" for key, number in zip(sample.size_names, size))
        rows = [f"{name}: {shape}"]
        for key, error in outcome.errors.items():
            rows.append(f"  {key:<12} relative error {error:.1e}{'' if error <= outcome.tolerance else '  too large'}")
        return "\n".join(rows), outcome.agrees

    return _report(run, mode, order, seed)


def simulate_file(path: Path, kernel: str, grid, block, arguments, shared: int, mode: str, order: str, seed: int):
    """Run a kernel of a .cu file: a report, and whether all is well. Raises UserError for what cannot be run."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    module = RawModule(path=path, name_expressions=(kernel,) if kernel else ())
    if not kernel and len(module.entries) != 1:
        raise UserError(f'{path}: name the kernel to run, such as --kernel "saxpy<float>"')
    try:
        function = module.get_function(kernel or module.entries[0])
        module.library(mode)
    except ValueError as error:  # no such kernel
        raise UserError(f"{path}: {error}") from None
    except CompileError as error:
        first = next((line for line in str(error).splitlines() if "error:" in line), str(error).splitlines()[-1])
        raise UserError(f"g++ does not accept the kernel: {first}") from None
    rng = np.random.default_rng(seed)
    values = [parse_argument(text, rng) for text in arguments]

    def run() -> tuple[str, bool]:
        try:
            function(grid, block, tuple(values), shared_mem=shared)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        rows = [f"{function.name}: grid {grid}, block {block}"]
        for position, value in enumerate(values):
            if isinstance(value, np.ndarray):
                rows.append(f"  argument {position} {value.dtype}{list(value.shape)}: {_summary(value)}")
        return "\n".join(rows), True

    return _report(run, mode, order, seed)


def parse_argument(text: str, rng) -> np.ndarray | np.generic:
    """An argument of a kernel from its text.

    >>> parse_argument("float32:2", None)
    np.float32(2.0)
    >>> parse_argument("int32[2,2]=7", None).tolist()
    [[7, 7], [7, 7]]
    """
    found = ARGUMENT.match(text)
    try:
        dtype = np.dtype(found["dtype"]) if found else None
        if dtype is None or dtype.kind not in "iufb" or not (found["shape"] or found["value"]):
            raise TypeError
        if not found["shape"]:
            return dtype.type(found["value"])
        shape = tuple(map(int, found["shape"].split(",")))
        if found["value"]:
            array = np.full(shape, dtype.type(found["value"]))
        elif dtype.kind == "f":
            array = rng.normal(size=shape).astype(dtype)
        else:
            array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f'argument "{text}": write float32:2, int32:1000, float32[1000] or float32[8,4]=0') from None
    return array.view(SimulatedArray)


def _report(run, mode, order, seed) -> tuple[str, bool]:
    started = time.perf_counter()
    try:
        with configured(mode=mode, order=order, seed=seed) as profile:
            text, well = run()
    except SimulatorError as error:
        return "\n".join(["faults found:", *(error.findings or [str(error)])]), False
    parts = [f"{text}\n  {time.perf_counter() - started:.2f} s, compiling included"]
    if mode == "check":
        parts.append("  check mode: nothing to report")
    if mode == "profile":
        parts.append(profile.annotated())
    return "\n".join(parts), well


def _summary(array) -> str:
    plain = np.asarray(array, np.float64)
    text = f"from {plain.min():.6g} to {plain.max():.6g}, mean {plain.mean():.6g}"
    return text + (f", {np.isnan(plain).sum()} NaN" if np.isnan(plain).any() else "")
