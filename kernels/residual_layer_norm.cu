// Residual add and the layer norm that follows it, in one visit to memory:
//
//     s = x + (delta + b')        y = layer_norm(s) w + b
//
// b' is the bias of the linear layer that computed delta, which is left to this kernel. Backward: s
// takes part twice, in the residual stream and in the norm, so its two gradients add up, and a sum
// passes its gradient to all terms; b' is the same for every row:
//
//     dx = ddelta = dsum + (what comes back through the norm: layer_norm.cu has the formula)
//     db' = sum over rows of dx
//
// Apart, the three operations move 8 + 12 + 8 bytes an element forward (delta, z; x, z, s; s, y);
// together 16. Backward 16 in place of 12 + 12 + 4. The work of blocks and threads and the shared
// memory are as in layer_norm.cu.

#include "column_sum.cuh"
#include "layer_norm.cuh"

// Without a bias its pointer is null.
template <typename Number, int N>
__global__ void residual_layer_norm_forward(const Number* x, const Number* delta, const float* delta_bias,
                                            const float* weight, const float* bias, Number* sum, Number* y, float* mean,
                                            float* rstd, long long rows, int width, float eps) {
    __shared__ float scratch[32];
    float w[HELD], b[HELD] = {}, of_delta[HELD] = {}, s[HELD];
    load_row<N>(weight, width, w);
    if (bias) load_row<N>(bias, width, b);
    if (delta_bias) load_row<N>(delta_bias, width, of_delta);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        load_sum<N>(x + first, delta + first, of_delta, sum + first, width, s);
        RowStatistics statistics = row_statistics<N>(s, width, eps, scratch);
        normalize_row<N>(s, w, b, y + first, statistics, width);
        if (threadIdx.x == 0) {
            mean[row] = statistics.mean;
            rstd[row] = statistics.rstd;
        }
    }
}

// partials (1 to 3, gridDim.x, width): of dweight, and of dbias and the gradient of delta's bias
// where there are such
template <typename Number, int N>
__global__ void __launch_bounds__(N > 1 ? MAX_THREADS : MAX_THREADS_BY_ONE)
    residual_layer_norm_backward(const Number* dsum, const Number* dy, const Number* sum, const float* mean,
                                 const float* rstd, const float* weight, Number* dx, float* partials, int has_bias,
                                 int has_delta_bias, long long rows, int width) {
    __shared__ float scratch[32];
    NormSums sums = {};
    float w[HELD];
    load_row<N>(weight, width, w);
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        RowStatistics statistics = {mean[row], rstd[row]};
        // forward: s = x + (delta + b'); y = layer_norm(s) w + b
        layer_norm_backward_row<N>(dy + first, sum + first, w, dsum + first, dx + first, sums, statistics, width, scratch);
    }
    float* table = partials + (long long)blockIdx.x * width;
    store_row<N>(sums.dweight, width, table);
    table += (long long)gridDim.x * width;
    if (has_bias) store_row<N>(sums.dbias, width, table);
    if (has_delta_bias) store_row<N>(sums.dx, width, table + (has_bias ? (long long)gridDim.x * width : 0));
}
