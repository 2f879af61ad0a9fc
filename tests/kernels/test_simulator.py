"""The simulator in run mode: the CUDA language, its faults, arguments, and the tensor-core layouts."""

import numpy as np
import pytest

from minillm.kernels.simulator import (
    CompileError,
    CompilerMissing,
    RawModule,
    SimulatorError,
    compiler,
    compiler_available,
    configured,
    toolchain,
)

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")

HEADERS = f"-I{compiler.HERE.parent}"
ROW_SUM = """
__device__ float warp_sum(float v) {
    for (int offset = 16; offset; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}
template <int kThreads>
__global__ void __launch_bounds__(kThreads) row_sum(const float* __restrict__ x, float* y, int n) {
    __shared__ float part[kThreads / 32];
    extern __shared__ float total[];
    float sum = 0.0f;
    #pragma unroll 4
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        total[0] = 0.0f;
        for (int i = 0; i < kThreads / 32; ++i) total[0] += part[i];
        y[blockIdx.x] = total[0];
    }
}
"""


def row_sum(code=ROW_SUM):
    return RawModule(code=code, name_expressions=("row_sum<128>",)).get_function("row_sum<128>")


def kernel(body, parameters="float* y"):
    return RawModule(code=f'extern "C" __global__ void k({parameters}) {{ {body} }}').get_function("k")


@pytest.mark.parametrize("fibers", ["assembly", "ucontext"])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_row_sum_in_every_order(monkeypatch, fibers, order):
    monkeypatch.setenv("MINILLM_SIMULATOR_FIBERS", fibers)
    x = np.random.default_rng(0).standard_normal((5, 777), dtype=np.float32)
    y = np.zeros(5, np.float32)
    with configured(order=order, seed=3):
        row_sum()((5,), (128,), (x, y, np.int32(777)), shared_mem=4)
    np.testing.assert_allclose(y, x.astype(np.float64).sum(1), rtol=1e-4, atol=1e-4)


