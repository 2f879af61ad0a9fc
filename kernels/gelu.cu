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
// Work: a thread owns up to 16 bytes of neighbouring columns and walks down rows (columns.cuh): the
// bias is read once, the sum of a column stays in a register. At its end a block of backward writes
// its sums into its row of a table, which column_sum adds up in a fixed order. Shared memory:
// backward, the sums of the block's threads.
//
// Memory moved: forward 8 bytes an element, backward 12, half of that in bfloat16; x + b is
// recomputed rather than kept.

#include "columns.cuh"

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

// Without a bias its pointer is null.
template <typename Number, int N, bool tanh_form>
__global__ void gelu_forward(const Number* __restrict__ z, const float* bias, Number* __restrict__ y, long long rows,
                             int width) {
    if (own_column<N>() >= width) return;
    float b[N], x[N];
    load_bias(bias, b);
#pragma unroll 2
    for (long long row = own_row(); row < rows; row += row_step()) {
        long long place = row * width + own_column<N>();
        load(z + place, x);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            x[i] += b[i];
            x[i] *= gate<tanh_form>(x[i]);
        }
        store(x, y + place);
    }
}

// dbias_partials (gridDim.x, width), null without a bias
template <typename Number, int N, bool tanh_form>
__global__ void gelu_backward(const Number* __restrict__ dy, const Number* __restrict__ z, const float* bias,
                              Number* __restrict__ dz, float* dbias_partials, long long rows, int width) {
    float b[N], x[N], gradient[N], dbias[N] = {};
    if (own_column<N>() < width) {
        load_bias(bias, b);
        for (long long row = own_row(); row < rows; row += row_step()) {
            long long place = row * width + own_column<N>();
            load(z + place, x);
            load(dy + place, gradient);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                x[i] += b[i];
                float g = gate<tanh_form>(x[i]);
                // forward: y = x s(x); y = x Phi(x): the gate
                gradient[i] *= g + x[i] * gate_slope<tanh_form>(x[i], g);
                // forward: x = z + b: the same bias for every row
                dbias[i] += gradient[i];
            }
            store(gradient, dz + place);
        }
    }
    if (bias) store_partial_sums(dbias, dbias_partials, width);
}
