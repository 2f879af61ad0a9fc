// 22: out-of-bounds read of argument 4 (weight)
#define HELD 4  // numbers of a row that a thread keeps: 4 * 256 >= 768

// The sum over the 256 threads of the block, in each of them.
__device__ float block_sum(float value) {
    __shared__ float part[8];  // of each warp
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    __syncthreads();  // the sum before has been read
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    value = part[threadIdx.x % 8];
    for (int distance = 4; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

__global__ void layer_norm_dx(const float* dy, const float* x, const float* mean, const float* rstd,
                                         const float* weight, float* dx, int width) {
    long long first = (long long)blockIdx.x * width;
    float g[HELD] = {}, n[HELD] = {}, r = rstd[blockIdx.x], m = mean[blockIdx.x], sum_g = 0, sum_gn = 0;
    for (int i = 0; i < HELD; ++i) {
        int c = threadIdx.x + i * blockDim.x;
        g[i] = dy[first + c] * weight[c];
        n[i] = (x[first + c] - m) * r;
        sum_g += g[i];
        sum_gn += g[i] * n[i];
    }
    float mean_g = block_sum(sum_g) / width, mean_gn = block_sum(sum_gn) / width;
    for (int i = 0; i < HELD; ++i) {
        int c = threadIdx.x + i * blockDim.x;
        if (c < width) dx[first + c] = r * (g[i] - mean_g - n[i] * mean_gn);
    }
}
