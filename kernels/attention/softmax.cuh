// Softmax over the rows of a T x T matrix in memory, for the rungs that have one. One warp a row: lane l takes the columns
// l, l + 32, ..., sums and maxima go through warp shuffles, and no shared memory is used.

#pragma once

#include "dropout.cuh"

__device__ inline float warp_max(float value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// p (rows, time): scores on entry, on return P_ij = exp(S_ij - max_j S_ij) / sum_j exp(S_ij - max_j S_ij). A masked score is
// -inf and becomes exactly 0; a causal row always has its diagonal, so the maximum is finite.
// dropped (rows, time): P times the dropout factors, written if drop.threshold > 0.
__global__ void softmax_forward(float* p, float* dropped, long long rows, int time, unsigned long long key0,
                                unsigned long long key1, unsigned long long threshold, long long first, float scale) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;  // a whole warp
    Dropout drop = {key0, key1, threshold, first, scale};
    float* s = p + row * time;
    float largest = -infinity(), sum = 0;
    for (int j = lane; j < time; j += 32) largest = fmaxf(largest, s[j]);
    largest = warp_max(largest);
    for (int j = lane; j < time; j += 32) sum += s[j] = expf(s[j] - largest);
    float normaliser = 1 / warp_sum(sum);
    for (int j = lane; j < time; j += 32) {
        s[j] *= normaliser;
        if (threshold) dropped[row * time + j] = kept_bits<1>(drop, row * time + j) ? s[j] * scale : 0;
    }
}

// ds (rows, time): on entry the gradient of the dropped probabilities, on return that of q . k:
//     dP_ij = d(dropped)_ij factor_ij        dS_ij = P_ij (dP_ij - sum_k dP_ik P_ik) / sqrt(D)
__global__ void softmax_backward(const float* p, float* ds, long long rows, int time, float inverse_sqrt_width,
                                 unsigned long long key0, unsigned long long key1, unsigned long long threshold,
                                 long long first, float scale) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    Dropout drop = {key0, key1, threshold, first, scale};
    float average = 0;
    for (long long n = row * time + lane; n < (row + 1) * time; n += 32) {
        // forward: dropped = p * factor
        if (threshold) ds[n] = kept_bits<1>(drop, n) ? ds[n] * scale : 0;
        average += ds[n] * p[n];
    }
    average = warp_sum(average);
    // forward: p = softmax(s), s = q . k / sqrt(D)
    for (long long n = row * time + lane; n < (row + 1) * time; n += 32)
        ds[n] = p[n] * (ds[n] - average) * inverse_sqrt_width;
}
