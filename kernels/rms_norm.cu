// RMS norm. For one row x of width C:
//
//     r = 1 / sqrt(1/C sum_i x_i^2 + eps)        n_i = x_i r        y_i = n_i w_i
//
// and backward, with g_i = dy_i w_i (minillm/layers/rms_norm.py derives it):
//
//     dx_i = r (g_i - n_i 1/C sum_j g_j n_j)        dw_i = sum over rows of dy_i n_i
//
// Where x goes elsewhere too, as in a residual block, the gradient from there (dsum) is added to
// dx.
//
// Forward. Work: block b takes the rows b, b + gridDim.x, ...; a thread holds 8 numbers of a row in
// registers, and the same columns of w for all its rows. It reads and writes 16 bytes at a time
// where rows allow it (N neighbours, row.cuh). Shared memory: 32 partial sums.
//
// Backward. Work: as forward; dw of these rows lies in registers,
// each thread's columns. At its end a block writes it as row b of a table, which column_sum adds
// up.
//
// Memory moved: forward 8 bytes an element, backward 12; half of that in bfloat16.

#include "column_sum.cuh"
#include "rms_norm.cuh"

template <typename Number, int N>
__global__ void rms_norm_forward(const Number* x, const float* weight, Number* y, float* rstd, long long rows, int width,
                                 float eps) {
    __shared__ float scratch[32];
    float w[HELD], numbers[HELD];
    load_row<N>(weight, width, w);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        load_row<N>(x + row * width, width, numbers);
        float r = rms_normalize_row<N>(numbers, w, y + row * width, width, eps, scratch);
        if (threadIdx.x == 0) rstd[row] = r;
    }
}

// partials (gridDim.x, width): of dweight. dsum: null, or as dx.
template <typename Number, int N>
__global__ void __launch_bounds__(N > 1 ? MAX_THREADS : MAX_THREADS_BY_ONE)
    rms_norm_backward(const Number* dy, const Number* x, const float* rstd, const float* weight, const Number* dsum,
                      Number* dx, float* partials, long long rows, int width) {
    __shared__ float scratch[32];
    float w[HELD], dweight[HELD] = {}, dx_sums[HELD] = {};
    load_row<N>(weight, width, w);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        // forward: n_i = x_i r; y_i = n_i w_i
        rms_norm_backward_row<N>(dy + first, x + first, w, dsum ? dsum + first : nullptr, dx + first, dweight, dx_sums,
                                 rstd[row], width, scratch);
    }
    store_row<N>(dweight, width, partials + (long long)blockIdx.x * width);
}
