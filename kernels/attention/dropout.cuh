// Dropout of attention probabilities: the factor of element (b, h, i, j) is 1 / (1 - p) if the
// 32-bit number
//
//     n = ((b H + h) T + i) T + j
//
// of the stream is at least p 2^32, else 0. Nothing is stored between forward and backward: both
// compute it from n. One block of Philox gives eight numbers that are neighbours along j, so a
// thread computes a run of them, as bits, and the threads of a warp exchange the bits by shuffles.

#pragma once

#include "philox.cuh"
#include "reduce.cuh"

// The last argument of every kernel that drops; arguments.py has the same fields.
struct Dropout {
    unsigned long long key0, key1, threshold;  // threshold = p 2^32; 0 is no dropout
    long long first;                           // n of the first element of the first batch entry
    float scale;                               // 1 / (1 - p)
};

// Bit c says whether element n + c is kept, c < COUNT <= 32.
template <int COUNT>
__device__ inline unsigned kept_bits(const Dropout& drop, long long n) {
    PhiloxWords words = {};
    unsigned bits = 0;
    int half = (drop.first + n) % 8;
    long long block = (drop.first + n) / 8;
    for (int c = 0; c < COUNT; ++c, ++half) {
        if (c == 0 || half == 8) words = philox_words(drop.key0, drop.key1, c == 0 ? block : ++block);
        half %= 8;
        // Comparisons: with an index known at run time only, the words would be in local memory.
        unsigned long long low = half < 2 ? words.word[0] : words.word[1], high = half < 6 ? words.word[2] : words.word[3];
        unsigned long long word = half < 4 ? low : high;
        unsigned number = (unsigned)(half % 2 ? word >> 32 : word);
        bits |= (unsigned)(number >= drop.threshold) << c;
    }
    return bits;
}

// The factor of element n.
__device__ inline float dropout_factor(const Dropout& drop, long long n) {
    return !drop.threshold ? 1 : kept_bits<1>(drop, n) ? drop.scale : 0;
}

// A tile of 16 rows i = row0 ... by N columns j = column0 ..., computed by a warp: a lane has N / 2
// bits of it.
template <int N>
struct KeptTile {
    unsigned bits = 0;

    __device__ KeptTile(const Dropout& drop, long long head, int time, int row0, int column0) {
        if (!drop.threshold) return;
        int lane = threadIdx.x % 32, row = row0 + lane / 2, column = column0 + lane % 2 * (N / 2);
        bits = kept_bits<N / 2>(drop, (head * time + row) * time + column);
    }
    // The factor of (row0 + row, column0 + column). All lanes of the warp call it together.
    __device__ float factor(const Dropout& drop, int row, int column) const {
        if (!drop.threshold) return 1;
        unsigned run = __shfl_sync(ALL_LANES, bits, 2 * row + column / (N / 2));
        return run >> column % (N / 2) & 1 ? drop.scale : 0;
    }
};

// The same for a transposed tile: N rows i = row0 ..., 16 columns j = column0 ...; N is 16 or 32.
template <int N>
struct KeptTransposedTile {
    unsigned bits = 0;

    KeptTransposedTile() = default;
    __device__ KeptTransposedTile(const Dropout& drop, long long head, int time, int row0, int column0) {
        if (!drop.threshold) return;
        int lane = threadIdx.x % 32, row = row0 + lane % N, column = column0 + lane / N * (N / 2);
        bits = kept_bits<N / 2>(drop, (head * time + row) * time + column);
    }
    __device__ float factor(const Dropout& drop, int row, int column) const {
        if (!drop.threshold) return 1;
        unsigned run = __shfl_sync(ALL_LANES, bits, row + N * (column / (N / 2)));
        return run >> column % (N / 2) & 1 ? drop.scale : 0;
    }
};
