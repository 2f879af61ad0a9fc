"""The CUDA language in the simulator: names, headers, overloads and functions that a textbook's file may use."""

import math

import numpy as np
import pytest

from minillm.kernels.simulator import CompileError, RawModule, SimulatorError, compiler_available, configured

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")

# Words that the simulator's own headers use, and single letters.
MACROS = """N T F I P E M size count type value kind call parts bits low high arguments parameters thread block running
lane mask file line visibility bounds always_inline noinline Entry Parameter Same kernel index operand result source width
left right""".split()
WORDS = "".join(f"#define {name} 4\n" for name in MACROS)
USES = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <assert.h>
extern "C" __global__ void four(int* out) {
    __shared__ int s[32];
    s[threadIdx.x] = atomicAdd(&out[0], 0) * 0 + __shfl_sync(0xffffffffu, size, 0);
    __syncthreads();
    assert(blockDim.x == 32 && gridDim.x == 1 && blockIdx.x == 0);
    out[threadIdx.x] = s[31 - threadIdx.x] + max(count, T) - T + int(sqrtf(0.0f)) +
        int(__half2float(__float2half(0.0f)));
}
"""
NAMES = """
struct Entry { int x; };
namespace check { __device__ int launch(int scheduler) { return scheduler; } }
__device__ int load(int x) { return x; }
__device__ int vote(int x) { return x; }
__device__ int modify(int x) { return x; }
__device__ int whole = 1;
static __global__ void warp(int* running) {
    Entry thread = {load(vote(modify(2)))};
    running[threadIdx.x] = check::launch(thread.x) * whole;
}
"""
FUNCTIONS = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <math_constants.h>
extern "C" __global__ void mathematics(double* y) {
    int n = 0;
    y[n++] = hypotf(3.0f, 4.0f), y[n++] = sinpi(0.5), y[n++] = exp10f(2.0f), y[n++] = ldexpf(1.0f, 3),
        y[n++] = lround(2.5);
    y[n++] = lgamma(5.0), y[n++] = normcdfinv(0.975), y[n++] = erfinv(0.5), y[n++] = erfcinv(1e-10),
        y[n++] = erfcx(30.0);
    y[n++] = cyl_bessel_i0(1.0), y[n++] = rcbrt(8.0), y[n++] = sqrt(4), y[n++] = fdividef(1.0f, 4.0f),
        y[n++] = rnorm3d(1, 2, 2);
    y[n++] = max(1, 2u), y[n++] = min(1.5f, 2.5), y[n++] = abs(-3ll), y[n++] = fmax(1.0f, 2.0f), y[n++] = CUDART_PI;
    y[n++] = cospi(1.5), y[n++] = fma(2.0f, 3.0f, 1.0f), y[n++] = pow(2.0f, 3), y[n++] = __powf(2.0f, 3.0f),
        y[n++] = isnan(NAN);
}
extern "C" __global__ void integers(double* y) {
    int n = 0;
    y[n++] = __double2int_rn(2.5), y[n++] = __float2int_rd(-1.5f), y[n++] = __float2int_ru(1.25f),
        y[n++] = __float2int_rz(-1.5f);
    y[n++] = __float2int_rn(3e9f), y[n++] = __float2uint_rz(-1.0f), y[n++] = __double2ll_rd(-0.5),
        y[n++] = __float2int_rn(NAN);
    y[n++] = __int2float_rz(16777217), y[n++] = __int2float_ru(16777217), y[n++] = __ll2float_rd(-16777217ll);
    y[n++] = __fadd_ru(1.0f, 1e-10f) > 1.0f, y[n++] = __fadd_rd(1.0f, 1e-10f) > 1.0f,
        y[n++] = __fdiv_rd(1.0f, 3.0f) < __fdiv_ru(1.0f, 3.0f);
    y[n++] = __popc(255), y[n++] = __clz(1), y[n++] = __ffs(8), y[n++] = __brev(1u),
        y[n++] = __byte_perm(0x03020100u, 0x07060504u, 0x7531);
    y[n++] = __mul24(-3, 5), y[n++] = __umulhi(1u << 31, 4), y[n++] = __dp4a(0x01020304, 0x01010101, 5),
        y[n++] = __hadd(3, 4);
    y[n++] = __funnelshift_l(0x80000000u, 1u, 1), y[n++] = __sad(2, 5, 1);
}
extern "C" __global__ void atomics(int* i, unsigned long long* u, double* d, float* f, long long* l, unsigned short* h,
                                   half* a) {
    atomicAdd(f, 1), atomicAdd_block(f, 1.0f), atomicAdd_system(i, 2), atomicMax(l, 5ll),
        atomicMin(l + 1, -5ll), atomicAdd(a, half(0.5f));
    atomicCAS(u, 0, __double_as_longlong(0.0) + 7), atomicExch(f + 1, 3),
        atomicCAS(h, (unsigned short)0, (unsigned short)9);
    atomicAdd((size_t*)u + 1, 1), atomicAdd(d, 1), atomicInc((unsigned*)i + 1, 3), atomicAnd(u + 2, 5),
        atomicXor(i + 2, 6);
}
extern "C" __global__ void lanes(unsigned* y) {
    unsigned all = 0xffffffffu, lane = threadIdx.x;
    y[lane] = __reduce_add_sync(all, lane) + __reduce_max_sync(all, lane) + __reduce_min_sync(all, lane);
    y[32 + lane] = __match_any_sync(all, lane / 8);
    int same;
    y[64 + lane] = __match_all_sync(all, 1.5, &same) + same;
    y[96 + lane] = __shfl_xor_sync(all, (long long)lane << 40, 1) >> 40;
    long long t = clock64();
    __nanosleep(10);
    y[128 + lane] = clock64() >= t && clock() >= 0;
    dim3 b(2), size = blockDim;
    uint3 me = threadIdx;
    y[160 + lane] = b.y + size.x + me.x;
}
extern "C" __global__ void sixteen(float* y, const half* x, half2* pair, __nv_bfloat16* b) {
    half h = x[0];
    y[0] = h * h + 1.0f, y[1] = __half2float(__hfma(h, h, half(1))), y[2] = __hgt(h, half(0)), y[3] = float(hexp(h)),
        y[4] = h + h;
    pair[0] = __hadd2(pair[0], __float2half2_rn(1.0f)), pair[1] = pair[0] * pair[0];
    b[0] = __hadd(b[0], __nv_bfloat16(1.0f)), b[1] = b[0] / __float2bfloat16(3.0f);
    y[5] = __half2int_rn(half(2.5f)), y[6] = __half_as_ushort(half(70000.0f)), y[7] = __half2float(half(3e-8f));
    uint64_t wide = 1ull << 40;
    memcpy(&y[8], &y[7], 4), memset(&y[9], 0, sizeof(float));
    y[10] = float(wide >> 40);
}
"""
EXPECTED = {
    "mathematics": [5, 1, 100, 8, 3, math.log(24), 1.959963984540054, 0.4769362762044699, 4.572824967389486],
    "integers": [2, -2, 2, -1, 2**31 - 1, 0, -1, 0, 2**24, 2**24 + 2, -(2**24) - 2, 1, 0, 1],
}
EXPECTED["mathematics"] += [
    0.0187958888614,
    1.2660658777520084,
    0.5,
    2,
    0.25,
    1 / 3,
    2,
    1.5,
    3,
    2,
    math.pi,
    0,
    7,
    8,
    8,
    1,
]
EXPECTED["integers"] += [8, 31, 4, 2**31, 0x07050301, -15, 2, 15, 3, 3, 4]


