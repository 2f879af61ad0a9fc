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
// Forward. Work: one block a row, up to 512 threads, about four columns each. Shared memory: 32
// partial sums.
//
// Backward. Work: at most 512 blocks; block b takes the rows b, b + gridDim.x, ... Shared memory:
// dw and db of these rows (2 C floats) and 32 partial sums. At its end a block writes them as row b
// of a table, which column_sum adds up: x and dy are read once, and the order of additions is
// always the same.
//
// Memory moved: forward 8 bytes an element (x, y), backward 12 (dy, x, dx), half of that in
// bfloat16: a few operations for each, so the speed limit is that of memory.

#include "column_sum.cuh"
#include "layer_norm.cuh"

// Without a bias (has_bias = false) the pointer `bias` is not read.
template <typename Number, bool has_bias>
__global__ void layer_norm_forward(const Number* x, const float* weight, const float* bias, Number* y, float* mean,
                                   float* rstd, int width, float eps) {
    __shared__ float scratch[32];
    long long row = blockIdx.x;
    RowStatistics statistics = row_statistics(x + row * width, width, eps, scratch);
    normalize_row<has_bias>(x + row * width, weight, bias, y + row * width, statistics, width);
    if (threadIdx.x == 0) {
        mean[row] = statistics.mean;
        rstd[row] = statistics.rstd;
    }
}

// dweight_partials and dbias_partials (gridDim.x, width)
template <typename Number>
__global__ void layer_norm_backward(const Number* dy, const Number* x, const float* mean, const float* rstd,
                                    const float* weight, Number* dx, float* dweight_partials, float* dbias_partials,
                                    long long rows, int width) {
    extern __shared__ float sums[];
    __shared__ float scratch[32];
    float* dweight = sums;
    float* dbias = sums + width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) dweight[c] = dbias[c] = 0;
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        RowStatistics statistics = {mean[row], rstd[row]};
        // forward: n_i = (x_i - mean) r; y_i = n_i w_i + b_i
        layer_norm_backward_row<false, Number>(dy + row * width, x + row * width, weight, nullptr, dx + row * width, dweight,
                                               dbias, statistics, width, scratch);
    }
    long long first = (long long)blockIdx.x * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        dweight_partials[first + c] = dweight[c];
        dbias_partials[first + c] = dbias[c];
    }
}
