"""Tensor cores of integers and doubles, copies by __pipeline_*, what a launch is granted at most, printf and assert."""

import numpy as np
import pytest

from minillm.kernels.simulator import RawModule, SimulatorError, compiler_available, configured

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")
MODES = pytest.mark.parametrize("mode", ["run", "check"])

WMMA = """
#include <mma.h>
using namespace nvcuda;
template <int M, int N, int K, class T, class Sum>
__global__ void product(const T* a, const T* b, const Sum* c, Sum* d) {
    wmma::fragment<wmma::matrix_a, M, N, K, T, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, M, N, K, T, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, M, N, K, Sum> sum;
    wmma::load_matrix_sync(left, a, K);
    wmma::load_matrix_sync(right, b, K);
    wmma::load_matrix_sync(sum, c, N, wmma::mem_row_major);
    wmma::mma_sync(sum, left, right, sum);
    for (int i = 0; i < sum.num_elements; ++i) sum.x[i] *= 2;
    wmma::store_matrix_sync(d, sum, M, wmma::mem_col_major);
}
"""
INTEGERS = ("signed char", "unsigned char")


@MODES
def test_wmma_of_integers_and_doubles(mode):
    shapes = [(16, 16, 16, INTEGERS[0]), (32, 8, 16, INTEGERS[1]), (8, 32, 16, INTEGERS[0]), (8, 8, 4, "double")]
    names = [f"product<{m}, {n}, {k}, {kind}, {'double' if kind == 'double' else 'int'}>" for m, n, k, kind in shapes]
    module, rng = RawModule(code=WMMA, name_expressions=names, mode=mode), np.random.default_rng(2)
    for name, (m, n, k, kind) in zip(names, shapes):
        if kind == "double":
            a, b, c = (rng.standard_normal(shape) for shape in ((m, k), (n, k), (m, n)))
        else:
            low, dtype = (-128, np.int8) if kind == INTEGERS[0] else (0, np.uint8)
            a, b = (rng.integers(low, low + 256, shape).astype(dtype) for shape in ((m, k), (n, k)))
            c = rng.integers(-1000, 1000, (m, n)).astype(np.int32)
        d = np.zeros((n, m), c.dtype)
        module.get_function(name)((1,), (32,), (a, b, c, d))
        np.testing.assert_allclose(d.T, 2 * (a.astype(c.dtype) @ b.T.astype(c.dtype) + c), rtol=1e-14, atol=1e-14)


PIPELINE = """
#include <cuda_pipeline_primitives.h>
extern "C" __global__ void stages(const float4* x, float4* y) {
    __shared__ float4 stage[2][32];
    int t = threadIdx.x;
    for (int s = 0; s < 4; ++s) {
        __pipeline_memcpy_async(&stage[s % 2][t], &x[32 * s + t], 16, s == 3 ? 8 : 0);
        __pipeline_commit();
        if (s == 0) continue;
        __pipeline_wait_prior(KEPT);
        y[32 * (s - 1) + t] = stage[(s - 1) % 2][t];
    }
    __pipeline_wait_prior(0);
    y[96 + t] = stage[1][t];
}
"""


@MODES
def test_copies_by_functions_of_c(mode):
    x = np.arange(512, dtype=np.float32) + 1
    y, expected = np.zeros_like(x), x.copy()
    expected.reshape(4, 32, 4)[3, :, 2:] = 0  # of the last stage half of each copy is zeros
    RawModule(code=PIPELINE, options=("-DKEPT=1",), mode=mode).get_function("stages")((1,), (32,), (x, y))
    np.testing.assert_array_equal(y, expected)


def test_copies_that_are_not_waited_for():
    x = np.ones(512, np.float32)
    with pytest.raises(SimulatorError, match=r"kernel.cu:11: .*an asynchronous copy is still to write"):
        RawModule(code=PIPELINE, options=("-DKEPT=2",), mode="check").get_function("stages")((1,), (32,), (x, x.copy()))


LARGEST = """
struct Most { char byte[PARAMETERS]; };
extern "C" __global__ void shared(int* y, int last) {
    __shared__ int beside[16];
    extern __shared__ int memory[];
    beside[threadIdx.x] = memory[last] = threadIdx.x;
    y[0] = memory[last] + beside[0];
}
extern "C" __global__ void by_value(int* y, Most most) { y[0] = most.byte[PARAMETERS - 1]; }
"""


def test_the_largest_launch():
    y, all_bytes, given = np.ones(1, np.int32), 227 * 1024, 32764 - 8
    module = RawModule(code=LARGEST, options=(f"-DPARAMETERS={given}",))
    shared, by_value = module.get_function("shared"), module.get_function("by_value")
    shared.max_dynamic_shared_size_bytes = most = all_bytes - 64
    shared((1,), (1,), (y, np.int32(most // 4 - 1)), shared_mem=most)
    assert y[0] == 0
    shared.max_dynamic_shared_size_bytes = all_bytes
    with pytest.raises(
        ValueError, match=f"{most + 4} bytes of shared memory, 64 of static .* besides; a GPU has 232448"
    ):
        shared((1,), (1,), (y, np.int32(0)), shared_mem=most + 4)
    struct = np.zeros((), [("byte", np.int8, given)])
    struct["byte"][-1] = 5
    by_value((1,), (1,), (y, struct[()]))
    assert y[0] == 5
    more = np.zeros((), [("byte", np.int8, given + 1)])
    with pytest.raises(ValueError, match="by_value: 32765 bytes of parameters, a GPU takes 32764"):
        RawModule(code=LARGEST, options=(f"-DPARAMETERS={given + 1}",)).get_function("by_value")(
            (1,), (1,), (y, more[()])
        )


TELLS = r"""
#include <cassert>
#include <cstdio>
extern "C" __global__ void tell(const float* x, int n) {
    printf("[%5.2f|%-8.3e|%g]\n", x[0], x[1], double(x[1]));
    printf("[%d|%05d|%+i|%*d|%.*f]\n", n, n, n, 6, n, 1, x[0]);
    printf("[%ld|%lld|%llu|%zu|%u]\n", -3L, -(1ll << 40), ~0ull, sizeof(float4), -1);
    printf("[%x|%#X|%o|%hhd|%c|%s|%.2s|%%]\n", 255, 255, 8, 300, 'c', n > 2 ? "text" : "", "text");
    printf("[%d]\n", printf("%p\n", x) > 3);
    assert(n > 2 && "at least three");
}
"""
TOLD = """[ 1.50|1.000e+10|1e+10]
[3|00003|+3|     3|1.5]
[-3|-1099511627776|18446744073709551615|16|4294967295]
[ff|0XFF|10|44|c|text|te|%]
"""


@MODES
def test_formats_of_printf(mode, capfd):
    tell = RawModule(code=TELLS, mode=mode).get_function("tell")
    x = np.array([1.5, 1e10], np.float32)
    tell((1,), (1,), (x, np.int32(3)))
    told = capfd.readouterr().out
    assert told.startswith(TOLD)
    address, last = told[len(TOLD) :].splitlines()
    assert int(address, 16) > 0 and last == "[1]"
    with pytest.raises(SimulatorError, match=r'kernel.cu:10: .*assertion failed: n > 2 && "at least three"'):
        tell((1,), (1,), (x, np.int32(2)))


def test_a_text_of_printf_is_watched():
    code = r"""extern "C" __global__ void tell(char* text) { printf("%s\n", text); }"""
    with configured(mode="check"), pytest.raises(SimulatorError, match="kernel.cu:1: .*out-of-bounds read"):
        RawModule(code=code).get_function("tell")((1,), (1,), (np.full(4, 65, np.int8),))
