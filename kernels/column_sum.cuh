// The second stage of sums over rows: out_c = sum_p partials_pc, for up to three tables of partial
// sums (count, width), which lie one after the other.
//
// A gradient such as that of a bias is a sum over all rows of a batch. In the first stage each
// block writes one row of partial sums. Adding those with atomicAdd would give other last digits in
// every run; this kernel adds them in a fixed order.
//
// Work: blocks of COLUMNS x ADDENDS threads; thread (x, y) adds the rows y, y + ADDENDS, ... of
// column x, so that a warp reads 128 bytes side by side; blockIdx.y picks the table. Shared memory:
// the ADDENDS sums of each column.

#pragma once

__global__ void column_sum(const float* partials, float* first_out, float* second_out, float* third_out, int count,
                           int width) {
    __shared__ float sums[ADDENDS][COLUMNS];
    float* out = blockIdx.y == 0 ? first_out : blockIdx.y == 1 ? second_out : third_out;
    int column = blockIdx.x * COLUMNS + threadIdx.x;
    long long table = (long long)blockIdx.y * count * width;
    float sum = 0;
    if (column < width) {
        for (int row = threadIdx.y; row < count; row += ADDENDS) sum += partials[table + (long long)row * width + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int y = 1; y < ADDENDS; ++y) sum += sums[y][threadIdx.x];
        out[column] = sum;
    }
}
