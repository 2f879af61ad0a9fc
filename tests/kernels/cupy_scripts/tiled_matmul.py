"""C = A B by tiles in shared memory, beside cupy.matmul."""

import cupy as cp
import numpy as np

TILE = 16
CODE = r"""
#define TILE %d
extern "C" __global__
void matmul(const float* A, const float* B, float* C, int M, int N, int K) {
    __shared__ float a[TILE][TILE], b[TILE][TILE];
    int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < K; start += TILE) {
        int ka = start + threadIdx.x, kb = start + threadIdx.y;
        a[threadIdx.y][threadIdx.x] = row < M && ka < K ? A[row * K + ka] : 0.0f;
        b[threadIdx.y][threadIdx.x] = kb < K && column < N ? B[kb * N + column] : 0.0f;
        __syncthreads();
        for (int k = 0; k < TILE; ++k) sum += a[threadIdx.y][k] * b[k][threadIdx.x];
        __syncthreads();
    }
    if (row < M && column < N) C[row * N + column] = sum;
}
"""
kernel = cp.RawKernel(CODE % TILE, "matmul")

M, N, K = 45, 70, 33
rng = np.random.default_rng(1)
a, b = rng.standard_normal((M, K), dtype=np.float32), rng.standard_normal((K, N), dtype=np.float32)
A, B, C = cp.asarray(a), cp.asarray(b), cp.empty((M, N), cp.float32)
grid = (-(-N // TILE), -(-M // TILE))
kernel(grid, (TILE, TILE), (A, B, C, np.int32(M), np.int32(N), np.int32(K)))
np.testing.assert_allclose(C.get(), a @ b, rtol=1e-4, atol=1e-4)
np.testing.assert_allclose((A @ B).get(), a @ b, rtol=1e-4, atol=1e-4)
print("largest difference from A @ B below 1e-4:", bool(np.abs((C - A @ B).get()).max() < 1e-4))
