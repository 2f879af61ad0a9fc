// What rms_norm.cu and residual_rms_norm.cu share. A block works on a row of `width` numbers, which
// its threads hold in registers (row.cuh). Number is float or bfloat16; the arithmetic is float.

#pragma once

#include "reduce.cuh"
#include "row.cuh"

// r = 1 / sqrt(mean of x^2 + eps)        n_c = x_c r        y_c = n_c w_c        Returns r.
template <int N, typename Number>
__device__ inline float rms_normalize_row(float (&x)[HELD], const float (&w)[HELD], Number* y, int width, float eps,
                                          float* scratch) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i) squares += x[i] * x[i];  // 0 beyond the row
    float r = 1 / sqrtf(block_sum(squares, scratch) / width + eps);
#pragma unroll
    for (int i = 0; i < HELD; ++i) x[i] = x[i] * r * w[i];
    store_row<N>(x, width, y);
    return r;
}

// With g_c = dy_c w_c:   dx_c = r (g_c - n_c mean over the row of g n)  [+ dsum_c]
//
// Adds dy_c n_c to dweight and dx_c to dx_sums, those of this block's rows in this thread's
// columns. w: the weight. dsum: another gradient of x, null where there is none.
template <int N, typename Number>
__device__ inline void rms_norm_backward_row(const Number* dy_row, const Number* x_row, const float (&w)[HELD],
                                             const Number* dsum_row, Number* dx_row, float (&dweight)[HELD],
                                             float (&dx_sums)[HELD], float r, int width, float* scratch) {
    float dy[HELD], normed[HELD], dsum[HELD] = {}, sum_g_normed = 0;
    load_row<N>(dy_row, width, dy);
    load_row<N>(x_row, width, normed);
    if (dsum_row) load_row<N>(dsum_row, width, dsum);
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        normed[i] *= r;
        // forward: y_c = n_c w_c: the same weight for every row
        dweight[i] += dy[i] * normed[i];
        sum_g_normed += dy[i] * w[i] * normed[i];  // 0 beyond the row
    }
    float mean_g_normed = block_sum(sum_g_normed, scratch) / width;
    float dx[HELD];
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        // forward: n_c = x_c r: r is a function of the whole row
        dx[i] = r * (dy[i] * w[i] - normed[i] * mean_g_normed) + dsum[i];
        dx_sums[i] += dx[i];
    }
    store_row<N>(dx, width, dx_row);
}
