// Layer norm. For one row x of width C:
//
//     mean = 1/C sum_i x_i        variance = 1/C sum_i (x_i - mean)^2        r = 1 / sqrt(variance + eps)
//     n_i = (x_i - mean) r        y_i = n_i w_i + b_i
//
// and backward, with g_i = dy_i w_i (minillm/layers/layer_norm.py derives it):
//
//     dx_i = r (g_i - 1/C sum_j g_j - n_i 1/C sum_j g_j n_j)
//     dw_i = sum over rows of dy_i n_i        db_i = sum over rows of dy_i
//
// Where x goes elsewhere too, as in a residual block, the gradient from there (dsum) is added to
// dx.
//
// Forward. Work: block b takes the rows b, b + gridDim.x, ...; a thread holds 8 numbers of a row in
// registers, and the same columns of w and b for all its rows. It reads and writes 16 bytes at a
// time where rows allow it (N neighbours, row.cuh). Shared memory: 32 partial sums.
//
// Backward. Work: as forward; dw and db of these rows lie in
// registers, each thread's columns. At its end a block writes them as row b of a table each, which
// column_sum adds up: x and dy are read once, and the order of additions is always the same.
//
// Memory moved: forward 8 bytes an element (x, y), backward 12 (dy, x, dx), half of that in
// bfloat16: a few operations for each, so the speed limit is that of memory.

#include "column_sum.cuh"
#include "layer_norm.cuh"

// Without a bias its pointer is null.
template <typename Number, int N>
__global__ void layer_norm_forward(const Number* x, const float* weight, const float* bias, Number* y, float* mean,
                                   float* rstd, long long rows, int width, float eps) {
    __shared__ float scratch[32];
    float w[HELD], b[HELD] = {}, numbers[HELD];
    load_row<N>(weight, width, w);
    if (bias) load_row<N>(bias, width, b);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        load_row<N>(x + row * width, width, numbers);
        RowStatistics statistics = row_statistics<N>(numbers, width, eps, scratch);
        normalize_row<N>(numbers, w, b, y + row * width, statistics, width);
        if (threadIdx.x == 0) {
            mean[row] = statistics.mean;
            rstd[row] = statistics.rstd;
        }
    }
}

// partials (1 + has_bias, gridDim.x, width): of dweight and dbias. dsum: null, or as dx.
template <typename Number, int N>
__global__ void __launch_bounds__(N > 1 ? MAX_THREADS : MAX_THREADS_BY_ONE)
    layer_norm_backward(const Number* dy, const Number* x, const float* mean, const float* rstd, const float* weight,
                        const Number* dsum, Number* dx, float* partials, int has_bias, long long rows, int width) {
    __shared__ float scratch[32];
    NormSums sums = {};
    float w[HELD];
    load_row<N>(weight, width, w);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        RowStatistics statistics = {mean[row], rstd[row]};
        // forward: n_i = (x_i - mean) r; y_i = n_i w_i + b_i
        layer_norm_backward_row<N>(dy + first, x + first, w, dsum ? dsum + first : nullptr, dx + first, sums, statistics,
                                   width, scratch);
    }
    float* table = partials + (long long)blockIdx.x * width;
    store_row<N>(sums.dweight, width, table);
    if (has_bias) store_row<N>(sums.dbias, width, table + (long long)gridDim.x * width);
}
