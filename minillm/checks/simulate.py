"""What `minillm simulate` does: run a kernel of ours, or one of the reader's own, in the simulator.

A kernel of your own is given its arguments as text:

    float32:2        a scalar                      float32[1000]     an array of standard normal numbers
    int32:1000       a scalar                      int32[8,4]=7      an array filled with a number
    1000             a scalar of the parameter's own type

float32[1000]=fresh is an array in which nothing was written yet, as cudaMalloc gives it.

float, double, int, half, bfloat16, ... are types, too, by C's names. bfloat16 is given as its bits
(uint16).
"""

from __future__ import annotations

import difflib
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from minillm.backend.arrays import SimulatedArray
from minillm.checks.agreement import compare_kernel
from minillm.checks.case import Case, Kernel
from minillm.checks.cases import KERNELS
from minillm.checks.expectations import compare, expected_value, parse_expectation, tolerance_of
from minillm.checks.simulation import Simulation
from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.kernels.simulator import CompileError, Profile, RawModule, SimulatorError, configured, unwritten
from minillm.kernels.simulator.breakpoints import Breakpoint
from minillm.kernels.simulator.complaints import kernel_name_error
from minillm.kernels.simulator.host_code import without_host_code
from minillm.kernels.simulator.signature import Parameter
from minillm.kernels.simulator.source import kernels, waits_for_grid

ARGUMENT = re.compile(r"(?P<dtype>[a-z]+[a-z_]*\d*)(?:\[(?P<shape>\d+(?:,\d+)*)\])?(?:[:=](?P<value>[^\[\]]+))?$")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf|nan)$")
C_TYPES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "int": "int32",
    "unsigned": "uint32",
    "char": "int8",
}
C_TYPES |= {"short": "int16", "long": "int64", "uint": "uint32"}
PRINTED_WHOLE = 8  # arrays of at most so many numbers
SHARED_BY_DEFAULT = 48 * 1024  # bytes that every GPU grants a block


