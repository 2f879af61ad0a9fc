// What layer_norm.cu and residual_layer_norm.cu share. A block works on a row of `width` numbers,
// which its threads hold in registers (row.cuh): memory sees each number once. Number is float
// or bfloat16; the arithmetic is float.

#pragma once

#include "reduce.cuh"
#include "row.cuh"

struct RowStatistics {
    float mean;
    float rstd;  // 1 / sqrt(variance + eps)
};

// In two passes: the mean, then the mean of (x - mean)^2. (E[x^2] - mean^2 in one pass would lose
// all digits where the mean is large.)
template <int N>
__device__ inline RowStatistics row_statistics(const float (&x)[HELD], int width, float eps, float* scratch) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i) sum += x[i];  // 0 beyond the row
    float mean = block_sum(sum, scratch) / width;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        if (column_of<N>(i) < width) squares += (x[i] - mean) * (x[i] - mean);
    }
    float variance = block_sum(squares, scratch) / width;
    RowStatistics statistics = {mean, 1 / sqrtf(variance + eps)};
    return statistics;
}

// n_c = (x_c - mean) rstd        y_c = n_c w_c + b_c
template <int N, typename Number>
__device__ inline void normalize_row(float (&x)[HELD], const float (&w)[HELD], const float (&b)[HELD], Number* y,
                                     RowStatistics statistics, int width) {
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        float normed = (x[i] - statistics.mean) * statistics.rstd;
        x[i] = normed * w[i] + b[i];
    }
    store_row<N>(x, width, y);
}

// The gradients that are sums over rows: those of this block's rows, in this thread's columns.
struct NormSums {
    float dweight[HELD], dbias[HELD], dx[HELD];
};

// With g_c = dy_c w_c:   dx_c = rstd (g_c - mean over the row of g - n_c mean over the row of g n)  [+ dsum_c]
//
// w: the weight. dsum: another gradient of x, null where there is none.
template <int N, typename Number>
__device__ inline void layer_norm_backward_row(const Number* dy_row, const Number* x_row, const float (&w)[HELD],
                                               const Number* dsum_row, Number* dx_row, NormSums& sums,
                                               RowStatistics statistics, int width, float* scratch) {
    float dy[HELD], normed[HELD], dsum[HELD] = {};
    load_row<N>(dy_row, width, dy);
    load_row<N>(x_row, width, normed);
    if (dsum_row) load_row<N>(dsum_row, width, dsum);
    float sum_g = 0, sum_g_normed = 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        normed[i] = (normed[i] - statistics.mean) * statistics.rstd;
        // forward: y_c = n_c w_c + b_c: w and b are the same for every row
        sums.dweight[i] += dy[i] * normed[i];
        sums.dbias[i] += dy[i];
        float g = dy[i] * w[i];  // 0 beyond the row
        sum_g += g;
        sum_g_normed += g * normed[i];
    }
    float mean_g = block_sum(sum_g, scratch) / width;
    float mean_g_normed = block_sum(sum_g_normed, scratch) / width;
    float dx[HELD];
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        // forward: n_c = (x_c - mean) rstd: mean and rstd are functions of the whole row
        dx[i] = statistics.rstd * (dy[i] * w[i] - mean_g - normed[i] * mean_g_normed) + dsum[i];
        sums.dx[i] += dx[i];
    }
    store_row<N>(dx, width, dx_row);
}
