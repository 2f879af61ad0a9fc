"""What the tests of kernels share: where they run, how they are compared with NumPy, how faults are
planted in them.
"""

import os
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from minillm.backend.precision import bfloat16
from minillm.checks.agreement import agreement, kernel_results, placed, reference_results, relative_error
from minillm.checks.case import BACKWARD, Kernel
from minillm.kernels.simulator import CompileError, SimulatorError, compiler, compiler_available, configured

__all__ = ["relative_error"]


def needs_compiler():
    """Skip where there is no C++ compiler; in continuous integration (CI=true) that is a failure."""
    if not compiler_available():
        reason = "the simulator needs a C++ compiler (apt install g++)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@cache
def why_no_gpu() -> str:
    """Why the tests marked gpu cannot run in this process; "" if they can."""
    elsewhere = "`pytest -m gpu --standin` runs this test without a GPU"
    try:
        import cupy
    except ImportError:
        return f"CuPy is not installed (extra nvrtc); with it {elsewhere}"
    return "" if cupy.cuda.is_available() else f"no NVIDIA GPU: {elsewhere}"


# ------------------------------------------------------------------------------------------- agreement with NumPy


def assert_numpy_agrees_in_float32(case):
    """The layer's own functions in float32, on the same inputs as in float64."""
    for problem in case.kernels or case.gradcheck:
        found = reference_results(case, problem, dtype="float32")
        numpy = Kernel("NumPy in float32", case.home, "")
        compared = agreement(found, reference(case, problem), numpy)
        assert compared.agrees, (str(problem), compared.errors)


def assert_numpy_agrees_in_bfloat16(case, op=None):
    """The layer's own functions on bfloat16 arrays: see assert_kernel_agrees_in_bfloat16."""
    for problem in case.kernels or case.gradcheck:
        assert_rounds_to_bfloat16(case, reference_results(case, problem, "bfloat16", dtype=None), problem, op)


def assert_kernel_agrees(case, problem, device):
    """In float32, to 1e-5 forward and 1e-4 backward; and again, on the simulator in another order,
    the same bits.
    """
    (kernel,) = case.kernel
    found = kernel_results(case, kernel, problem, device)
    compared = agreement(found, reference(case, problem), kernel)
    assert compared.agrees, compared.errors
    again = (
        ascending_bits(case, problem) if device == "cudasim" else bits(kernel_results(case, kernel, problem, device))
    )
    assert bits(found) == again, "the same input gave other bits"


def assert_kernel_agrees_in_bfloat16(case, problem, device, op=None):
    """What is handed on is the exact result, rounded; a gradient of a weight is float32 and has its
    precision.

    op: what defines the exact result, if it is not the module of the case.
    """
    (kernel,) = case.kernel
    assert_rounds_to_bfloat16(case, kernel_results(case, kernel, problem, device, "bfloat16"), problem, op)


def assert_rounds_to_bfloat16(case, found, problem, op=None):
    expected = reference_results(case, problem, "bfloat16", op=op)
    handed_on = {*case.outputs, *(f"d{name}" for name in case.low_precision)}
    for part, references in zip(found, expected):
        for name, result in part.items():
            if result is None:
                assert references[name] is None, name
                continue
            error = relative_error(result, references[name])
            assert result.dtype.name == ("bfloat16" if name in handed_on else "float32"), name
            if name in handed_on:
                rounded = references[name].astype(bfloat16())
                assert error <= 2 * relative_error(rounded, references[name]) + 1e-7, (str(problem), name)
            else:
                assert error <= BACKWARD, (str(problem), name)


def assert_check_mode_reports_nothing(case, problem):
    """No race, no access out of bounds, no barrier that some threads miss; and the results agree in
    this mode as well.
    """
    (kernel,) = case.kernel
    with configured(mode="check", order="shuffled", seed=5):
        found = kernel_results(case, kernel, problem)
        if case.low_precision:
            kernel_results(case, kernel, problem, number="bfloat16")
    assert agreement(found, reference(case, problem), kernel).agrees


@cache
def reference(case, problem):
    """NumPy in float64."""
    return reference_results(case, problem)


@cache
def ascending_bits(case, problem):
    """The bits of all results with threads in ascending order."""
    with configured(order="ascending"):
        return bits(kernel_results(case, *case.kernel, problem))


def bits(results):
    """Name -> bytes."""
    return {name: None if x is None else x.tobytes() for part in results for name, x in part.items()}


def on_device(case, problem, device):
    """(the launcher, the problem's inputs in float32 on a device)"""
    (kernel,) = case.kernel
    return import_module(kernel.module), placed(case, case.make(problem), device)


# --------------------------------------------------------------------------------------------------- planted faults


def assert_kernel_fault_is_noticed(case, fault, monkeypatch):
    """fault: (a text of the kernel's source, what is put in its place, what notices it: "check" or
    "numbers").
    """
    before, after, by = fault
    (kernel,) = case.kernel
    launcher = import_module(kernel.module)
    text = with_headers(launcher.CUDA)
    assert before in text, "the fault is no longer where the table says"
    faulty = launcher.CUDA.with_text(text.replace(before, after))
    # only what the problems in float32 launch: half of the time to compile
    faulty.instances = {name: limit for name, limit in faulty.instances.items() if "__nv_bfloat16" not in name}
    monkeypatch.setattr(launcher, "CUDA", faulty)
    assert noticed_by(lambda: what_notices(case, kernel), by) == by


def noticed_by(what_notices, by) -> str:
    """what_notices(): "check", "numbers" or "nothing", for a kernel with a fault; by: the one that it
    should be.

    Compiled without optimisation first, attention in 1.6 seconds instead of 4. Check mode then sees
    less, no struct that is copied whole for one: a fault that goes unnoticed is compiled again.
    """
    flags = compiler.OBSERVED_FLAGS
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(compiler, "OBSERVED_FLAGS", tuple("-O0" if flag == "-O1" else flag for flag in flags))
        if what_notices() == by:
            return by
    return what_notices()


def what_notices(case, kernel):
    """Run the problems in check mode until one is noticed: "check", "numbers" or "nothing"."""
    for problem in case.kernels:
        try:
            with configured(mode="check"):
                found = kernel_results(case, kernel, problem)
        except CompileError:
            raise
        except SimulatorError:
            return "check"
        if not agreement(found, reference(case, problem), kernel).agrees:
            return "numbers"
    return "nothing"


def with_headers(file):
    """The text of a CudaFile with its own headers in place of the #include lines, each once."""
    seen = set()
    folders = [option.removeprefix("-I") for option in file.options if option.startswith("-I")]

    def read(match):
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        path = next((path for folder in folders if os.path.isfile(path := os.path.join(folder, name))), None)
        if path is None:  # the simulator's own
            return match[0]
        with open(path, encoding="utf-8") as header:
            return expand(header.read().replace("#pragma once", ""))

    def expand(text):
        return re.sub(r'^#include "(.*)"$', read, text, flags=re.MULTILINE)

    return expand(file.text)


def assert_faults_are_documented(faults):
    """docs/planted-faults.md has a row for each of the faults, with what notices it."""
    table = (Path(__file__).parent.parent / "docs" / "planted-faults.md").read_text(encoding="utf-8")
    words = {"check": "check mode", "numbers": "the comparison with NumPy"}
    missing = [row for name, fault in faults.items() if (row := f"| {name} | {words[fault[3]]} |") not in table]
    assert not missing, "docs/planted-faults.md lacks:\n" + "\n".join(missing)
