// Attention, rung 5 (flash on tensor cores): the products are matrix instructions.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//     backward    A_i = sum_d dY_id Y_id        dP = dY V^T        dS = P (dP - A)
//                 dV = P^T dY        dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Dao, "FlashAttention-2" (2023); the order of the loops is that of rung 4, and online.cu derives it.
//
// The idea of this rung: a warp multiplies a 16 x 16 by a 16 x 8 matrix in one instruction (mma.cuh), many times faster than
// with the float units, if it takes operands of fewer bits. Two kinds are here: bfloat16 arrays as they are, and float32
// arrays whose numbers are rounded to TF32 (10 bits of mantissa) on their way into the product. Sums, softmax and L are
// float32 in both. Two more things keep the tensor cores fed:
//   - the result of S = Q K^T lies in registers just as the first operand of P V has to, so P never leaves them;
//   - tiles are double buffered: while one is used the next is on its way (async_copy.cuh).
//
// What it costs, for a head: the operations of rung 4, of which only softmax and masks are left to the float units. Memory:
// forward reads K and V once for every 16 WARPS queries. P and dS are rounded to the operand's type before they are
// multiplied, which the error shows: about 4e-3 in bfloat16, 5e-4 in TF32.
// What it gained over rung 4: not measured on a GPU yet.
//
// Work: a warp owns 16 rows (queries; keys for dK and dV), a block of 4 or 8 warps 16 for each; the rows of the other side
// stream by in tiles of N. With g = lane / 4 and t = lane % 4, a lane has of each 16 x 8 result the rows g and g + 8, and of
// these the columns 2t and 2t + 1. blockIdx.x counts heads over the batch, blockIdx.y the rows, those with most work first.
// Shared memory: the rows owned and two tiles of each streamed matrix, every row 16 bytes longer than it has to be, so that
// eight rows lie in different banks.

#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "average.cuh"
#include "dropout.cuh"
#include "mma.cuh"

const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int group() { return threadIdx.x % 32 / 4; }
__device__ inline int within() { return threadIdx.x % 4; }

// What is special to each kind of operand. DEPTH: of one matrix instruction; operands are loaded for two of them.
//   rows         a[2][4]: 16 rows, columns d ... d + 2 DEPTH, of a matrix in shared memory as the first operand
//   from_sums    a[4]: the results of DEPTH columns, which lie in c[DEPTH / 8][4], as the first operand
//   columns_of_rows   b[4]: columns d ... d + 2 DEPTH of 8 rows: the second operand of A B^T
//   columns      b[4]: 16 columns of DEPTH rows: the second operand of A B, for two instructions side by side
struct Bf16 {
    typedef __nv_bfloat16 Number;
    static const int DEPTH = 16, PAD = 8;

    static __device__ void rows(unsigned (&a)[2][4], const Number* tile, int stride, int d) {
        int lane = threadIdx.x % 32;
        const Number* row = tile + lane % 16 * stride + d + lane / 16 * 8;
        ldmatrix_x4(a[0], row);
        ldmatrix_x4(a[1], row + 16);
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride, int d) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4(b, tile + lane % 8 * stride + d + lane / 8 * 8);
    }
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride, int d) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4_trans(b, tile + lane % 16 * stride + d + lane / 16 * 8);
    }
    static __device__ unsigned pair(float low, float high) {
        return __bfloat16_as_ushort(__float2bfloat16_rn(low)) | (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
    }
    static __device__ void from_sums(unsigned (&a)[4], const float (*c)[4]) {
        a[0] = pair(c[0][0], c[0][1]);
        a[1] = pair(c[0][2], c[0][3]);
        a[2] = pair(c[1][0], c[1][1]);
        a[3] = pair(c[1][2], c[1][3]);
    }
    static __device__ void multiply(float (&c)[4], const unsigned* a, const unsigned* b) { mma_m16n8k16_bf16(c, a, b, c); }
    static __device__ void store(Number* to, float x, float y) { *(__nv_bfloat162*)to = __floats2bfloat162_rn(x, y); }
};

struct Tf32 {
    typedef float Number;
    static const int DEPTH = 8, PAD = 4;

