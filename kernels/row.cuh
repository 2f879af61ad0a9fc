// A row of a matrix in the registers of a block, read and written in vectors (vectors.cuh).
//
// A block works on one row at a time. A thread holds HELD of its numbers: vectors of N neighbours,
// of which thread t has those numbered t, t + blockDim.x, ... So memory sees each number once,
// whatever is computed from the row.

#pragma once

#include "vectors.cuh"

// The column of number i of this thread. Rows are whole vectors: a vector lies inside or beyond.
template <int N>
__device__ inline int column_of(int i) {
    return (i / N * blockDim.x + threadIdx.x) * N + i % N;
}

// Beyond the row the numbers are 0.
template <int N, typename Number>
__device__ inline void load_row(const Number* row, int width, float (&x)[HELD]) {
#pragma unroll
    for (int i = 0; i < HELD; i += N) {
        float(&vector)[N] = reinterpret_cast<float(&)[N]>(x[i]);
        if (column_of<N>(i) < width) {
            load(row + column_of<N>(i), vector);
        } else {
            for (float& number : vector) number = 0;
        }
    }
}

template <int N, typename Number>
__device__ inline void store_row(const float (&x)[HELD], int width, Number* row) {
#pragma unroll
    for (int i = 0; i < HELD; i += N) {
        if (column_of<N>(i) < width) store(reinterpret_cast<const float(&)[N]>(x[i]), row + column_of<N>(i));
    }
}

// s = x + (delta + bias), written to `sum`, and as it was rounded there to registers.
template <int N, typename Number>
__device__ inline void load_sum(const Number* x, const Number* delta, const float (&bias)[HELD], Number* sum, int width,
                                float (&s)[HELD]) {
    float d[HELD];
    load_row<N>(x, width, s);
    load_row<N>(delta, width, d);
#pragma unroll
    for (int i = 0; i < HELD; ++i) s[i] = (float)(Number)(s[i] + (d[i] + bias[i]));
    store_row<N>(s, width, sum);
}
