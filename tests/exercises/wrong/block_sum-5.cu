// 11: data race
__global__ void block_sum(const float* x, float* sums, int n) {
    __shared__ volatile float part[256];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    part[t] = i < n ? x[i] : 0;
    __syncthreads();
    for (int half = 128; half > 32; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();
    }
    for (int half = 32; half > 0 && t < 32; half /= 2) part[t] += part[t + half];  // as if lanes ran in step
    if (t == 0) sums[blockIdx.x] = part[0];
}
