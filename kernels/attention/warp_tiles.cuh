// The products of a warp on tensor cores: GROUPS times 16 rows of its own by a tile in shared
// memory that all warps of the block read. A row of the tile is read from shared memory once for
// all the groups. Rows in shared memory are Operand::PAD numbers longer than D, so that eight of
// them start in different banks.
//
// With g = lane / 4 and t = lane % 4, a lane has of each 16 x 8 result the rows g and g + 8, and of
// these the columns 2t and 2t + 1: e counts the four.

#pragma once

#include "async_copy.cuh"
#include "operands.cuh"
#include "reduce.cuh"

// Start to copy: tile[r][d] = matrix[first + r][d] for r < ROWS; 0 beyond the end of the matrix.
// step: from a token to the next.
template <class Operand, int D, int ROWS>
__device__ inline void load_rows(AsyncCopies& copies, typename Operand::Number* tile, const typename Operand::Number* matrix,
                                 int step, int first, int time) {
    const int CHUNK = 16 / sizeof(typename Operand::Number), CHUNKS = D / CHUNK;  // numbers in 16 bytes, of them in a row
    for (int n = threadIdx.x; n < ROWS * CHUNKS; n += blockDim.x) {
        int r = n / CHUNKS, d = n % CHUNKS * CHUNK;
        bool inside = first + r < time;
        copies.start(tile + r * (D + Operand::PAD) + d, matrix + (long long)(inside ? first + r : 0) * step + d, inside);
    }
}

// The rows of a warp, GROUPS times 16, as the first operand of A B^T. KEPT: in registers, read from
// shared memory once; else for every product.
template <class Operand, int D, int GROUPS, bool KEPT>
struct FirstOperand {
    static const int STRIDE = D + Operand::PAD, DEPTH = Operand::DEPTH;
    const typename Operand::Number* tile;
    unsigned kept[KEPT ? D / DEPTH : 1][GROUPS][4];

    __device__ FirstOperand(const typename Operand::Number* tile) : tile(tile) {
#pragma unroll
        for (int d = 0; KEPT && d < D; d += DEPTH) read(kept[d / DEPTH], d);
    }
    // The columns d ... d + DEPTH - 1 of each group.
    __device__ const unsigned (&at(int d))[GROUPS][4] {
        if (!KEPT) read(kept[0], d);
        return kept[KEPT ? d / DEPTH : 0];
    }
    __device__ void read(unsigned (&a)[GROUPS][4], int d) const {
#pragma unroll
        for (int m = 0; m < GROUPS; ++m) Operand::rows(a[m], tile + 16 * m * STRIDE + d, STRIDE);
    }
};

// s = a b^T: the rows of a warp by N rows of b in shared memory
template <class Operand, int D, int N, int GROUPS, bool KEPT>
__device__ inline void matmul_abt(float (&s)[GROUPS][N / 8][4], FirstOperand<Operand, D, GROUPS, KEPT>& a,
                                  const typename Operand::Number* b) {
    const int STRIDE = D + Operand::PAD;
#pragma unroll
    for (int m = 0; m < GROUPS; ++m)
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
#pragma unroll
    for (int d = 0; d < D; d += Operand::DEPTH) {
        const unsigned(&a_operand)[GROUPS][4] = a.at(d);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            unsigned b_operand[4];
            Operand::columns_of_rows(b_operand, b + 8 * n * STRIDE + d, STRIDE);
#pragma unroll
            for (int m = 0; m < GROUPS; ++m) {
                Operand::multiply(s[m][n], a_operand[m], b_operand);
                Operand::multiply(s[m][n + 1], a_operand[m], b_operand + 2);
            }
        }
    }
}

// o += w v: the rows of a warp, N numbers each, in registers; v has N rows in shared memory
template <class Operand, int D, int N, int GROUPS>
__device__ inline void add_matmul_ab(float (&o)[GROUPS][D / 8][4], const float (&w)[GROUPS][N / 8][4],
                                     const typename Operand::Number* v) {
    const int STRIDE = D + Operand::PAD;
#pragma unroll
    for (int j = 0; j < N; j += Operand::DEPTH) {
        unsigned a_operand[GROUPS][4];
#pragma unroll
        for (int m = 0; m < GROUPS; ++m) Operand::from_sums(a_operand[m], &w[m][j / 8]);
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            unsigned b_operand[4];
            Operand::columns(b_operand, v + j * STRIDE + d, STRIDE);
#pragma unroll
            for (int m = 0; m < GROUPS; ++m) {
                Operand::multiply(o[m][d / 8], a_operand[m], b_operand);
                Operand::multiply(o[m][d / 8 + 1], a_operand[m], b_operand + 2);
            }
        }
    }
}

// matrix[row ...][...] = factor[m][half] o[m][...]: of a warp's rows, 16 m + 8 half + g is this
// lane's.
template <class Operand, int D, int GROUPS>
__device__ inline void store_rows(typename Operand::Number* matrix, int step, const float (&o)[GROUPS][D / 8][4],
                                  const float (&factor)[GROUPS][2], int row, int time) {
#pragma unroll
    for (int m = 0; m < GROUPS; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = row + 16 * m + 8 * half + group();
            if (i >= time) continue;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                float x = o[m][n][2 * half] * factor[m][half], y = o[m][n][2 * half + 1] * factor[m][half];
                Operand::store(matrix + (long long)i * step + 8 * n + 2 * within(), x, y);
            }
        }
}

// Over the 4 lanes that have columns of the same row. All get the same bits.
__device__ inline float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ inline float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}
