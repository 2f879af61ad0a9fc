// Dropout: y_n = x_n / (1 - p) where number `first` + n (of 32 bits) of the stream is at least p
// 2^32, else 0. Backward is the same function of dy: the mask is computed again from the key, and
// nothing is kept.
//
// Work: a thread computes one block of Philox, four words of 64 bits, which is eight numbers in a
// row. Shared memory: none. Memory moved: 8 bytes an element, 4 in bfloat16; the ten rounds of
// Philox, for eight elements, hide behind it.

#include <cuda_bf16.h>

#include "philox.cuh"

template <typename Number>
__global__ void dropout(const Number* __restrict__ x, Number* __restrict__ y, unsigned long long key0, unsigned long long key1,
                        unsigned long long threshold, float scale, long long first, long long count) {
    long long block = first / 8 + (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (8 * block >= first + count) return;
    PhiloxWords words = philox_words(key0, key1, block);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        long long n = 8 * block + i - first;
        if (0 <= n && n < count) y[n] = (Number)(philox_half(words, i) >= threshold ? (float)x[n] * scale : 0.0f);
    }
}
