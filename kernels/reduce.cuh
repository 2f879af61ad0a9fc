// Sums over the threads of a warp and of a block. Every thread gets the result, and it is the same
// to the bit in all of them and in every run: the order of additions is that of a tree, and no
// atomic operation changes it.

#pragma once

const unsigned int ALL_LANES = 0xffffffffu;

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

template <typename Number>
__device__ inline Number warp_sum(Number value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// One sum for each warp, then the sum of those in every warp. `scratch` holds 32 numbers in shared
// memory; it is free for use again when the function returns. The block is one-dimensional and made
// of whole warps.
template <typename Number>
__device__ inline Number block_sum(Number value, Number* scratch) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : Number(0));
    __syncthreads();
    return value;
}