    static __device__ void rows(unsigned (&a)[2][4], const Number* tile, int stride, int d) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Number* corner = tile + group() * stride + d + half * DEPTH + within();
            a[half][0] = to_tf32(corner[0]);
            a[half][1] = to_tf32(corner[8 * stride]);
            a[half][2] = to_tf32(corner[4]);
            a[half][3] = to_tf32(corner[8 * stride + 4]);
        }
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride, int d) {
        const Number* corner = tile + group() * stride + d + within();
#pragma unroll
        for (int n = 0; n < 4; ++n) b[n] = to_tf32(corner[4 * n]);
    }
    // The instruction's inner index t stands for row 2t and t + 4 for row 2t + 1, in from_sums too: a sum has no order, and
    // so the results need not change lanes to become an operand.
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride, int d) {
        const Number* corner = tile + 2 * within() * stride + d + group();
        b[0] = to_tf32(corner[0]);
        b[1] = to_tf32(corner[stride]);
        b[2] = to_tf32(corner[8]);
        b[3] = to_tf32(corner[stride + 8]);
    }
    static __device__ void from_sums(unsigned (&a)[4], const float (*c)[4]) {
        a[0] = to_tf32(c[0][0]);
        a[1] = to_tf32(c[0][2]);
        a[2] = to_tf32(c[0][1]);
        a[3] = to_tf32(c[0][3]);
    }
    static __device__ void multiply(float (&c)[4], const unsigned* a, const unsigned* b) { mma_m16n8k8_tf32(c, a, b, c); }
    static __device__ void store(Number* to, float x, float y) { *(float2*)to = make_float2(x, y); }
};

// Start to copy: tile[r][d] = matrix[first + r][d] for r < ROWS; 0 where the matrix has ended.
template <class Operand, int D, int ROWS>
__device__ inline void load_rows(AsyncCopies& copies, typename Operand::Number* tile, const typename Operand::Number* matrix,
                                 int first, int time) {
    const int CHUNK = 16 / sizeof(typename Operand::Number), CHUNKS = D / CHUNK;  // numbers in 16 bytes, of them in a row
    for (int n = threadIdx.x; n < ROWS * CHUNKS; n += blockDim.x) {
        int r = n / CHUNKS, d = n % CHUNKS * CHUNK;
        bool inside = first + r < time;
        copies.start(tile + r * (D + Operand::PAD) + d, matrix + (long long)(inside ? first + r : 0) * D + d, inside);
    }
}

// s = a b^T: 16 rows of a, N rows of b, both in shared memory
template <class Operand, int D, int N>
__device__ inline void products_of_rows(float (&s)[N / 8][4], const typename Operand::Number* a,
                                        const typename Operand::Number* b) {
    const int STRIDE = D + Operand::PAD;
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = 0;
#pragma unroll
    for (int d = 0; d < D; d += 2 * Operand::DEPTH) {
        unsigned a_operand[2][4];
        Operand::rows(a_operand, a, STRIDE, d);
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
            unsigned b_operand[4];
            Operand::columns_of_rows(b_operand, b + 8 * n * STRIDE, STRIDE, d);
            Operand::multiply(s[n], a_operand[0], b_operand);
            Operand::multiply(s[n], a_operand[1], b_operand + 2);
        }
    }
}

// o += w v: w is 16 x N in registers, v has N rows in shared memory
template <class Operand, int D, int N>
__device__ inline void add_weighted_rows(float (&o)[D / 8][4], const float (&w)[N / 8][4],
                                         const typename Operand::Number* v) {
    const int STRIDE = D + Operand::PAD;
#pragma unroll
    for (int j = 0; j < N; j += Operand::DEPTH) {
        unsigned a_operand[4];
        Operand::from_sums(a_operand, &w[j / 8]);
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            unsigned b_operand[4];
            Operand::columns(b_operand, v + j * STRIDE, STRIDE, d);
            Operand::multiply(o[d / 8], a_operand, b_operand);
            Operand::multiply(o[d / 8 + 1], a_operand, b_operand + 2);
        }
    }
}

// matrix[row ...][...] = o times factor[0] for the row g of the warp's 16, factor[1] for the row g + 8.
template <class Operand, int D>
__device__ inline void store_rows(typename Operand::Number* matrix, const float (&o)[D / 8][4], const float (&factor)[2],
                                  int row, int time) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        if (i >= time) continue;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            float x = o[n][2 * half] * factor[half], y = o[n][2 * half + 1] * factor[half];
            Operand::store(matrix + (long long)i * D + 8 * n + 2 * within(), x, y);
        }
    }
}

