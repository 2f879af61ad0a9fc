"""Softmax of each row: a block a row, a warp's shuffles, dynamic shared memory."""

import cupy as cp
import numpy as np

module = cp.RawModule(
    code=r"""
__inline__ __device__ float warp_max(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, offset));
    return v;
}
__inline__ __device__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffff, v, offset);
    return v;
}
extern "C" __global__ void softmax(const float* x, float* y, int width) {
    extern __shared__ float part[];  // a number for each warp
    const float* row = x + blockIdx.x * width;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float largest = -3.4e38f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) largest = fmaxf(largest, row[j]);
    largest = warp_max(largest);
    if (lane == 0) part[warp] = largest;
    __syncthreads();
    for (int w = 0; w < warps; ++w) largest = fmaxf(largest, part[w]);
    __syncthreads();
    float sum = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) sum += expf(row[j] - largest);
    sum = warp_sum(sum);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int w = 0; w < warps; ++w) sum += part[w];
    for (int j = threadIdx.x; j < width; j += blockDim.x) y[blockIdx.x * width + j] = expf(row[j] - largest) / sum;
}
"""
)
softmax = module.get_function("softmax")

rows, width, threads = 9, 300, 128
x = np.random.default_rng(2).standard_normal((rows, width)).astype(np.float32)
x_gpu = cp.asarray(x)
y_gpu = cp.empty_like(x_gpu)
softmax((rows,), (threads,), (x_gpu, y_gpu, np.int32(width)), shared_mem=threads // 32 * 4)
expected = np.exp(x - x.max(axis=1, keepdims=True))
expected /= expected.sum(axis=1, keepdims=True)
np.testing.assert_allclose(y_gpu.get(), expected, rtol=1e-5)
print("each row sums to one:", bool(np.allclose(y_gpu.sum(axis=1).get(), 1)))
