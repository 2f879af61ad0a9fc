// RMS norm. For one row x of width C:
//
//     r = 1 / sqrt(1/C sum_i x_i^2 + eps)        n_i = x_i r        y_i = n_i w_i
//
// and backward, with g_i = dy_i w_i (minillm/layers/rms_norm.py derives it):
//
//     dx_i = r (g_i - n_i 1/C sum_j g_j n_j)        dw_i = sum over rows of dy_i n_i
//
// Forward. Work: one block a row, up to 512 threads, about four columns each. Shared memory: 32
// partial sums.
//
// Backward. Work: at most 512 blocks; block b takes the rows b, b + gridDim.x, ... Shared memory:
// dw of these rows (C floats) and 32 partial sums. At its end a block writes dw as row b of a
// table, which column_sum adds up.
//
// A row is read twice; the second reading comes from the cache. Memory moved: forward 8 bytes an
// element, backward 12; half of that in bfloat16.

#include <cuda_bf16.h>

#include "column_sum.cuh"
#include "reduce.cuh"

template <typename Number>
__global__ void rms_norm_forward(const Number* x, const float* weight, Number* y, float* rstd, int width, float eps) {
    __shared__ float scratch[32];
    long long row = blockIdx.x, first = row * width;
    float squares = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) squares += (float)x[first + c] * (float)x[first + c];
    float r = 1 / sqrtf(block_sum(squares, scratch) / width + eps);
    for (int c = threadIdx.x; c < width; c += blockDim.x) y[first + c] = (Number)((float)x[first + c] * r * weight[c]);
    if (threadIdx.x == 0) rstd[row] = r;
}

// dweight_partials (gridDim.x, width)
template <typename Number>
__global__ void rms_norm_backward(const Number* dy, const Number* x, const float* rstd, const float* weight, Number* dx,
                                  float* dweight_partials, long long rows, int width) {
    extern __shared__ float dweight[];  // thread t alone touches the columns t, t + blockDim.x, ...: no barrier
    __shared__ float scratch[32];
    for (int c = threadIdx.x; c < width; c += blockDim.x) dweight[c] = 0;
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        long long first = row * width;
        float r = rstd[row], sum_g_normed = 0;
        for (int c = threadIdx.x; c < width; c += blockDim.x) {
            // forward: y_i = n_i w_i
            float dy_normed = (float)dy[first + c] * ((float)x[first + c] * r);
            dweight[c] += dy_normed;
            sum_g_normed += dy_normed * weight[c];
        }
        float mean_g_normed = block_sum(sum_g_normed, scratch) / width;
        for (int c = threadIdx.x; c < width; c += blockDim.x) {
            // forward: n_i = x_i r: r is a function of the whole row
            float g = (float)dy[first + c] * weight[c];
            dx[first + c] = (Number)(r * (g - (float)x[first + c] * r * mean_g_normed));
        }
    }
    long long first = (long long)blockIdx.x * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) dweight_partials[first + c] = dweight[c];
}