// Over the 4 lanes that have columns of the same row; all get the same bits.
__device__ inline float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ inline float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), log_sum_exp (B, H, T)
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_forward(const typename Operand::Number* q, const typename Operand::Number* k, const typename Operand::Number* v,
                  typename Operand::Number* y, float* log_sum_exp, int heads, int kv_heads, int time,
                  float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                  unsigned long long threshold, long long first, float scale) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* k_tiles = q_tile + OWNED * STRIDE;  // two
    Number* v_tiles = k_tiles + 2 * TILE;       // two
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x;  // b H + h
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + 16 * warp();
    int end = causal ? min(first_query + OWNED, time) : time;
    k += head / (heads / kv_heads) * time * D;
    v += head / (heads / kv_heads) * time * D;

    float o[D / 8][4] = {}, largest[2] = {-infinity(), -infinity()}, sum[2] = {};  // largest: in units of log 2
    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, q + head * time * D, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, 0, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, 0, time);
    for (int first_key = 0, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();  // this tile is there, and nobody uses the last one any more
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, first_key + N, time);
        }
        float p[N / 8][4];
        products_of_rows<Operand, D, N>(p, q_tile + 16 * warp() * STRIDE, k_tiles + tile * TILE);
        float before[2] = {largest[0], largest[1]}, total[2] = {};
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int i = row + group() + e / 2 * 8, j = first_key + 8 * n + 2 * within() + e % 2;
                p[n][e] = j >= time || (causal && j > i) ? -infinity() : p[n][e] * (inverse_sqrt_width * LOG2_E);
                largest[e / 2] = fmaxf(largest[e / 2], p[n][e]);
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) largest[half] = row_max(largest[half]);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) total[e / 2] += p[n][e] = exp2f(p[n][e] - largest[e / 2]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float shrink = exp2f(before[half] - largest[half]);
            sum[half] = sum[half] * shrink + total[half];  // of this lane's columns
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
        }
        KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) p[n][e] *= kept.factor(drop, group() + e / 2 * 8, 8 * n + 2 * within() + e % 2);
        add_weighted_rows<Operand, D, N>(o, p, v_tiles + tile * TILE);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        sum[half] = row_sum(sum[half]);
        if (within() == 0 && i < time) log_sum_exp[head * time + i] = largest[half] * LN_2 + logf(sum[half]);
        sum[half] = 1 / sum[half];
    }
    store_rows<Operand, D>(y + head * time * D, o, sum, row, time);
}

// dq (B, H, T, D); average (B, H, T) is A. A block owns 16 WARPS queries, the keys stream by.
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_backward_queries(const typename Operand::Number* q, const typename Operand::Number* k,
                           const typename Operand::Number* v, const typename Operand::Number* dy, const float* log_sum_exp,
                           const float* average, typename Operand::Number* dq, int heads, int kv_heads, int time,
                           float inverse_sqrt_width, int causal, unsigned long long key0, unsigned long long key1,
                           unsigned long long threshold, long long first, float scale) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* dy_tile = q_tile + OWNED * STRIDE;
    Number* k_tiles = dy_tile + OWNED * STRIDE;
    Number* v_tiles = k_tiles + 2 * TILE;
    Dropout drop = {key0, key1, threshold, first, scale};
    long long head = blockIdx.x;
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + 16 * warp();
    int end = causal ? min(first_query + OWNED, time) : time;
    k += head / (heads / kv_heads) * time * D;
    v += head / (heads / kv_heads) * time * D;

    float sum[D / 8][4] = {}, log_sum[2], row_average[2], dq_factor[2] = {inverse_sqrt_width, inverse_sqrt_width};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        log_sum[half] = i < time ? log_sum_exp[head * time + i] * LOG2_E : 0;
        row_average[half] = i < time ? average[head * time + i] : 0;
    }
    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, q + head * time * D, first_query, time);
    load_rows<Operand, D, OWNED>(copies, dy_tile, dy + head * time * D, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, 0, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, 0, time);
    for (int first_key = 0, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, first_key + N, time);
        }
        float p[N / 8][4], ds[N / 8][4];
        products_of_rows<Operand, D, N>(p, q_tile + 16 * warp() * STRIDE, k_tiles + tile * TILE);
        // forward: y = dropped @ v
        products_of_rows<Operand, D, N>(ds, dy_tile + 16 * warp() * STRIDE, v_tiles + tile * TILE);
        KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int i = row + group() + e / 2 * 8, column = 8 * n + 2 * within() + e % 2, j = first_key + column;
                bool masked = j >= time || (causal && j > i);
                float probability = masked ? 0 : exp2f(p[n][e] * (inverse_sqrt_width * LOG2_E) - log_sum[e / 2]);
                // forward: p = softmax(s), dropped = p * factor
                float factor = kept.factor(drop, group() + e / 2 * 8, column);
                ds[n][e] = probability * (ds[n][e] * factor - row_average[e / 2]);
            }
        // forward: s = q @ k^T / sqrt(D)
        add_weighted_rows<Operand, D, N>(sum, ds, k_tiles + tile * TILE);
    }
    store_rows<Operand, D>(dq + head * time * D, sum, dq_factor, row, time);
}

