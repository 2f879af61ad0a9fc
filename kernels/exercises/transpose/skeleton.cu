// y = x transposed. Launched with 32 x 8 threads for each tile of 32 x 32 elements.
__global__ void transpose(const float* x, float* y, int rows, int columns) {
    __shared__ float tile[32][32];
    int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (row + k < rows && column < columns)
            tile[threadIdx.y + k][threadIdx.x] = x[(row + k) * columns + column];
    // TODO: wait for the whole tile, then write it along the rows of y
}
