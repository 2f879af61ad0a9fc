// The id of the largest logit of each row, for greedy decoding:
//
//     id_b = the lowest j with x_bj = max_i x_bi
//
// and -1 for a row from which nothing can be chosen: a NaN, +inf, or -inf alone. So one number a
// row goes to the host, and not V of them.
//
// Work: a block a row. A thread looks at every THREADS-th number and keeps the largest and its id;
// a tree of comparisons in shared memory leaves that of the block. A NaN counts as larger than any
// number, so that it is not lost on the way.

#include "reduce.cuh"

struct Largest {
    float value;
    int id;
};

__device__ inline Largest larger(Largest a, Largest b) {
    if (a.value == b.value) return a.id < b.id ? a : b;
    return a.value > b.value || a.value != a.value ? a : b;  // b where that is NaN
}

// x (rows, width), ids (rows,)
__global__ void largest(const float* x, long long* ids, int width) {
    __shared__ Largest found[THREADS];
    const float* row = x + (long long)blockIdx.x * width;
    Largest mine = {-infinity(), width};
    for (int j = threadIdx.x; j < width; j += THREADS) mine = larger(mine, {row[j], j});
    found[threadIdx.x] = mine;
    for (int distance = THREADS / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) found[threadIdx.x] = larger(found[threadIdx.x], found[threadIdx.x + distance]);
    }
    // the comparison is false for NaN
    if (threadIdx.x == 0) ids[blockIdx.x] = fabsf(found[0].value) < infinity() ? found[0].id : -1;
}
