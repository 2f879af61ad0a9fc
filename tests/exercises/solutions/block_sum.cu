__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffff, value, distance);
    return value;  // in lane 0
}

__global__ void block_sum(const float* x, float* sums, int n) {
    __shared__ float part[8];
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = warp_sum(i < n ? x[i] : 0);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = warp_sum(lane < 8 ? part[lane] : 0);
        if (lane == 0) sums[blockIdx.x] = sum;
    }
}
