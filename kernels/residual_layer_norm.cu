// Residual add and the layer norm that follows it, in one visit to memory:
//
//     s = x + delta        y = layer_norm(s) w + b
//
// Backward: s takes part twice, in the residual stream and in the norm, so its two gradients add
// up, and a sum passes its gradient to both terms:
//
//     dx = ddelta = dsum + (what comes back through the norm: layer_norm.cu has the formula)
//
// Apart, the two operations move 12 + 8 bytes an element forward (x, delta, s; s, y); together 16,
// and backward 16 in place of 12 + 12. The work of blocks and threads and the shared memory are as
// in layer_norm.cu.

#include "column_sum.cuh"
#include "layer_norm.cuh"

// Without a bias (has_bias = false) the pointer `bias` is not read.
template <typename Number, bool has_bias>
__global__ void residual_layer_norm_forward(const Number* x, const Number* delta, const float* weight,
                                            const float* bias, Number* sum, Number* y, float* mean, float* rstd, int width, float eps) {
    __shared__ float scratch[32];
    long long row = blockIdx.x, first = row * width;
    // Each thread reads back only what it wrote itself, its own columns: no barrier is needed.
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        sum[first + c] = (Number)((float)x[first + c] + (float)delta[first + c]);
    }
    RowStatistics statistics = row_statistics(sum + first, width, eps, scratch);
    normalize_row<has_bias>(sum + first, weight, bias, y + first, statistics, width);
    if (threadIdx.x == 0) {
        mean[row] = statistics.mean;
        rstd[row] = statistics.rstd;
    }
}

// dweight_partials and dbias_partials (gridDim.x, width)
template <typename Number>
__global__ void residual_layer_norm_backward(const Number* dsum, const Number* dy, const Number* sum, const float* mean,
                                             const float* rstd, const float* weight, Number* dx,
                                             float* dweight_partials, float* dbias_partials, long long rows,
                                             int width) {
    extern __shared__ float sums[];
    __shared__ float scratch[32];
    float* dweight = sums;
    float* dbias = sums + width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) dweight[c] = dbias[c] = 0;
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        RowStatistics statistics = {mean[row], rstd[row]};
        long long first = row * width;
        // forward: s = x + delta; y = layer_norm(s) w + b
        layer_norm_backward_row<true>(dy + first, sum + first, weight, dsum + first, dx + first, dweight, dbias,
                                      statistics, width, scratch);
    }
    long long first = (long long)blockIdx.x * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        dweight_partials[first + c] = dweight[c];
        dbias_partials[first + c] = dbias[c];
    }
}
