"""Trace: the line, block and thread that wrote an element last."""

import numpy as np
import pytest

from minillm.kernels.simulator import RawModule, configured
from minillm.kernels.simulator.tracing import Trace, Writer

CODE = """
extern "C" __global__ void fill(float* x, float4* y, int* z) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    x[i] = i;
    __syncthreads();
    if (i == 5) x[i] = -1;
    if (i == 1) y[i] = make_float4(0, 1, 2, 3);
    if (i == 40) atomicAdd(&z[2], 1);
}
"""

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.mark.parametrize("mode", ["check", "profile"])
@pytest.mark.parametrize(
    "name, element, writer",
    [
        ("x", 33, ("kernel.cu:4", (1, 0, 0), (1, 0, 0))),
        ("x", 5, ("kernel.cu:6", (0, 0, 0), (5, 0, 0))),
        ("y", 6, ("kernel.cu:7", (0, 0, 0), (1, 0, 0))),  # within a vector
        ("y", 3, None),
        ("z", 2, ("kernel.cu:8", (1, 0, 0), (8, 0, 0))),
    ],
)
def test_the_last_writer(name, element, writer, mode):
    arrays = {"x": np.zeros(64, np.float32), "y": np.zeros(8, np.float32), "z": np.zeros(4, np.int32)}
    trace = Trace(arrays[name], element)
    with configured(mode=mode, trace=trace):
        RawModule(code=CODE).get_function("fill")((2,), (32,), tuple(arrays.values()))
    assert trace.writer == (Writer("fill", *writer) if writer else None)
