// 1
__global__ void matmul_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    for (int i = threadIdx.x; i < 64 * 64; i += 256) {
        int row = blockIdx.y * 64 + i / 64, column = blockIdx.x * 64 + i % 64;
        if (row >= m || column >= n) continue;
        float sum = 0;
        for (int j = 0; j < k; ++j) sum += a[row * k + j] * b[j * n + column];
        c[row * n + column] = sum;
    }
}