@dataclass(frozen=True)
class FileRun:
    """A launch of a kernel from a file.

    shared: bytes of dynamic shared memory. save: where its arrays are put. expect: what they should
    be then, such as "y = a * x + y" (expectations.py).
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: list[str]
    shared: int = 0
    save: Path | None = None
    expect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """How a kernel is run.

    mode: "run", "check" or "profile". order, seed: in which order threads take turns. watch: the
    number of a block whose accesses the profile keeps. progress, breakpoint: as in the simulator's
    settings.
    """

    mode: str = "run"
    order: str = "ascending"
    seed: int = 0
    watch: int | None = None
    progress: Callable[[str], None] | None = None
    breakpoint: Breakpoint | None = None


def simulate_case(name: str, size: tuple[int, ...], way: Way) -> Simulation:
    """Run a kernel of ours on the inputs of its case.

    size: one number for each of the case's dimensions, or () for the default.
    Raises UserError for an unknown name or a wrong size.
    """
    case, kernel = _kernel(name)
    if size and len(size) != len(case.dimensions):
        raise UserError(f"{name} takes {len(case.dimensions)} sizes ({', '.join(case.dimensions)}), not {len(size)}")
    if any(number < 1 for number in size):
        raise UserError(f"a size of {min(size)}: sizes are whole numbers from 1 on")
    size = size or case.simulate
    if way.breakpoint and not way.breakpoint.file:
        way.breakpoint.file = Path(import_module(kernel.module).__file__).with_suffix(".cu").name

    def run() -> tuple[list[str], bool]:
        found = compare_kernel(case, kernel, case.sized(size))
        shape = ", ".join(f"{key} {number}" for key, number in zip(case.dimensions, size))
        rows = [f"{name}: {shape}"]
        for key, error in found.errors.items():
            rows.append(f"  {key:<12} relative error {error:.1e}{'' if error <= found.allowed[key] else '  too large'}")
        return rows, found.agrees

    return _simulation(run, way)


def simulate_file(path: Path, kernel: str, launch: FileRun, way: Way) -> Simulation:
    """Run a kernel of a .cu file. Raises UserError for what cannot be run."""
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    simulation = _simulate(partial(RawModule, path=path), str(path), kernel, launch, way)
    simulation.findings = [text.replace(f"{path.resolve()}:", f"{path}:") for text in simulation.findings]
    return simulation


def simulate_source(source: str, name: str, kernel: str, launch: FileRun, way: Way, options=()) -> Simulation:
    """Run a kernel of a source.

    name: what messages call the source, such as my.cu. options: as RawModule takes them.
    Raises UserError for what cannot be run.
    """
    return _simulate(partial(RawModule, code=f'#line 1 "{name}"\n{source}', options=options), name, kernel, launch, way)


def _simulate(module_of, name: str, kernel: str, launch: FileRun, way: Way) -> Simulation:
    """module_of: RawModule for a source, without the names of its kernels. name: of the source."""
    source = module_of().named_code()[1]
    chosen = kernel_of(name, kernel, source)
    try:
        module = module_of(name_expressions=(chosen,), enable_cooperative_groups=waits_for_grid(source))
        function = module.get_function(chosen)
        function.max_dynamic_shared_size_bytes = max(SHARED_BY_DEFAULT, launch.shared)
        with configured(progress=way.progress):
            parameters = module.library(way.mode).parameters(module.entries.index(chosen))
    except CompileError as error:
        raise UserError(str(error)) from None
    rng = np.random.default_rng(way.seed)
    kinds = parameters if len(parameters) == len(launch.arguments) else [None] * len(launch.arguments)
    values = [parse_argument(text, rng, kind) for text, kind in zip(launch.arguments, kinds)]
    expectations = [parse_expectation(text) for text in launch.expect]

    def run() -> tuple[list[str], bool]:
        names = function.names or [f"argument{position}" for position in range(len(values))]
        before = {name: numbers_of(value, each) for name, value, each in zip(names, values, parameters)}
        expected = [expected_value(each, before) for each in expectations] if len(values) == len(parameters) else []
        try:
            function(launch.grid, launch.block, tuple(values), shared_mem=launch.shared)
        except (TypeError, ValueError) as error:
            usage = f"; such as {_usage(parameters)}" if len(values) != len(parameters) else ""
            raise UserError(f"{error}{usage}") from None
        rows = [f"{function.name}: grid {launch.grid}, block {launch.block}"]
        rows += _notes(source, launch.shared)
        for position, (value, parameter) in enumerate(zip(values, parameters)):
            if isinstance(value, np.ndarray):
                rows.append(f"  argument {position} {value.dtype}{list(value.shape)}: {_summary(value, parameter)}")
        if launch.save:
            _save(launch.save, function.names, values)
            rows.append(f"  wrote {launch.save}")
        well = True
        for expectation, value in zip(expectations, expected):
            position = names.index(expectation.name)
            found, parameter = values[position], parameters[position]
            text, agrees = compare(
                expectation, numbers_of(found, parameter), value, tolerance_of(found, parameter.kind == b"h")
            )
            rows.append(text)
            well = well and agrees
        return rows, well

    return _simulation(run, way)


def parse_argument(text: str, rng, parameter: Parameter | None = None) -> np.ndarray | np.generic:
    """An argument of a kernel from its text; a bare number takes the type of its parameter.

    >>> parse_argument("float32:2", None)
    np.float32(2.0)
    >>> parse_argument("int32[2,2]=7", None).tolist()
    [[7, 7], [7, 7]]
    """
    if NUMBER.match(text) and parameter is not None and not parameter.pointers and parameter.dtype is not None:
        text = f"{'bfloat16' if parameter.kind == b'h' else parameter.dtype}:{text}"
    found = ARGUMENT.match(text)
    try:
        name = found["dtype"] if found else ""
        dtype = np.dtype(np.float32 if name == "bfloat16" else C_TYPES.get(name, name)) if name else None
        if dtype is None or dtype.kind not in "iufb" or not (found["shape"] or found["value"]):
            raise TypeError
        if not found["shape"]:
            scalar = dtype.type(found["value"])
            return _bfloat16_bits(np.array([scalar]))[0] if name == "bfloat16" else scalar
        shape = tuple(map(int, found["shape"].split(",")))
        if found["value"] == "fresh":
            return unwritten(shape, dtype)
        if found["value"]:
            array = np.full(shape, dtype.type(found["value"]))
        elif dtype.kind == "f":
            array = rng.normal(size=shape).astype(dtype)
        else:
            array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f'argument "{text}": write float32:2, int32:1000, float32[1000] or float32[8,4]=0') from None
    return (_bfloat16_bits(array) if name == "bfloat16" else array).view(SimulatedArray)


def parse_dimensions(option: str, texts: list[str] | None, default: int) -> tuple[int, ...]:
    """The numbers of --grid or --block, given as 4 or 4,4, or one after the other.

    >>> parse_dimensions("--grid", ["4,2"], 1)
    (4, 2)
    """
    parts = [part for text in texts or [str(default)] for part in re.split(r"[,x]", text.strip("() "))]
    if not 1 <= len(parts) <= 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option} {' '.join(texts)}: write one to three whole numbers from 1 on, such as 4 or 4,4")
    return tuple(map(int, parts))


def parse_breakpoint(
    place: str, thread: list[str] | None, block: list[str] | None, hit: int, file: str = ""
) -> Breakpoint:
    """--break LINE or FILE:LINE, with --thread, --block-index and --hit. file: where none is named.

    >>> parse_breakpoint("reduce.cuh:12", ["5,1"], None, 1).thread
    (5, 1, 0)
    """
    name, _, line = place.rpartition(":")
    if not line.isdecimal():
        raise UserError(f"--break {place}: write the number of a line, such as 12, or reduce.cuh:12")
    indices = (_parse_index("--thread", thread), _parse_index("--block-index", block))
    return Breakpoint(int(line), name or file, *indices, hit)


def _parse_index(option: str, texts: list[str] | None) -> tuple[int, int, int]:
    parts = [part.strip() for text in texts or ["0"] for part in text.strip("() ").split(",")]
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise UserError(f"{option} {' '.join(texts)}: write one to three whole numbers from 0 on, such as 5 or 5,1")
    return (*map(int, parts), 0, 0)[:3]


def parse_sizes(name: str, texts: list[str]) -> tuple[int, ...]:
    """The size of a kernel's problem, by name (rows=7,width=33) or by order.

    Numbers that are not named stay as they are by default. Raises UserError.
    """
    case, _ = _kernel(name)
    parts = [part.strip() for text in texts for part in text.split(",")]
    values = [part.rpartition("=")[2] for part in parts]
    if not all(re.fullmatch(r"-?\d+", value) for value in values):
        example = ",".join(f"{key}={number}" for key, number in zip(case.dimensions, case.simulate))
        raise UserError(f"--size {' '.join(texts)}: write {example}")
    if not any("=" in part for part in parts):
        return tuple(map(int, values))
    sizes = dict(zip(case.dimensions, case.simulate))
    for part in parts:
        key, _, value = part.rpartition("=")
        if key not in sizes:
            raise UserError(f"--size {part}: {name} has the sizes {', '.join(sizes)}")
        sizes[key] = int(value)
    return tuple(sizes.values())


def _kernel(name: str) -> tuple[Case, Kernel]:
    if name not in KERNELS:
        near = difflib.get_close_matches(name, KERNELS, n=1)
        meant = f'did you mean "{near[0]}"? ' if near else ""
        raise UserError(f'no kernel "{name}": {meant}there are {", ".join(sorted(KERNELS))}, or name a .cu file')
    return KERNELS[name]


def kernel_of(path: str, name: str, source: str) -> str:
    """The name expression of the kernel to run: the given one, or the file's only one."""
    found = kernels(source)
    if name:
        wrong = kernel_name_error(name, path, found)
        if wrong:
            raise UserError(wrong)
        return name
    if len(found) == 1 and found[0].template is None:
        return found[0].name if not found[0].extern_c else found[0].name.split("::")[-1]
    if not found and "__global__" not in source:
        raise UserError(f"{path} has no kernel: none of its functions is declared __global__")
    example = next((each.example for each in found), "saxpy<float>")
    there = f" (it has {'; '.join(map(str, found))})" if len(found) > 1 else ""
    raise UserError(f'{path}: name the kernel to run, such as --kernel "{example}"{there}')


