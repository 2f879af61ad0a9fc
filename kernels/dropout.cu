// Dropout: y_n = x_n / (1 - p) where number `first` + n (of 32 bits) of the stream is at least p
// 2^32, else 0. Backward is the same function of dy: the mask is computed again from the key, and
// nothing is kept.
//
// Work: a thread computes one block of Philox, four words of 64 bits, which is eight numbers in a
// row. It reads and writes them at once, 16 bytes an access, unless N = 1: then the array does not
// begin at such an eight, or not at a multiple of 16 bytes. Shared memory: none. Memory moved: 8
// bytes an element, 4 in bfloat16; the ten rounds of Philox, for eight elements, hide behind it.

#include "philox.cuh"
#include "vectors.cuh"

template <typename Number, int N>
__global__ void dropout(const Number* __restrict__ x, Number* __restrict__ y, unsigned long long key0, unsigned long long key1,
                        unsigned long long threshold, float scale, long long first, long long count) {
    long long block = first / 8 + (long long)blockIdx.x * blockDim.x + threadIdx.x, start = 8 * block - first;
    if (start >= count) return;
    PhiloxWords words = philox_words(key0, key1, block);
    if (N > 1 && start >= 0 && start + 8 <= count) {
        float numbers[8];
        load(x + start, numbers);
#pragma unroll
        for (int i = 0; i < 8; ++i) numbers[i] = philox_half(words, i) >= threshold ? numbers[i] * scale : 0.0f;
        store(numbers, y + start);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        long long n = start + i;
        if (0 <= n && n < count) y[n] = (Number)(philox_half(words, i) >= threshold ? (float)x[n] * scale : 0.0f);
    }
}
