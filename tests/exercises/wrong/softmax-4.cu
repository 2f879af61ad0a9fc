// 12: p[
__global__ void softmax(const float* x, float* p, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += row * width;
    p += row * width;
    float m = -INFINITY, sum = 0;
    for (int i = lane; i < width; i += 32) m = fmaxf(m, x[i]);
    for (int d = 16; d > 0; d /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, d));
    for (int i = lane; i < width; i += 32) sum += expf(x[i] - m);
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    for (int i = lane; i < width; i += 32) p[i] = __expf(x[i] - m) * sum;
}
