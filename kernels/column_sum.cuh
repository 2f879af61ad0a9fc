// The second stage of a sum over rows: out_c = sum_p partials_pc, partials (count, width).
//
// A gradient such as that of a bias is a sum over all rows of a batch. In the first stage each
// block writes one row of partial sums. Adding those with atomicAdd would give other last digits in
// every run; this kernel adds them in a fixed order.
//
// Work: blocks of COLUMNS x ADDENDS threads; thread (x, y) adds the rows y, y + ADDENDS, ... of
// column x, so that a warp reads 128 bytes side by side. Shared memory: the ADDENDS sums of each
// column.

#pragma once

__global__ void column_sum(const float* partials, float* out, int count, int width) {
    __shared__ float sums[ADDENDS][COLUMNS];
    int column = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (column < width) {
        for (int row = threadIdx.y; row < count; row += ADDENDS) sum += partials[(long long)row * width + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int y = 1; y < ADDENDS; ++y) sum += sums[y][threadIdx.x];
        out[column] = sum;
    }
}