@pytest.fixture(scope="module")
def functions():
    return RawModule(code=FUNCTIONS)


def test_no_macro_of_the_users_reaches_a_header():
    y = np.zeros(32, np.int32)
    RawModule(code=WORDS + USES).get_function("four")((1,), (32,), (y,))
    assert (y == 4).all()


def test_names_of_the_users_may_be_those_of_the_simulators_insides():
    y = np.zeros(8, np.int32)
    RawModule(code=NAMES, name_expressions=("warp",)).get_function("warp")((1,), (8,), (y,))
    assert (y == 2).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_functions_give_what_cuda_documents(functions, name):
    y = np.full(len(EXPECTED[name]) + 1, np.nan)
    functions.get_function(name)((1,), (1,), (y,))
    np.testing.assert_allclose(y[:-1], EXPECTED[name], rtol=1e-9 if name == "mathematics" else 0, atol=0)
    assert np.isnan(y[-1])


def test_overloads_of_atomics_convert_their_operands(functions):
    i, u, d, f = np.array([0, 3, 5], np.int32), np.array([0, 0, 7], np.uint64), np.zeros(1), np.zeros(2, np.float32)
    signed, h, a = np.zeros(2, np.int64), np.zeros(1, np.uint16), np.ones(1, np.float16)
    functions.get_function("atomics")((1,), (1,), (i, u, d, f, signed, h, a))
    assert i.tolist() == [2, 0, 3] and u.tolist() == [7, 1, 5] and d[0] == 1 and f.tolist() == [2, 3]
    assert signed.tolist() == [5, -5] and h[0] == 9 and a[0] == 1.5


