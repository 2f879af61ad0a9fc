"""An image and a Gaussian: two passes over rows and columns, the weights in constant memory."""

import cupy as cp
import numpy as np

RADIUS = 3
module = cp.RawModule(
    code=r"""
#define RADIUS 3
__constant__ float weights[2 * RADIUS + 1];

__device__ int reflected(int i, int n) { return i < 0 ? -i : i >= n ? 2 * n - 2 - i : i; }

extern "C" __global__ void rows(const float* image, float* out, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    float sum = 0;
    for (int k = -RADIUS; k <= RADIUS; ++k) sum += weights[k + RADIUS] * image[y * width + reflected(x + k, width)];
    out[y * width + x] = sum;
}
extern "C" __global__ void columns(const float* image, float* out, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    float sum = 0;
    for (int k = -RADIUS; k <= RADIUS; ++k) sum += weights[k + RADIUS] * image[reflected(y + k, height) * width + x];
    out[y * width + x] = sum;
}
"""
)

weights = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / 1.2) ** 2).astype(np.float32)
weights /= weights.sum()
pointer = module.get_global("weights")
constant = cp.ndarray(weights.shape, cp.float32, pointer)
constant[...] = cp.asarray(weights)

image = np.random.default_rng(15).random((30, 37)).astype(np.float32)
height, width = image.shape
gpu, between, out = cp.asarray(image), cp.empty(image.shape, cp.float32), cp.empty(image.shape, cp.float32)
grid, block = (-(-width // 16), -(-height // 8)), (16, 8)
module.get_function("rows")(grid, block, (gpu, between, np.int32(height), np.int32(width)))
module.get_function("columns")(grid, block, (between, out, np.int32(height), np.int32(width)))

padded = np.pad(image, RADIUS, mode="reflect")
across = np.apply_along_axis(np.convolve, 1, padded, weights, mode="valid")
expected = np.apply_along_axis(np.convolve, 0, across, weights, mode="valid")
np.testing.assert_allclose(out.get(), expected, rtol=1e-4, atol=1e-5)
print("mean before and after:", round(float(gpu.mean()), 2), round(float(out.mean()), 2))
