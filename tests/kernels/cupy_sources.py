"""The kernels that CuPy writes for many functions and all types, compiled by g++ and not run: by test_cupy_functions.py, in a
process of its own.

CuPy's compiler is stopped before NVRTC, and its sources are kept. g++ gets many of them in one file, each in a namespace of
its own. Prints as JSON how many there were, and {comparison: what g++ says}.
"""

import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import cupy as cp
import ml_dtypes
import numpy as np
from cupy.cuda import compiler

from minillm.kernels.simulator.compiler import COMMON, HERE, KERNEL_FLAGS
from minillm.kernels.standin.sources import HEADERS, OF_EVERY_KERNEL

warnings.simplefilter("ignore")
DTYPES = ("?", "b", "h", "i", "q", "B", "H", "I", "Q", "e", ml_dtypes.bfloat16, "f", "d", "F", "D")
UNARY = """absolute negative positive sign sqrt square exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan
sinh cosh tanh arcsinh arccosh arctanh floor ceil rint trunc isnan isinf isfinite signbit reciprocal conjugate angle real
imag invert logical_not deg2rad cbrt fabs modf frexp i0 sinc nan_to_num sort argsort nonzero unique tril diff gradient
bincount isclose sum prod mean var max min argmax any all nansum nanmean nanvar nanmax nanargmax cumsum cumprod median ptp
count_nonzero bitwise_count""".split()
BINARY = """add subtract multiply divide floor_divide power remainder fmod maximum minimum fmax fmin hypot arctan2 logaddexp
logaddexp2 copysign nextafter equal less greater_equal logical_and logical_xor bitwise_and bitwise_or left_shift right_shift
gcd lcm divmod heaviside ldexp searchsorted digitize inner outer cross vdot isin interp""".split()
REFUSED = {  # by NVRTC, too: CuPy does not have them
    *(f"{name} complex{bits}" for bits in (64, 128) for name in ("i0", "hypot", "arctan2", "copysign", "nextafter")),
    *(f"{name} bfloat16" for name in ("nanmean", "cumsum", "cumprod")),
}
AT_ONCE = 100


class Collected(Exception):
    """A source is kept; nothing is compiled."""


def collect() -> dict[str, str]:
    """Source -> the function and the type that it was written for."""
    found, case = {}, ""

    def keep(source, *arguments, **named):
        found.setdefault(source, case)
        raise Collected

    compiler._compile_with_cache_cuda = keep
    for dtype in DTYPES:
        x = cp.asarray(np.ones((4, 6), dtype))
        for name in (*UNARY, *BINARY):
            case = f"{name} {x.dtype.name}"
            try:
                getattr(cp, name)(*([x] if name in UNARY else [x, x]))
            except Collected:
                pass
            except (TypeError, ValueError, NotImplementedError, ImportError):
                pass  # not for this type
    return {source: case for source, case in found.items() if case not in REFUSED}


def compile_all(sources: dict[str, str]) -> dict[str, str]:
    """The first error of each source that g++ does not take."""
    wrong, cases = {}, list(sources.items())
    include = Path(cp.__file__).parent / "_core" / "include"
    command = ["g++", *COMMON, *KERNEL_FLAGS, f"-I{HERE}", f"-I{HEADERS}", f"-I{include}", "-fsyntax-only", "unit.cpp"]
    headers = ["cuda_simulator.h", *OF_EVERY_KERNEL, "limits", "tuple", "type_traits"]
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(cases), AT_ONCE):
            parts = [f"#include <{name}>\n" for name in headers]
            for number, (source, _) in enumerate(cases[start : start + AT_ONCE], start):
                body = source.replace('extern "C"', "")
                parts.append(f'#line 1 "source {number}"\nnamespace source_{number} {{\n{body}\n}}\n')
            (Path(folder) / "unit.cpp").write_text("".join(parts), encoding="utf-8")
            log = subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr
            for number, text in re.findall(r"^source (\d+):\d+:\d+: error: (.*)$", log, re.MULTILINE):
                wrong.setdefault(cases[int(number)][1], text)
            if "error" in log and not wrong:
                wrong["headers"] = log
    return wrong


sources = collect()
print(json.dumps([len(sources), compile_all(sources)]))
sys.exit(0)
