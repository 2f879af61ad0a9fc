// Kernels whose threads own columns and walk down rows: a bias of the column is read once, and a
// sum over rows stays in registers.
//
// Work: blocks of WIDE x DEEP threads. Thread (x, y) owns N neighbouring columns (vectors.cuh), so
// that the 32 threads of a warp read up to 512 bytes side by side; blockIdx.y picks the columns.
// It walks down the rows blockIdx.x * DEEP + y, + gridDim.x * DEEP, ...

#pragma once

#include "column_sum.cuh"
#include "vectors.cuh"

template <int N>
__device__ inline int own_column() {
    return (blockIdx.y * WIDE + threadIdx.x) * N;
}

__device__ inline long long own_row() { return (long long)blockIdx.x * DEEP + threadIdx.y; }

__device__ inline long long row_step() { return (long long)gridDim.x * DEEP; }

// The bias of this thread's columns; 0 where there is none: the pointer is null.
template <int N>
__device__ inline void load_bias(const float* bias, float (&b)[N]) {
    if (bias) {
        load(bias + own_column<N>(), b);
    } else {
        for (float& number : b) number = 0;
    }
}

// The first stage of a sum over rows: the sums of a block's threads, added in a fixed order, become
// row blockIdx.x of partials (gridDim.x, width), which column_sum adds up. All threads of the block
// call it, those beyond the columns as well.
template <int N>
__device__ inline void store_partial_sums(const float (&sum)[N], float* partials, int width) {
    __shared__ float sums[DEEP][WIDE * N];
#pragma unroll
    for (int i = 0; i < N; ++i) sums[threadIdx.y][i * WIDE + threadIdx.x] = sum[i];
    __syncthreads();
    if (threadIdx.y != 0 || own_column<N>() >= width) return;
    float total[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        total[i] = sum[i];
        for (int y = 1; y < DEEP; ++y) total[i] += sums[y][i * WIDE + threadIdx.x];
    }
    store(total, partials + (long long)blockIdx.x * width + own_column<N>());
}