def test_a_missing_barrier_is_seen_as_nan():
    x, y = np.ones((1, 777), np.float32), np.zeros(1, np.float32)
    faulty = row_sum(ROW_SUM.replace("__syncthreads();", ""))
    faulty((1,), (128,), (x, y, np.int32(777)), shared_mem=4)  # warp 0 sums before the others have written
    assert np.isnan(y[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (lambda x, y: (x, y, 777), r"argument 2 \(n\) is a Python int: pass np.int32\(777\)"),
        (lambda x, y: (x, y, np.int64(777)), r"argument 2 \(n\) is int64, the kernel takes int32"),
        (lambda x, y: (x.astype(np.float64), y, np.int32(1)), r"argument 0 \(x\) is an array of float64"),
        (lambda x, y: (x, y), r"2 arguments given, the kernel takes 3 \(x, y, n\)"),
        (lambda x, y: (x, np.float32(1), np.int32(1)), r"argument 1 \(y\) is a scalar float32"),
        (lambda x, y: (x.T, y, np.int32(1)), r"argument 0 \(x\) is not C-contiguous"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    x, y = np.ones((5, 777), np.float32), np.zeros(5, np.float32)
    with pytest.raises((TypeError, ValueError), match=message):
        row_sum()((5,), (128,), arguments(x, y))


def test_a_write_outside_of_an_array_is_reported_and_the_array_untouched():
    y = np.zeros(4, np.float32)
    with pytest.raises(
        SimulatorError, match=r"argument 0 \(y\): the kernel wrote outside of the array, element 4 \(it has 4\)"
    ):
        kernel("y[threadIdx.x] = 1.0f;")((1,), (5,), (y,))
    assert (y == 0).all()


@pytest.mark.parametrize(
    "body, message",
    [
        ("if (threadIdx.x < 7) __syncthreads();\n else\n __syncthreads();", "divergent barrier"),
        ("if (threadIdx.x < 7) __shfl_sync(0xffffffffu, 1.0f, 0);\n else __syncthreads();", "deadlock"),
        ("if (threadIdx.x == 3) __trap();", r"thread \(3, 0, 0\).*__trap"),
        ("__shfl_sync(1u, 1.0f, 0);", "does not name the lane"),
        ("while (atomicCAS(reinterpret_cast<int*>(y), 0, 0) == 0) atomicExch(y, 0.0f);", "deadlock"),
    ],
)
def test_threads_that_cannot_go_on_are_reported(body, message):
    with pytest.raises(SimulatorError, match=message):
        kernel(body)((1,), (32,), (np.zeros(1, np.float32),))


def test_inline_ptx_gets_a_hint():
    with pytest.raises(CompileError, match="Inline PTX with .* cannot be simulated"):
        kernel('asm volatile("mov.u32 %%r1, %%tid.x;");')((1,), (1,), (np.zeros(1, np.float32),))


def test_no_compiler_names_the_package(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(toolchain, "compiler", lambda: None)
    toolchain.toolchain.cache_clear()
    with pytest.raises(CompilerMissing, match=r"apt install g\+\+"):
        row_sum()((1,), (128,), (np.ones((1, 1), np.float32), np.zeros(1, np.float32), np.int32(1)))


def test_bf16_rounds_to_nearest_even():
    rng = np.random.default_rng(1)
    bits = np.concatenate([rng.integers(0, 2**32, 5000, dtype=np.uint32), np.arange(32, dtype=np.uint32) << 12])
    x = bits.view(np.float32)
    y = np.zeros(x.size, np.uint16)
    code = '#include <cuda_bf16.h>\nextern "C" __global__ void k(const float* x, __nv_bfloat16* y) {' \
        "y[blockIdx.x] = __float2bfloat16(x[blockIdx.x]); }"  # fmt: skip
    RawModule(code=code).get_function("k")((x.size,), (1,), (x, y))
    upper, rest = (bits >> 16).astype(np.uint32), bits & 0xFFFF
    expected = upper + ((rest > 0x8000) | ((rest == 0x8000) & (upper & 1 == 1)))
    expected[np.isnan(x)] = 0x7FFF
    np.testing.assert_array_equal(y, expected.astype(np.uint16))


MMA = """
#include "mma.cuh"
extern "C" __global__ void bf16(const unsigned short* A, const unsigned short* B, float* C) {
    __shared__ __align__(16) unsigned short a[16][16], b[16][8], bt[8][16];
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    for (int i = lane; i < 256; i += 32) a[i / 16][i % 16] = A[i];
    for (int i = lane; i < 128; i += 32) b[i / 8][i % 8] = bt[i % 8][i / 8] = B[i];
    __syncthreads();
    unsigned ra[4], rb[2], rt[2];
    ldmatrix_x4(ra, &a[lane % 16][8 * (lane / 16)]);
    ldmatrix_x2(rb, &bt[lane % 8][8 * (lane / 8 % 2)]);
    ldmatrix_x2_trans(rt, &b[lane % 16][0]);
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16_bf16(d, ra, rb, d);
    for (int i = 0; i < 4; ++i) C[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rb[0] == rt[0] && rb[1] == rt[1] ? d[i] : NAN;
}
extern "C" __global__ void tf32(const float* A, const float* B, float* C) {
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    unsigned a[4], b[2] = {to_tf32(B[t * 8 + g]), to_tf32(B[(t + 4) * 8 + g])};
    for (int i = 0; i < 4; ++i) a[i] = to_tf32(A[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k8_tf32(d, a, b, d);
    for (int i = 0; i < 4; ++i) C[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
"""


@pytest.mark.parametrize("name, depth", [("bf16", 16), ("tf32", 8)])
def test_tensor_core_layouts(name, depth):
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-8, 8, shape).astype(np.float32) for shape in ((16, depth), (depth, 8)))  # exact in bf16
    c = np.zeros((16, 8), np.float32)
    narrow = [(v.view(np.uint32) >> 16).astype(np.uint16) if name == "bf16" else v for v in (a, b)]
    RawModule(code=MMA, options=(HEADERS,)).get_function(name)((1,), (32,), (*narrow, c))
    np.testing.assert_array_equal(c, a @ b)
