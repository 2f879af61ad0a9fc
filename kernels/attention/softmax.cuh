// Softmax over the rows of a T x T matrix in memory, for the rungs that have one. One warp a row: a
// lane takes every 32nd column; sums and maxima go through warp shuffles, without shared memory.

#pragma once

#include "dropout.cuh"

__device__ inline float warp_max(float value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// p (rows, time): scores on entry, on return P_ij = exp(S_ij - m_i) / l_i, m_i the maximum of row i
// and l_i = sum_j exp(S_ij - m_i). A masked score is -inf and becomes exactly 0; a causal row
// always has its diagonal, so the maximum is finite. dropped (rows, time): P times the dropout
// factors, written if drop.threshold > 0.
__global__ void softmax_forward(float* p, float* dropped, long long rows, int time, Dropout drop) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;  // a whole warp
    float* s = p + row * time;
    float m = -infinity(), l = 0;
    for (int j = lane; j < time; j += 32) m = fmaxf(m, s[j]);
    m = warp_max(m);
    for (int j = lane; j < time; j += 32) l += s[j] = expf(s[j] - m);
    float normalizer = 1 / warp_sum(l);
    for (int j = lane; j < time; j += 32) {
        s[j] *= normalizer;
        if (drop.threshold) dropped[row * time + j] = kept_bits<1>(drop, row * time + j) ? s[j] * drop.scale : 0;
    }
}

// ds (rows, time): on entry the gradient of the dropped probabilities, on return that of q . k:
//     dP_ij = d(dropped)_ij factor_ij        delta_i = sum_k dP_ik P_ik
//     dS_ij = P_ij (dP_ij - delta_i) / sqrt(D)
__global__ void softmax_backward(const float* p, float* ds, long long rows, int time, float scale,
                                 Dropout drop) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float delta = 0;
    for (long long n = row * time + lane; n < (row + 1) * time; n += 32) {
        // forward: s[j] * drop.scale
        if (drop.threshold) ds[n] = kept_bits<1>(drop, n) ? ds[n] * drop.scale : 0;
        delta += ds[n] * p[n];
    }
    delta = warp_sum(delta);
    // forward: P_ij = exp(S_ij - m_i) / l_i: S has the factor 1 / sqrt(D)
    for (long long n = row * time + lane; n < (row + 1) * time; n += 32)
        ds[n] = p[n] * (ds[n] - delta) * scale;
}
