// The norm of all gradients as one long vector, in two launches: norm = sqrt(sum over all tensors of g^2).
//
// 1. sums_of_squares. Work: tensor_list.cuh deals out blocks of 256 threads to pieces of 4096 elements; a thread squares 16
//    of them in float, and the block adds the threads' sums in double. Shared memory: 32 partial sums.
// 2. root_of_sum. Work: one block adds the blocks' sums, always in the same order. Shared memory: 32 partial sums.
//
// Memory moved: 4 bytes an element.

#include "reduce.cuh"
#include "tensor_list.cuh"

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

__global__ void root_of_sum(const double* sums, double* norm, long long count) {
    __shared__ double scratch[32];
    double sum = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}
