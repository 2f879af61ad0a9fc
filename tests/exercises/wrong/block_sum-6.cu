// 4: it adds to sums, which is not 0 before the launch
__global__ void block_sum(const float* x, float* sums, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&sums[blockIdx.x], x[i]);
}
