// What layer_norm.cu and residual_layer_norm.cu share: one block works on one row of `width`
// values.
//
// Thread t takes the columns t, t + blockDim.x, ...: neighbours read neighbours. A row is read
// again for each step rather than kept; the second reading comes from the L1 or L2 cache, so memory
// sees each value once. Number is float or bfloat16; the arithmetic is float.

#pragma once

#include <cuda_bf16.h>

#include "reduce.cuh"

struct RowStatistics {
    float mean;
    float rstd;  // 1 / sqrt(variance + eps)
};

// In two passes: the mean, then the mean of (x - mean)^2. (E[x^2] - mean^2 in one pass would lose
// all digits where the mean is large.) The row may have been written by this block if each thread
// wrote its own columns.
template <typename Number>
__device__ inline RowStatistics row_statistics(const Number* x, int width, float eps, float* scratch) {
    float sum = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) sum += (float)x[c];
    float mean = block_sum(sum, scratch) / width;
    float squares = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) squares += ((float)x[c] - mean) * ((float)x[c] - mean);
    float variance = block_sum(squares, scratch) / width;
    RowStatistics statistics = {mean, 1 / sqrtf(variance + eps)};
    return statistics;
}

// n_c = (x_c - mean) rstd        y_c = n_c w_c + b_c
template <bool has_bias, typename Number>
__device__ inline void normalize_row(const Number* x, const float* weight, const float* bias, Number* y,
                                     RowStatistics statistics, int width) {
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float normed = ((float)x[c] - statistics.mean) * statistics.rstd;
        y[c] = (Number)(normed * weight[c] + (has_bias ? bias[c] : 0));
    }
}

// With g_c = dy_c w_c:   dx_c = rstd (g_c - mean over the row of g - n_c mean over the row of g n)  [+ dsum_c]
//
// Adds dy_c n_c to dweight[c] and dy_c to dbias[c], which lie in shared memory: thread t alone ever
// touches its columns.
template <bool has_dsum, typename Number>
__device__ inline void layer_norm_backward_row(const Number* dy, const Number* x, const float* weight,
                                               const Number* dsum, Number* dx, float* dweight, float* dbias, RowStatistics statistics,
                                               int width, float* scratch) {
    float sum_g = 0, sum_g_normed = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float normed = ((float)x[c] - statistics.mean) * statistics.rstd;
        float g = (float)dy[c] * weight[c];
        sum_g += g;
        sum_g_normed += g * normed;
        // forward: y_c = n_c w_c + b_c
        dweight[c] += (float)dy[c] * normed;
        dbias[c] += (float)dy[c];
    }
    float mean_g = block_sum(sum_g, scratch) / width;
    float mean_g_normed = block_sum(sum_g_normed, scratch) / width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float normed = ((float)x[c] - statistics.mean) * statistics.rstd;
        float g = (float)dy[c] * weight[c];
        // forward: n_c = (x_c - mean) rstd: mean and rstd are functions of the whole row
        float gradient = statistics.rstd * (g - mean_g - normed * mean_g_normed);
        dx[c] = (Number)(has_dsum ? gradient + (float)dsum[c] : gradient);
    }
}
