"""CUDA kernels without a GPU: the same .cu file, compiled by g++ and run on NumPy arrays.

    module = RawModule(path="saxpy.cu", name_expressions=("saxpy<float>",))
    module.get_function("saxpy<float>")((blocks,), (256,), (np.int32(n), np.float32(2), x, y))

What it cannot show: how fast a kernel is. There is no timing and no concurrency between blocks,
expf and its fast relatives are exact, products and sums are not contracted to FMA, and TMA and
wgmma do not exist. It shows that a kernel is right and free of races on the
inputs tried, not that it is fast. Linux only.

mode="check" (RawModule, or configured(mode="check")) looks at every access: data races,
out-of-bounds and misaligned accesses, uninitialised shared memory, each with its source line, block
and thread. mode="profile" counts what every line asks of memory (profile.py).
"""

from minillm.kernels.simulator.errors import CompileError, CompilerMissing, SimulatorError
from minillm.kernels.simulator.memory import PointerTable, unwritten
from minillm.kernels.simulator.module import Kernel, RawModule
from minillm.kernels.simulator.profile import Profile
from minillm.kernels.simulator.settings import configured
from minillm.kernels.simulator.toolchain import compiler_available

__all__ = [
    "CompileError",
    "CompilerMissing",
    "Kernel",
    "PointerTable",
    "Profile",
    "RawModule",
    "SimulatorError",
    "compiler_available",
    "configured",
    "unwritten",
]
