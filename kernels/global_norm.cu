// The norm of all gradients as one long vector, in two launches, and what clipping multiplies them
// with. The gradients are sums over `accumulated` batches, and what counts is their mean:
//
//     norm = sqrt(sum over all tensors of g^2) / accumulated        scale = min(1, max_norm / norm) / accumulated
//
// Both stay on the device. Where the norm is not finite the scale is NaN, at which adamw.cu changes
// nothing.
//
// 1. sums_of_squares. Work: tensor_list.cuh deals out blocks of 256 threads to pieces of 4096
//    elements; a thread squares 16 of them in float, and the block adds the threads' sums in double.
//    Shared memory: 32 partial sums.
// 2. root_of_sum. Work: one block adds the blocks' sums, always in the same order. Shared memory:
//    32 partial sums.
//
// Memory moved: 4 bytes an element.

#include "reduce.cuh"
#include "tensor_list.cuh"

#define NOT_A_NUMBER __int_as_float(0x7fffffff)

// sums (gridDim.x,)
__global__ void sums_of_squares(const float* const* arrays, const long long* layout, double* sums, int tensors) {
    __shared__ double scratch[32];
    Piece piece = piece_of_block(layout, tensors);
    const float* array = arrays[piece.tensor];
    float squares = 0;
#pragma unroll 4
    for (long long i = piece.start + threadIdx.x; i < piece.end; i += blockDim.x) squares += array[i] * array[i];
    double sum = block_sum((double)squares, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// max_norm = 0: no limit
__global__ void root_of_sum(const double* sums, double* norm, float* scale, long long count, float max_norm,
                            int accumulated) {
    __shared__ double scratch[32];
    double sum = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x != 0) return;
    double length = sqrt(sum) / accumulated;
    double clipped = max_norm > 0 && length > max_norm ? max_norm / length : 1;
    *norm = length;
    *scale = isfinite(length) ? (float)(clipped / accumulated) : NOT_A_NUMBER;
}
