// dx = r (g - mean(g) - n mean(g n)) with g = dy weight, n = (x - mean) r and r = rstd.
// A block of 256 threads has a row of at most 1,024 numbers; there are as many blocks as rows.

// The sum of `value` over all threads of the block, which every thread receives.
__device__ float block_sum(float value) {
    __shared__ float part[8];  // of each warp
    // TODO: first the 32 lanes of a warp, with __shfl_xor_sync; then the warps, through `part`
    return value;
}

__global__ void layer_norm_dx(const float* dy, const float* x, const float* mean, const float* rstd,
                              const float* weight, float* dx, int width) {
    long long first = (long long)blockIdx.x * width;  // of the row
    float r = rstd[blockIdx.x], m = mean[blockIdx.x], sum_g = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) sum_g += dy[first + c] * weight[c];
    float mean_g = block_sum(sum_g) / width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        dx[first + c] = r * (dy[first + c] * weight[c] - mean_g);  // TODO: the term along n
    }
}
