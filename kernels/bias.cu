// Bias: y_nj = z_nj + b_j, and backward db_j = sum over n of dy_nj (dz is dy itself).
//
// Work: a thread owns up to 16 bytes of neighbouring columns and walks down rows (columns.cuh): the
// bias is read once, the sum of a column stays in a register. At its end a block of backward writes
// its sums into its row of a table, which column_sum adds up in a fixed order. Shared memory:
// backward, the sums of the block's threads.
//
// Memory moved: forward, in place, 8 bytes an element, backward 4; half of that in bfloat16.

#include "columns.cuh"

template <typename Number, int N>
__global__ void bias_forward(Number* z, const float* bias, long long rows, int width) {
    if (own_column<N>() >= width) return;
    float b[N], y[N];
    load_bias(bias, b);
#pragma unroll 4
    for (long long row = own_row(); row < rows; row += row_step()) {
        Number* place = z + row * width + own_column<N>();
        load(place, y);
#pragma unroll
        for (int i = 0; i < N; ++i) y[i] += b[i];
        store(y, place);
    }
}

// partials (gridDim.x, width)
template <typename Number, int N>
__global__ void bias_backward(const Number* dy, float* partials, long long rows, int width) {
    float gradient[N], dbias[N] = {};
    if (own_column<N>() < width) {
#pragma unroll 4
        for (long long row = own_row(); row < rows; row += row_step()) {
            load(dy + row * width + own_column<N>(), gradient);
            // forward: y_nj = z_nj + b_j: the same bias for every row
#pragma unroll
            for (int i = 0; i < N; ++i) dbias[i] += gradient[i];
        }
    }
    store_partial_sums(dbias, partials, width);
}
