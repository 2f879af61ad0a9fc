// delta_i = sum_d dY_id Y_id, for the backward passes that do not have the T x T matrix. It equals
// sum_j dP_ij P_ij, which the gradient of the softmax subtracts, since sum_j P_ij V_jd = Y_id
// (minillm/layers/attention.py). It holds with dropout too.

#pragma once

#include "reduce.cuh"

// One warp a row.  dy, y (rows, width), delta (rows,)
template <typename Number>
__global__ void row_delta(const Number* dy, const Number* y, float* delta, long long rows, int width) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;  // a whole warp
    float sum = 0;
    for (int d = threadIdx.x % 32; d < width; d += 32) sum += (float)dy[row * width + d] * (float)y[row * width + d];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[row] = sum;
}
