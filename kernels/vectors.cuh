// Neighbouring numbers between memory and registers: 16 bytes in one access, or one number.
//
// A warp that reads 2 bytes a thread asks for 64 bytes at a time, which cannot fill the memory of a
// GPU; 16 bytes a thread are 512. load() and store() take the number of neighbours from the type of
// the register array: 4 floats or 8 bfloat16 where `from` and `to` are multiples of 16 bytes, and 1
// of either where they are not. In registers all numbers are float. Weights are float whatever the
// activations are, so 8 floats are two accesses.

#pragma once

#include <cuda_bf16.h>

template <typename Number>
__device__ inline void load(const Number* from, float (&to)[1]) {
    to[0] = (float)*from;
}

template <typename Number>
__device__ inline void store(const float (&from)[1], Number* to) {
    *to = (Number)from[0];
}

__device__ inline void load(const float* from, float (&to)[4]) {
    float4 numbers = *(const float4*)from;
    to[0] = numbers.x, to[1] = numbers.y, to[2] = numbers.z, to[3] = numbers.w;
}

__device__ inline void store(const float (&from)[4], float* to) {
    *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
}

__device__ inline void load(const float* from, float (&to)[8]) {
    float4 low = *(const float4*)from, high = *(const float4*)(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

__device__ inline void store(const float (&from)[8], float* to) {
    *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
    *(float4*)(to + 4) = make_float4(from[4], from[5], from[6], from[7]);
}

// A bfloat16 is the upper half of a float; the one at the lower address is the lower half of a
// word.
__device__ inline void unpack(unsigned int word, float& low, float& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}

__device__ inline unsigned int pack(float low, float high) {
    return (unsigned int)__bfloat16_as_ushort((__nv_bfloat16)high) << 16 | __bfloat16_as_ushort((__nv_bfloat16)low);
}

__device__ inline void load(const __nv_bfloat16* from, float (&to)[8]) {
    uint4 words = *(const uint4*)from;
    unpack(words.x, to[0], to[1]);
    unpack(words.y, to[2], to[3]);
    unpack(words.z, to[4], to[5]);
    unpack(words.w, to[6], to[7]);
}

__device__ inline void store(const float (&from)[8], __nv_bfloat16* to) {
    *(uint4*)to = make_uint4(pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]), pack(from[6], from[7]));
}
