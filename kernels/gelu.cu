// GELU with the bias of the layer before it. With x = z + b:
//
//     "tanh"   y = x s(x)          s(x) = 1/2 (1 + tanh u) = 1 / (1 + exp(-2 u)),  u = c x (1 + a x^2)
//     "none"   y = x Phi(x)        Phi(x) = 1/2 (1 + erf(x / sqrt 2))
//
// and backward, dz = dy (gate + x gate'), db = sum over rows of dz, where
//
//     "tanh"   s' = 2 s (1 - s) c (1 + 3 a x^2)        "none"   Phi' = exp(-x^2 / 2) / sqrt(2 pi)
//
// (minillm/layers/gelu.py derives it.) The logistic form of s has no cancellation where tanh u is
// near -1.
//
// Work: a thread owns one column and walks down rows. blockIdx.y picks 256 columns, blockIdx.x the
// rows blockIdx.x, blockIdx.x + gridDim.x, ... (at most 128 such groups). The bias of the column is
// read once, and the sum of the column stays in a register. Without aliases (__restrict__) the
// compiler loads four rows before it stores the first. Shared memory: none. At its end a thread of
// backward writes its sum into row blockIdx.x of a table, which column_sum adds up in a fixed
// order.
//
// Memory moved: forward 8 bytes an element, backward 12, half of that in bfloat16; x + b is
// recomputed rather than kept.

#include <cuda_bf16.h>

#include "column_sum.cuh"

const float C = 0.7978845608028654f;  // sqrt(2 / pi)
const float A = 0.044715f;

template <bool tanh_form>
__device__ inline float gate(float x) {
    if (tanh_form) return 1 / (1 + expf(-2 * C * x * (1 + A * x * x)));
    return 0.5f * (1 + erff(x * 0.7071067811865476f));
}

template <bool tanh_form>
__device__ inline float gate_slope(float x, float gate) {
    if (tanh_form) return 2 * gate * (1 - gate) * C * (1 + 3 * A * x * x);
    return 0.3989422804014327f * expf(-0.5f * x * x);  // 1 / sqrt(2 pi)
}

// Without a bias (has_bias = false) the pointer `bias` is not read.
template <typename Number, bool tanh_form, bool has_bias>
__global__ void gelu_forward(const Number* __restrict__ z, const float* bias, Number* __restrict__ y, long long rows,
                             int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float b = has_bias ? bias[column] : 0;
#pragma unroll 4
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        float x = (float)z[row * width + column] + b;
        y[row * width + column] = (Number)(x * gate<tanh_form>(x));
    }
}

// dbias_partials (gridDim.x, width); not written without a bias
template <typename Number, bool tanh_form, bool has_bias>
__global__ void gelu_backward(const Number* __restrict__ dy, const Number* __restrict__ z, const float* bias,
                              Number* __restrict__ dz, float* dbias_partials, long long rows, int width) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float b = has_bias ? bias[column] : 0;
    float sum = 0;
#pragma unroll 4
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        float x = (float)z[row * width + column] + b;
        float g = gate<tanh_form>(x);
        // forward: y = x s(x); y = x Phi(x): the gate
        float gradient = (float)dy[row * width + column] * (g + x * gate_slope<tanh_form>(x, g));
        dz[row * width + column] = (Number)gradient;
        // forward: x = z + b: the same bias for every row
        sum += gradient;
    }
    if (has_bias) dbias_partials[(long long)blockIdx.x * width + column] = sum;
}
