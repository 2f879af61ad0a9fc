__global__ void scan(const float* x, float* y, int width) {
    __shared__ float sums[8];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float before = 0;  // the sum of all parts before
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    for (int start = 0; start < width; start += 256) {
        int i = start + threadIdx.x;
        float value = i < width ? x[i] : 0;
        for (int d = 1; d < 32; d *= 2) {
            float left = __shfl_up_sync(0xffffffff, value, d);
            if (lane >= d) value += left;
        }
        if (lane == 31) sums[warp] = value;
        __syncthreads();
        float sum = lane < 8 ? sums[lane] : 0;
        value += before;
        for (int other = 0; other < 8; ++other) {
            float its = __shfl_sync(0xffffffff, sum, other);
            if (other < warp) value += its;
            before += its;
        }
        if (i < width) y[i] = value;
        __syncthreads();
    }
}
