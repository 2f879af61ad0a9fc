// sums[b] = the sum of the 256 elements of block b. Launched with 256 threads a block.
__global__ void block_sum(const float* x, float* sums, int n) {
    __shared__ float part[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = x[i];  // TODO: elements beyond the n-th count as 0
    // TODO: half of the threads add the numbers of the others to theirs, then half of those, ...
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