// dk, dv (B, H_kv, T, D). A block owns 16 WARPS keys, the queries of all heads of the group stream by, in order.
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_backward_keys(const typename Operand::Number* q, const typename Operand::Number* k,
                        const typename Operand::Number* v, const typename Operand::Number* dy, const float* log_sum_exp,
                        const float* average, typename Operand::Number* dk, typename Operand::Number* dv, int heads,
                        int kv_heads, int time, float inverse_sqrt_width, int causal, unsigned long long key0,
                        unsigned long long key1, unsigned long long threshold, long long first, float scale) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* k_tile = (Number*)shared;
    Number* v_tile = k_tile + OWNED * STRIDE;
    Number* q_tiles = v_tile + OWNED * STRIDE;
    Number* dy_tiles = q_tiles + 2 * TILE;
    Dropout drop = {key0, key1, threshold, first, scale};
    long long kv_head = blockIdx.x;  // b H_kv + h_kv
    int first_key = blockIdx.y * OWNED, row = first_key + 16 * warp(), members = heads / kv_heads;
    int start = causal ? first_key / N * N : 0, tiles = (time - start + N - 1) / N;  // of queries, for each head

    float dk_sum[D / 8][4] = {}, dv_sum[D / 8][4] = {};
    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, k_tile, k + kv_head * time * D, first_key, time);
    load_rows<Operand, D, OWNED>(copies, v_tile, v + kv_head * time * D, first_key, time);
    load_rows<Operand, D, N>(copies, q_tiles, q + kv_head * members * time * D, start, time);
    load_rows<Operand, D, N>(copies, dy_tiles, dy + kv_head * members * time * D, start, time);
    for (int step = 0; step < members * tiles; ++step) {
        long long head = kv_head * members + step / tiles;
        int first_query = start + step % tiles * N, tile = step % 2;
        copies.wait();
        __syncthreads();
        if (step + 1 < members * tiles) {
            long long next = (kv_head * members + (step + 1) / tiles) * time * D;
            int next_query = start + (step + 1) % tiles * N;
            load_rows<Operand, D, N>(copies, q_tiles + (tile ^ 1) * TILE, q + next, next_query, time);
            load_rows<Operand, D, N>(copies, dy_tiles + (tile ^ 1) * TILE, dy + next, next_query, time);
        }
        float p[N / 8][4], ds[N / 8][4];  // transposed: rows are keys, columns are queries
        products_of_rows<Operand, D, N>(p, k_tile + 16 * warp() * STRIDE, q_tiles + tile * TILE);
        products_of_rows<Operand, D, N>(ds, v_tile + 16 * warp() * STRIDE, dy_tiles + tile * TILE);
        KeptTransposedTile<N> kept(drop, head, time, first_query, row);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                int column = 8 * n + 2 * within() + c, i = first_query + column;
                float log_sum = i < time ? log_sum_exp[head * time + i] * LOG2_E : 0;
                float row_average = i < time ? average[head * time + i] : 0;
#pragma unroll
                for (int e = c; e < 4; e += 2) {
                    int j = row + group() + e / 2 * 8;
                    bool masked = i >= time || (causal && j > i);
                    float probability = masked ? 0 : exp2f(p[n][e] * (inverse_sqrt_width * LOG2_E) - log_sum);
                    float factor = kept.factor(drop, column, group() + e / 2 * 8);
                    p[n][e] = probability * factor;
                    // forward: p = softmax(s), dropped = p * factor
                    ds[n][e] = probability * (ds[n][e] * factor - row_average);
                }
            }
        // forward: y = dropped @ v
        add_weighted_rows<Operand, D, N>(dv_sum, p, dy_tiles + tile * TILE);
        // forward: s = q @ k^T / sqrt(D)
        add_weighted_rows<Operand, D, N>(dk_sum, ds, q_tiles + tile * TILE);
    }
    float dk_factor[2] = {inverse_sqrt_width, inverse_sqrt_width}, dv_factor[2] = {1, 1};
    store_rows<Operand, D>(dk + kv_head * time * D, dk_sum, dk_factor, row, time);
    store_rows<Operand, D>(dv + kv_head * time * D, dv_sum, dv_factor, row, time);
}
