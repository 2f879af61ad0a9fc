// 1
#define HELD 4  // numbers of a row that a thread keeps: 4 * 256 >= 768

// The sum over all threads of the block, in each of them.
__device__ float block_sum(float value) {
    __shared__ float part[256];
    __syncthreads();
    part[threadIdx.x] = value;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    return part[0];
}

__global__ void layer_norm_dx(const float* dy, const float* x, const float* mean, const float* rstd,
                                         const float* weight, float* dx, int width) {
    long long first = (long long)blockIdx.x * width;
    float g[HELD] = {}, n[HELD] = {}, r = rstd[blockIdx.x], m = mean[blockIdx.x], sum_g = 0, sum_gn = 0;
    for (int i = 0; i < HELD; ++i) {
        int c = threadIdx.x + i * blockDim.x;
        if (c >= width) continue;
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
