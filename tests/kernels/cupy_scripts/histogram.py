"""A histogram of bytes: atomics in shared memory, then in global memory."""

import cupy as cp
import numpy as np

kernel = cp.RawKernel(
    r"""
extern "C" __global__
void histogram(const unsigned char* data, unsigned int* counts, int n) {
    __shared__ unsigned int part[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) part[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&part[data[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&counts[i], part[i]);
}
""",
    "histogram",
)

data = np.random.default_rng(3).integers(0, 256, 5000).astype(np.uint8)
counts = cp.zeros(256, cp.uint32)
kernel((4,), (128,), (cp.asarray(data), counts, np.int32(data.size)))
expected = np.bincount(data, minlength=256)
np.testing.assert_array_equal(counts.get(), expected)
np.testing.assert_array_equal(cp.bincount(cp.asarray(data), minlength=256).get(), expected)
print("the commonest byte:", int(counts.argmax()))
