// Residual add and the RMS norm that follows it, in one visit to memory:
//
//     s = x + (delta + b')        y = rms_norm(s) w
//
// b' is the bias of the linear layer that computed delta, if it has one, which is left to this
// kernel. Backward: s takes part twice, in the residual stream and in the norm, so its two
// gradients add up, and a sum passes its gradient to all terms; b' is the same for every row:
//
//     dx = ddelta = dsum + (what comes back through the norm: rms_norm.cu has the formula)
//     db' = sum over rows of dx
//
// Apart, sum and norm move 12 + 8 bytes an element forward (x, delta, s; s, y); together 16.
// Backward 16 in place of 12 + 12. The work of blocks and threads and the shared memory are as in
// rms_norm.cu.

#include "column_sum.cuh"
#include "rms_norm.cuh"

// Without a bias its pointer is null.
template <typename Number, int N>
__global__ void residual_rms_norm_forward(const Number* x, const Number* delta, const float* delta_bias,
                                          const float* weight, Number* sum, Number* y, float* rstd, long long rows,
                                          int width, float eps) {
    __shared__ float scratch[32];
    float w[HELD], of_delta[HELD] = {}, s[HELD];
    load_row<N>(weight, width, w);
    if (delta_bias) load_row<N>(delta_bias, width, of_delta);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        load_sum<N>(x + first, delta + first, of_delta, sum + first, width, s);
        float r = rms_normalize_row<N>(s, w, y + first, width, eps, scratch);
        if (threadIdx.x == 0) rstd[row] = r;
    }
}

// partials (1 + has_delta_bias, gridDim.x, width): of dweight and of the gradient of delta's bias
template <typename Number, int N>
__global__ void __launch_bounds__(N > 1 ? MAX_THREADS : MAX_THREADS_BY_ONE)
    residual_rms_norm_backward(const Number* dsum, const Number* dy, const Number* sum, const float* rstd,
                               const float* weight, Number* dx, float* partials, int has_delta_bias, long long rows,
                               int width) {
    __shared__ float scratch[32];
    float w[HELD], dweight[HELD] = {}, dx_sums[HELD] = {};
    load_row<N>(weight, width, w);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        // forward: s = x + (delta + b'); y = rms_norm(s) w
        rms_norm_backward_row<N>(dy + first, sum + first, w, dsum + first, dx + first, dweight, dx_sums, rstd[row], width,
                                 scratch);
    }
    float* table = partials + (long long)blockIdx.x * width;
    store_row<N>(dweight, width, table);
    if (has_delta_bias) store_row<N>(dx_sums, width, table + (long long)gridDim.x * width);
}
