// A_i = sum_d dY_id Y_id, for the backward passes that do not have the T x T matrix: it equals sum_j dP_ij P_ij, the average
// that the gradient of the softmax subtracts, since sum_j P_ij V_jd = Y_id (minillm/layers/attention.py). With dropout too.

#pragma once

#include "reduce.cuh"

// One warp a row.  dy, y (rows, width), average (rows,)
template <typename Number>
__global__ void gradient_average(const Number* dy, const Number* y, float* average, long long rows, int width) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;  // a whole warp
    float sum = 0;
    for (int d = threadIdx.x % 32; d < width; d += 32) sum += (float)dy[row * width + d] * (float)y[row * width + d];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) average[row] = sum;
}
