"""RawModule with templates: name expressions, structs by value, a type of half the size."""

import cupy as cp
import numpy as np

module = cp.RawModule(
    code=r"""
#include <cuda_fp16.h>

template <typename T> struct Line { T slope, offset; };

template <typename T, int STEP>
__global__ void evaluate(const T* x, T* y, Line<T> line, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += STEP * blockDim.x)
        y[i] = line.slope * x[i] + line.offset;
}
namespace halves {
__global__ void add(const __half* x, const __half* y, __half* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = __hadd(x[i], y[i]);
}
}
""",
    options=("-std=c++17",),
    name_expressions=("evaluate<float, 2>", "evaluate<double, 1>", "halves::add"),
)

x = np.linspace(-1, 1, 500)
for dtype, name in ((np.float32, "evaluate<float, 2>"), (np.float64, "evaluate<double, 1>")):
    line = np.array((3, 0.5), [("slope", dtype), ("offset", dtype)])
    y = cp.empty(500, dtype)
    blocks = 2 if dtype == np.float32 else 1
    module.get_function(name)((blocks,), (128,), (cp.asarray(x.astype(dtype)), y, line, np.int32(500)))
    np.testing.assert_allclose(y.get(), 3 * x + 0.5, rtol=1e-5, atol=1e-6)
a, b = np.random.default_rng(17).standard_normal((2, 100)).astype(np.float16)
z = cp.empty(100, cp.float16)
module.get_function("halves::add")((1,), (128,), (cp.asarray(a), cp.asarray(b), z, np.int32(100)))
np.testing.assert_array_equal(z.get(), a + b)
print("evaluated:", y[:2])
