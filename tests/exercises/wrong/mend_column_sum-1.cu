// 10: uninitialised read of shared memory
// dbias[c] = sum of dy[r][c] over the rows. Blocks of 32 x 8 threads have 32 columns.
__global__ void mend_column_sum(const float* dy, float* dbias, int rows, int width) {
    __shared__ float part[8][32];
    int x = threadIdx.x, y = threadIdx.y, c = blockIdx.x * 32 + x;
    float sum = 0;
    for (int r = y; c < width && r < rows; r += 8) sum += dy[r * width + c];
    part[y][x] = sum;
    for (int half = 4; half > 0; half /= 2) {
        if (y < half) part[y][x] += part[y + half][x];
        __syncthreads();
    }
    if (y == 0 && c < width) dbias[c] = part[0][x];
}