def _notes(source: str, shared: int) -> list[str]:
    left_out = without_host_code(source)[1]
    rows = [f"  host code is left out: {', '.join(left_out)}"] if left_out else []
    if shared > SHARED_BY_DEFAULT:
        rows.append(f"  {shared} bytes of dynamic shared memory: a GPU gives more than {SHARED_BY_DEFAULT} only after")
        rows.append("  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)")
    return rows


def _usage(parameters: list[Parameter]) -> str:
    """The options for arguments of the right types."""
    texts = []
    for parameter in parameters:
        dtype = "bfloat16" if parameter.kind == b"h" else str(parameter.dtype or "float32")
        texts.append(f'--arg "{dtype}[1000]"' if parameter.pointers else f"--arg {dtype}:1")
    return " ".join(texts) or "no --arg"


def _save(path: Path, names: list[str], values) -> None:
    arrays = {
        names[position] if position < len(names) else f"argument{position}": np.asarray(value)
        for position, value in enumerate(values)
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    try:
        write_atomically(path, file.getvalue())
    except OSError as error:
        raise UserError(f"--save {path} cannot be written: {error.strerror}") from None


def _bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _simulation(run: Callable[[], tuple[list[str], bool]], way: Way) -> Simulation:
    """run: gives the rows of the report, and whether the results agree."""
    started = time.perf_counter()
    settings = dict(mode=way.mode, order=way.order, seed=way.seed, progress=way.progress, breakpoint=way.breakpoint)
    try:
        with configured(profile=Profile(way.watch), **settings) as profile:
            rows, agrees = run()
    except SimulatorError as error:
        return Simulation(way.mode, findings=error.findings or [str(error)], faults=error.faults, stop=way.breakpoint)
    return Simulation(way.mode, rows, agrees, time.perf_counter() - started, profile=profile, stop=way.breakpoint)


def _summary(array, parameter: Parameter) -> str:
    plain = numbers_of(array, parameter)
    if not plain.size:
        return "empty"
    plain = plain.astype(np.float64)
    text = f"from {plain.min():.6g} to {plain.max():.6g}, mean {plain.mean():.6g}"
    text += f", {np.isnan(plain).sum()} NaN" if np.isnan(plain).any() else ""
    return text + (f": {' '.join(f'{number:.6g}' for number in plain.ravel())}" if plain.size <= PRINTED_WHOLE else "")


def numbers_of(value, parameter: Parameter) -> np.ndarray:
    """A copy of an argument's numbers; bfloat16, which is given as its bits, as float32."""
    plain = np.array(value)
    if parameter.kind == b"h" and plain.dtype == np.uint16:
        plain = (plain.astype(np.uint32) << 16).view(np.float32)
    return plain
