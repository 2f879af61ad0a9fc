"""The planted faults in minillm.kernels.simulator, in check mode."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.simulators.faults import BLOCK, COUNTS, FAULTS, LENGTH, SOURCE, N
from minillm import kernels
from minillm.kernels.simulator import RawModule, SimulatorError, configured, unwritten

PROJECT = SOURCE.parent.parent.parent


@cache
def module() -> RawModule:
    """All kernels, with and without their faults, compiled once."""
    names = [f"{fault.name}<{faulty}>" for fault in FAULTS for faulty in ("true", "false")]
    return RawModule(path=SOURCE, options=[f"-I{kernels.__path__[0]}"], name_expressions=names)


def run(fault, faulty: bool, mode: str = "check", order: str = "ascending") -> tuple[str, tuple | None]:
    """What is reported ("" for nothing), and the results y and counts where the launch ended well."""
    x = (np.arange(LENGTH) * 0.5 + 1).astype(np.float32)
    y = (unwritten if fault.fresh else np.zeros)(LENGTH, np.float32)
    counts = np.zeros(COUNTS, np.int32)
    kernel = module().get_function(f"{fault.name}<{str(faulty).lower()}>")
    try:
        with configured(mode=mode, order=order):
            kernel((fault.grid,), (BLOCK,), (x, y, counts, np.int32(N)), shared_mem=fault.shared)
    except SimulatorError as error:
        return (error.findings or [str(error)])[0].replace(f"{PROJECT}/", ""), None
    return "", (y, counts)


def noticed(fault, faulty: bool) -> str:
    """What check mode reports, threads in ascending and then in shuffled order; "" for nothing."""
    said = run(fault, faulty)[0]
    if said:
        return said
    said = run(fault, faulty, order="shuffled")[0]
    return f"{said} (threads in shuffled order)" if said else ""
