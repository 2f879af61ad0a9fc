// Attention, rung 2 (tiled): the products go through shared memory.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = softmax(S) over j        Y = P V
//     backward    dP = dY V^T        dS = P (dP - sum_j dP P) / sqrt(D)
//                 dV = P^T dY        dQ = dS K        dK = dS^T Q
//
// The idea of this rung: in a matrix product every number is used many times, but rung 1 loads it
// again for each use. Here a block computes a tile of TILE x TILE results. It loads TILE x TILE
// numbers of each factor into shared memory, uses each of them TILE times, and continues with the
// next TILE steps of the sum. Tiles that the mask hides are not computed.
//
// Cost, for a head: the operations of rung 1. A 32nd of its memory reads: T^2 D / 2 bytes forward.
// The T x T matrices are as large as before, and for long sequences they now dominate: at D = 64,
// 28 T^2 bytes of matrix against 32 T^2 bytes for the products.
// Gain over rung 1: not measured on a GPU yet.
//
// Work: a block of TILE x (TILE / ROWS) threads computes a tile of TILE x TILE results; thread (x,
// y) computes column x of the rows y, y + TILE / ROWS, .... blockIdx.x counts heads over the batch,
// y the tile's rows, z its columns. Shared memory: one tile of either factor. The extra column puts
// the numbers of a tile's column into different banks.

#include "softmax.cuh"
#include "starts.cuh"

typedef float Tile[TILE][TILE + 1];

// tile[r][c] = matrix[row + r][column + c], or of the transposed matrix; 0 outside of it.
__device__ inline void load(Tile& tile, const float* matrix, int row, int column, int rows, int columns, bool transposed) {
    for (int r = threadIdx.y; r < TILE; r += TILE / ROWS) {
        int c = threadIdx.x;
        float value = row + r < rows && column + c < columns ? matrix[(long long)(row + r) * columns + column + c] : 0;
        if (transposed)
            tile[c][r] = value;
        else
            tile[r][c] = value;
    }
}

// sum[r] += the rows of a b that this thread computes.
__device__ inline void multiply(float (&sum)[ROWS], const Tile& a, const Tile& b) {
    for (int k = 0; k < TILE; ++k) {
        float b_value = b[k][threadIdx.x];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sum[r] += a[threadIdx.y + r * (TILE / ROWS)][k] * b_value;
    }
}

// matrix[row + ...][column + ...] = sum, inside of the matrix.
__device__ inline void store(float* matrix, const float (&sum)[ROWS], int row, int column, int rows, int columns) {
    int c = column + threadIdx.x;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        int i = row + threadIdx.y + r * (TILE / ROWS);
        if (i < rows && c < columns) matrix[(long long)i * columns + c] = sum[r];
    }
}

// s_ij = scale sum_d a_id b_jd; `masked` where causal and j > i, and before starts_i.  a (B, H, T,
// D), b (B, H_kv, T, D), s (B, H, T, T)
__global__ void matmul_abt(const float* a, const float* b, float* s, const int* starts, int heads, int kv_heads,
                             int time, int width, float scale, int causal, float masked) {
    __shared__ Tile a_tile, b_tile;
    long long head = blockIdx.x;  // b H + h
    int row = blockIdx.y * TILE, column = blockIdx.z * TILE;
    a += head * time * width;
    b += head / (heads / kv_heads) * time * width;
    starts = starts_of(starts, head, heads, time);
    float sum[ROWS] = {};
    bool hidden = (causal && column > row + TILE - 1) || column + TILE - 1 < first_key_of(starts, row, time);
    // forward: Y = P V: dP is this sum with a = dy, b = v, scale = 1
    for (int d = 0; d < width && !hidden; d += TILE) {
        load(a_tile, a, row, d, time, width, false);
        load(b_tile, b, column, d, time, width, true);
        __syncthreads();
        multiply(sum, a_tile, b_tile);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        int i = row + threadIdx.y + r * (TILE / ROWS), j = column + threadIdx.x;
        sum[r] = (causal && j > i) || j < first_key_of(starts, i, time) ? masked : sum[r] * scale;
    }
    store(s + head * time * time, sum, row, column, time, time);
}

// y_id = sum_j w_ij x_jd, from starts_i on and up to j = i where causal.  w (B, H, T, T), x (B, H_kv,
// T, D), y (B, H, T, D)
__global__ void matmul_ab(const float* w, const float* x, float* y, const int* starts, int heads, int kv_heads,
                             int time, int width, int causal) {
    __shared__ Tile w_tile, x_tile;
    long long head = blockIdx.x;
    int row = blockIdx.y * TILE, column = blockIdx.z * TILE;
    w += head * time * time;
    x += head / (heads / kv_heads) * time * width;
    float sum[ROWS] = {};
    int begin = first_key_of(starts_of(starts, head, heads, time), row, time) / TILE * TILE;
    // w is 0 beyond its diagonal, and before the first key that a query sees.
    int end = causal ? min(row + TILE, time) : time;
    // forward: S = Q K^T / sqrt(D): dQ is this sum with w = ds, x = k
    for (int j = begin; j < end; j += TILE) {
        load(w_tile, w, row, j, time, time, false);
        load(x_tile, x, j, column, time, width, false);
        __syncthreads();
        multiply(sum, w_tile, x_tile);
        __syncthreads();
    }
    store(y + head * time * width, sum, row, column, time, width);
}

// y_jd = sum over the query heads h of the group and over i of w_ij x_id, from i = j on where
// causal, as long as a query of the tile sees one of its keys. w (B, H, T, T), x (B, H, T, D),
// y (B, H_kv, T, D)
__global__ void matmul_atb(const float* w, const float* x, float* y, const int* starts, int heads, int kv_heads,
                               int time, int width, int causal) {
    __shared__ Tile w_tile, x_tile;
    long long kv_head = blockIdx.x;  // b H_kv + h_kv
    int row = blockIdx.y * TILE, column = blockIdx.z * TILE, group = heads / kv_heads;
    float sum[ROWS] = {};
    starts = starts_of(starts, kv_head, kv_heads, time);
    // forward: Y = P V: dV is this sum with w = dropped, x = dy
    // forward: S = Q K^T / sqrt(D): dK is this sum with w = ds, x = q
    for (int member = 0; member < group; ++member) {
        long long head = kv_head * group + member;
        // From a multiple of TILE on: the tile with the diagonal comes first.
        for (int i = causal ? row : 0; i < time && first_key_of(starts, i, time) < row + TILE; i += TILE) {
            load(w_tile, w + head * time * time, i, row, time, time, true);
            load(x_tile, x + head * time * width, i, column, time, width, false);
            __syncthreads();
            multiply(sum, w_tile, x_tile);
            __syncthreads();
        }
    }
    store(y + kv_head * time * width, sum, row, column, time, width);
}