def test_lanes_reduce_and_match(functions):
    y = np.zeros((6, 32), np.uint32)
    functions.get_function("lanes")((1,), (32,), (y,))
    lane = np.arange(32)
    assert (y[0] == 496 + 31).all() and (y[2] == 0).all() and (y[4] == 1).all() and (y[5] == 33 + lane).all()
    assert (y[1] == 0xFF << (lane // 8 * 8)).all() and (y[3] == lane ^ 1).all()


def test_16_bit_numbers_are_rounded_once(functions):
    y, x = np.zeros(11, np.float32), np.array([1.0009766], np.float16)
    pair, b = np.array([0.1, 0.2, 0, 0], np.float16), np.array([0x3F80, 0], np.uint16)
    functions.get_function("sixteen")((1,), (1,), (y, x, pair, b))
    wide = np.float64(x[0])
    assert y[1] == np.float16(wide * wide + 1) and y[3] == np.float16(np.exp(wide)) and y[4] == x[0] + x[0]
    assert y[2] == 1 and y[5] == 2 and y[6] == 0x7C00 and y[7] == np.float16(3e-8) == y[8] and y[10] == 1
    np.testing.assert_array_equal(pair[:2], np.array([0.1, 0.2], np.float16) + np.float16(1))
    np.testing.assert_array_equal(pair[2:], pair[:2] * pair[:2])
    assert b.tolist() == [0x4000, 0x3F2B]  # 2, and 2/3 to 8 bits


GROUPS = """
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
using namespace std;
namespace cg = cooperative_groups;
__device__ int sum_in(cg::thread_group g, int* temp, int v) {
    int lane = g.thread_rank();
    for (int i = g.size() / 2; i > 0; i /= 2) {
        temp[lane] = v;
        g.sync();
        if (lane < i) v += temp[lane + i];
        g.sync();
    }
    return v;
}
extern "C" __global__ void groups(const int* x, int* y) {
    __shared__ int temp[64];
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<16>(block);
    int v = x[block.thread_rank()];
    int first = sum_in(block, temp, v);
    if (block.thread_rank() == 0) y[0] = first;
    int total = cg::reduce(tile, v, cg::plus<int>()), before = cg::exclusive_scan(tile, v);
    for (int o = tile.size() / 2; o > 0; o /= 2) v += tile.shfl_down(v, o);
    if (tile.thread_rank() == 0) y[1 + tile.meta_group_rank()] = v == total ? total : -1;
    if (tile.thread_rank() == 15) y[5 + tile.meta_group_rank()] = before;
    if (threadIdx.x % 4 == 1) {
        cg::coalesced_group some = cg::coalesced_threads();
        int none = some.any(0) + max(std::min(0, 1), int(std::sqrt(0.5f)) + abs(0));
        if (some.thread_rank() == 0) y[9 + threadIdx.x / 32] = some.size() + none;
    }
}
template <typename T> __global__ void own_type(T* y) {
    extern __shared__ T s[];
    s[threadIdx.x] = T(threadIdx.x) / 2;
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.mark.parametrize("mode", ["run", "check"])
def test_cooperative_groups_beside_headers_of_c_plus_plus(mode):
    names = ("own_type<float>", "own_type<int>")
    module = RawModule(code=GROUPS, name_expressions=names)
    x, y = np.arange(64, dtype=np.int32), np.zeros(11, np.int32)
    with configured(mode=mode):
        module.get_function("groups")((1,), (64,), (x, y))
        tiles = x.reshape(4, 16)
        assert y.tolist() == [2016, *tiles.sum(1), *tiles[:, :-1].sum(1), 8, 8]
        for name, dtype in zip(names, (np.float32, np.int32)):
            z = np.zeros(4, dtype)
            module.get_function(name)((1,), (4,), (z,), shared_mem=16)
            assert z.tolist() == [1.5, 1, 0.5, 0] if dtype == np.float32 else [1, 1, 0, 0]


def test_memcpy_is_watched_and_assert_is_a_report():
    code = '#include <assert.h>\n#include <string.h>\nextern "C" __global__ void k(float* y, int n) {\n'
    code += "    memset(y, 0, n);\n    assert(n < 9);\n}\n"
    kernel = RawModule(code=code).get_function("k")
    outside = "kernel.cu:4: .*out-of-bounds write of argument 0"
    with pytest.raises(SimulatorError, match=outside), configured(mode="check"):
        kernel((1,), (1,), (np.zeros(2, np.float32), np.int32(12)))
    with pytest.raises(SimulatorError, match="kernel.cu:5: .*assertion failed: n < 9"):
        kernel((1,), (1,), (np.zeros(4, np.float32), np.int32(9)))


@pytest.mark.parametrize(
    "head, body, message",
    [
        ("", "y[0] = tex1D<float>(t, 0);", "kernel.cu:3: tex1D .* not in the simulator; use a pointer"),
        ("#include <curand_kernel.h>\\n", "", "kernel.cu:1: <curand_kernel.h> .* not in the simulator"),
        ("#include <cub/cub.cuh>\\n", "cub::BlockReduce<int, 3> b;", "cub is not in the simulator; use shared memory"),
        ("", "float* p; cudaMalloc(&p, 4);", "cudaMalloc in a kernel is not in the simulator"),
        ("", "k<<<1, 1>>>(y);", "launches from inside a kernel"),
        ("", "y[0] = __shfl_down(y[0], 1);", "use __shfl_down_sync with a mask"),
        ("", "half h;", "half is in <cuda_fp16.h>, which has to be included"),
        ("", "y[0] = foo(1);", "kernel.cu:3: foo is not declared, neither in this file nor in the simulator"),
        ("", "y[0] = 1", "kernel.cu:4: expected ';' before '}' token|kernel.cu:3: expected ';'"),
        ("__device__ int later(int);\\n", "y[0] = later(1);", r"later\\(int\\) is declared, but defined nowhere"),
        ("#include <cooperative_groups.h>\\n", "cooperative_groups::this_cluster();", "clusters of blocks.* is not in"),
    ],
)
def test_what_is_not_there_is_one_line(head, body, message):
    head = head.replace("\\n", "\n") or "\n"
    with pytest.raises(CompileError, match=message.replace("\\\\", "\\")) as caught:
        RawModule(code=f'{head}extern "C" __global__ void k(float* y) {{\n    {body}\n}}\n').library("run")
    assert "\n" not in str(caught.value) and "minillm_sim" not in str(caught.value)
