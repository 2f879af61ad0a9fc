// The second stage of a sum over rows: out_c = sum_p partials_pc, partials (count, width).
//
// A gradient such as that of a bias is a sum over all rows of a batch. In the first stage each block leaves one row of
// partial sums; adding those with atomicAdd would give other last digits in every run. This kernel adds them in a fixed
// order.
//
// Work: blocks of 32 x 8 threads, 32 columns a block; thread (x, y) adds the rows y, y + 8, ... of column x, so that a
// warp reads 128 bytes side by side. Shared memory: the 8 sums of each column.

#pragma once

__global__ void column_sum(const float* partials, float* out, int count, int width) {
    __shared__ float sums[8][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < width) {
        for (int row = threadIdx.y; row < count; row += 8) sum += partials[(long long)row * width + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int y = 1; y < 8; ++y) sum += sums[y][threadIdx.x];
        out[column] = sum;
    }
}
