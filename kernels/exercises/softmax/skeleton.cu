// p = softmax of each row of x. Launched with 128 threads a block: a warp a row.
__global__ void softmax(const float* x, float* p, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += row * width;
    p += row * width;
    float sum = 0;
    for (int i = lane; i < width; i += 32) sum += expf(x[i]);  // TODO: relative to the largest
    // TODO: the sum of all lanes
    for (int i = lane; i < width; i += 32) p[i] = expf(x[i]) / sum;
}
