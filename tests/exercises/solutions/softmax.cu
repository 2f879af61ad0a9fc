__global__ void softmax(const float* x, float* p, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float own[8], largest = -INFINITY, sum = 0;
    for (int k = 0; k < 8; ++k) {
        int i = lane + 32 * k;
        own[k] = i < width ? x[row * width + i] : -INFINITY;
        largest = fmaxf(largest, own[k]);
    }
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, d));
    for (int k = 0; k < 8; ++k) sum += own[k] = expf(own[k] - largest);
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    for (int k = 0; k < 8; ++k)
        if (lane + 32 * k < width) p[row * width + lane + 32 * k] = own[k] / sum;
}
