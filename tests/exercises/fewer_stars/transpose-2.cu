// 1
__global__ void transpose(const float* x, float* y, int rows, int columns) {
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (row + k < rows && column < columns) y[column * rows + row + k] = x[(row + k) * columns + column];
}
