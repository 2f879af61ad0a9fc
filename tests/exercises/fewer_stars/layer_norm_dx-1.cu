// 2
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

__global__ void layer_norm_dx(const float* dy, const float* x, const float* mean, const float* rstd, const float* weight, float* dx,
                              int width) {
    long long first = (long long)blockIdx.x * width;
    float r = rstd[blockIdx.x], m = mean[blockIdx.x], sum_g = 0, sum_gn = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float g = dy[first + c] * weight[c];
        sum_g += g;
        sum_gn += g * (x[first + c] - m) * r;
    }
    float mean_g = block_sum(sum_g) / width, mean_gn = block_sum(sum_gn) / width;
    for (int c = threadIdx.x; c < width; c += blockDim.x)
        dx[first + c] = r * (dy[first + c] * weight[c] - mean_g - (x[first + c] - m) * r * mean_gn);
}
