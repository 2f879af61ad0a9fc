"""A mean taken off in one cooperative launch: the grid waits for itself between the sum and its use."""

import cupy as cp
import numpy as np

CODE = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

extern "C" __global__ void centre(float* x, double* parts, int n) {
    cg::grid_group grid = cg::this_grid();
    double sum = 0;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) sum += x[i];
    atomicAdd(&parts[blockIdx.x], sum);
    grid.sync();
    double mean = 0;
    for (int b = 0; b < gridDim.x; ++b) mean += parts[b] / n;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) x[i] -= mean;
}
"""
x = np.random.default_rng(4).standard_normal(1000).astype(np.float32)
kernel = cp.RawKernel(CODE, "centre", enable_cooperative_groups=True)
of_module = cp.RawModule(code=CODE, enable_cooperative_groups=True).get_function("centre")
for function in (kernel, of_module):
    y, parts = cp.asarray(x), cp.zeros(4)
    function((4,), (64,), (y, parts, np.int32(1000)))
    np.testing.assert_allclose(y.get(), x - x.mean(dtype=float), atol=1e-6)
try:
    cp.RawKernel(CODE, "centre")((4,), (64,), (cp.asarray(x), cp.zeros(4), np.int32(1000)))
except Exception as error:
    print("without the argument it is refused:", "enable_cooperative_groups=True" in str(error))
