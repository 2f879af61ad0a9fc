"""y = a x + y with a kernel in CUDA."""

import cupy as cp
import numpy as np

saxpy = cp.RawKernel(
    r"""
extern "C" __global__
void saxpy(float a, const float* x, float* y, int n) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
""",
    "saxpy",
)

n = 10_000
rng = np.random.default_rng(0)
x, y = rng.standard_normal((2, n), dtype=np.float32)
x_gpu, y_gpu = cp.asarray(x), cp.asarray(y)
threads = 256
saxpy(((n + threads - 1) // threads,), (threads,), (np.float32(2), x_gpu, y_gpu, np.int32(n)))
np.testing.assert_allclose(cp.asnumpy(y_gpu), 2 * x + y, rtol=1e-6)
print("saxpy:", y_gpu[:4])
