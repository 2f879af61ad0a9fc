"""Check mode: silent on a correct kernel, and each planted fault named with its line."""

import numpy as np
import pytest

from minillm.kernels.simulator import RawModule, SimulatorError, compiler_available, configured

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")

TRANSPOSE = """
extern "C" __global__ void reverse(const float* x, float* y, float* sum, int n) {
    __shared__ float tile[64];
    __shared__ __align__(16) float4 wide[16];
    int i = threadIdx.x;
    if (i < n) tile[i] = x[blockIdx.x * n + i];
    if (i < 16) wide[i] = make_float4(i, i, i, i);
    __syncthreads();
    float4 zero = {0.0f, 0.0f, 0.0f, 0.0f}, v = wide[i / 4];
    if (i < n) y[blockIdx.x * n + i] = tile[n - 1 - i] + v.x + zero.y;
    atomicAdd(sum, tile[i]);
    if (gridDim.x > 0) __syncthreads();
    if (i < 32) {
        __syncwarp();
        tile[i] = 0.0f;
        __syncwarp();
        tile[31 - i] += 1.0f;
    }
}
"""
FAULTS = [
    ("__syncthreads();", "", r"kernel.cu:10: .*uninitialised read of shared memory"),
    ("__syncthreads();", "__syncwarp();", r"data race"),
    ("atomicAdd(sum, tile[i])", "*sum += tile[i]", r"kernel.cu:11: .*data race"),
    ("x[blockIdx.x * n + i]", "x[blockIdx.x * n + i + 1]", r"kernel.cu:6: .*out-of-bounds read of argument 0"),
    ("y[blockIdx.x * n + i]", "y[i]", r"kernel.cu:10: .*data race: two threads write"),
    ("tile[n - 1 - i]", "tile[n - i]", r"kernel.cu:10: .*index 64 is beyond the bound of tile, which has 64 elements"),
    ("__syncwarp();\n        tile[31", "tile[31", r"kernel.cu:16: .*data race"),
    ("wide[i / 4];", "*reinterpret_cast<float4*>(&tile[1]);", r"kernel.cu:9: .*misaligned shared access"),
    ("if (i < n) tile[i]", "if (i < n - 1) tile[i]", r"kernel.cu:10: .*uninitialised read"),
    (
        "__syncthreads();",
        "if (i < 32) __syncthreads(); else __syncwarp();",
        r"without reaching|divergent|deadlock|race",
    ),
]


def run(code, order="ascending"):
    x, y, total = np.ones((2, 64), np.float32), np.zeros((2, 64), np.float32), np.zeros(1, np.float32)
    with configured(mode="check", order=order):
        RawModule(code=code).get_function("reverse")((2,), (64,), (x, y, total, np.int32(64)))


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_a_correct_kernel_is_silent(order):
    run(TRANSPOSE, order)


@pytest.mark.parametrize("before, after, message", FAULTS)
def test_planted_faults_are_named(before, after, message):
    assert TRANSPOSE.count(before) >= 1
    with pytest.raises(SimulatorError, match=message):
        run(TRANSPOSE.replace(before, after, 1))
