// Philox4x64-10: random numbers without a state, so that a thread computes the ones that belong to
// its element.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Ten
// rounds of
//
//     (h0, l0) = M0 c0        (h1, l1) = M1 c2              products of 128 bits: upper and lower half
//     c = (h1 ^ c1 ^ k0,  l1,  h0 ^ c3 ^ k1,  l0)
//
// with the key raised by (W0, W1) between rounds turn a counter into four random words. The stream
// of a key is the same as numpy.random.Philox(key=...).random_raw and as minillm.backend.Stream:
// word i is word i % 4 of counter 1 + i / 4 (NumPy raises the counter before it computes the first
// block).

#pragma once

typedef unsigned long long philox_word;  // 64 bits

struct PhiloxWords {
    philox_word word[4];
};

// Words 4 block, ..., 4 block + 3 of the stream of (key0, key1).
__device__ inline PhiloxWords philox_words(philox_word key0, philox_word key1, philox_word block) {
    philox_word c0 = 1 + block, c1 = 0, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const philox_word multiplier0 = 0xD2E7470EE14C6C93ull, multiplier1 = 0xCA5A826395121157ull;
        philox_word high0 = __umul64hi(multiplier0, c0), low0 = multiplier0 * c0;
        philox_word high1 = __umul64hi(multiplier1, c2), low1 = multiplier1 * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15ull;  // the golden ratio
        key1 += 0xBB67AE8584CAA73Bull;  // sqrt(3) - 1
    }
    PhiloxWords words = {{c0, c1, c2, c3}};
    return words;
}

// Half h of the stream cut into 32-bit numbers, low half first: element h % 8 of words 4 block,
// ..., where block = h / 8.
__device__ inline unsigned int philox_half(const PhiloxWords& words, int index) {
    return (unsigned int)(words.word[index / 2] >> (index % 2 ? 32 : 0));
}
