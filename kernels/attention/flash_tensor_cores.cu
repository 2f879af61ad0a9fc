// Attention, rung 5 (flash on tensor cores): the products are matrix instructions.
//
//     forward     S = Q K^T / sqrt(D), -inf where j > i        P = exp(S - L)        Y = P V
//     backward    delta_i = sum_d dY_id Y_id        dP = dY V^T        dS = P (dP - delta)
//                 dV = P^T dY        dQ = dS K / sqrt(D)        dK = dS^T Q / sqrt(D)
//
// Source: Dao, "FlashAttention-2" (2023); the order of the loops is that of rung 4, and online.cu
// derives it.
//
// The idea of this rung: a warp multiplies a 16 x 16 by a 16 x 8 matrix in one instruction
// (mma.cuh), many times faster than with the float units. Its operands have fewer bits. There are
// two kinds: bfloat16 arrays as they are, and float32 arrays whose numbers are rounded to TF32 (10
// bits of mantissa) when they are loaded as an operand. Sums, softmax and L are float32 in both.
// Two more things keep the tensor cores busy:
// - the result of S = Q K^T has the register layout that the first operand of P V needs, so P stays
//   in registers;
//   - tiles are double buffered: while one is used the next is copied (async_copy.cuh).
//
// Cost, for a head: the operations of rung 4, of which only softmax and masks are left to the float
// units. Memory: forward reads K and V once for every 16 WARPS queries. P and dS are rounded to the
// operand's type before they are multiplied: an error of about 4e-3 in bfloat16, 5e-4 in TF32.
// Gain over rung 4: not measured on a GPU yet.
//
// Work: a warp owns 16 rows (queries; keys for dK and dV), a block 16 for each of its 4 or 8 warps.
// Tiles of N rows of the other two matrices are loaded one after the other. With g = lane / 4 and t
// = lane % 4, a lane has of each 16 x 8 result the rows g and g + 8, and of these the columns 2t
// and 2t + 1. blockIdx.x counts heads over the batch, blockIdx.y the rows, those with most work
// first. Shared memory: the rows owned and two tiles of each of the other two matrices, every row
// PADDING bytes longer than its numbers, so that eight rows start in different banks.

#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "dropout.cuh"
#include "layout.cuh"
#include "mma.cuh"
#include "starts.cuh"

const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int group() { return threadIdx.x % 32 / 4; }
__device__ inline int within() { return threadIdx.x % 4; }

// What differs between the two kinds of operand. DEPTH: the inner size of one matrix instruction;
// operands are loaded for two of them.
//   rows             a[2][4]: 16 rows, columns d ... d + 2 DEPTH, of a matrix in shared memory, as
//                    the first operand
//   from_sums        a[4]: the results of DEPTH columns, in c[DEPTH / 8][4], as the first operand
//   columns_of_rows  b[4]: columns d ... d + 2 DEPTH of 8 rows: the second operand of A B^T
//   columns          b[4]: 16 columns of DEPTH rows: the second operand of A B, for two instructions
//                    side by side
struct Bf16 {
    typedef __nv_bfloat16 Number;
    static const int DEPTH = 16, PAD = PADDING / sizeof(Number);

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
    static __device__ float2 load(const Number* from) { return __bfloat1622float2(*(const __nv_bfloat162*)from); }
};

struct Tf32 {
    typedef float Number;
    static const int DEPTH = 8, PAD = PADDING / sizeof(Number);

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
    // The inner index t of the instruction is row 2t and t + 4 is row 2t + 1, in from_sums too: the
    // order of a sum is free, and so the results need not change lanes to become an operand.
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
    static __device__ float2 load(const Number* from) { return *(const float2*)from; }
};

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

// s = a b^T: 16 rows of a, N rows of b, both in shared memory
template <class Operand, int D, int N>
__device__ inline void matmul_abt(float (&s)[N / 8][4], const typename Operand::Number* a,
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
__device__ inline void add_matmul_ab(float (&o)[D / 8][4], const float (&w)[N / 8][4],
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

// matrix[row ...][...] = o times factor[0] for the row g of the warp's 16, factor[1] for the row g
// + 8.
template <class Operand, int D>
__device__ inline void store_rows(typename Operand::Number* matrix, int step, const float (&o)[D / 8][4],
                                  const float (&factor)[2], int row, int time) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        if (i >= time) continue;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            float x = o[n][2 * half] * factor[half], y = o[n][2 * half + 1] * factor[half];
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

// delta_i = sum_d dy_id y_id of the rows dy and y, by the 4 lanes that have columns of it. inside: of
// the matrix; y is not read if it is not.
template <class Operand, int D>
__device__ inline float row_delta(const typename Operand::Number* dy, const typename Operand::Number* y, bool inside) {
    float sum = 0;
#pragma unroll
    for (int d = 2 * within(); d < D; d += 8) {
        float2 a = Operand::load(dy + d), b = inside ? Operand::load(y + d) : make_float2(0, 0);
        sum += a.x * b.x + a.y * b.y;
    }
    return row_sum(sum);
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), lse (B, H, T) is L
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_forward(const typename Operand::Number* q, const typename Operand::Number* k, const typename Operand::Number* v,
                  typename Operand::Number* y, float* lse, Layout layout, const int* starts, int heads, int kv_heads,
                  int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* k_tiles = q_tile + OWNED * STRIDE;  // two
    Number* v_tiles = k_tiles + 2 * TILE;       // two
    long long head = blockIdx.x;  // b H + h
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + 16 * warp();
    starts = starts_of(starts, head, heads, time);
    int begin = first_key_of(starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    q = matrix_of(q, layout.q, head, heads);
    k = matrix_of(k, layout.k, head / (heads / kv_heads), kv_heads);
    v = matrix_of(v, layout.v, head / (heads / kv_heads), kv_heads);
    y = matrix_of(y, layout.y, head, heads);

    float o[D / 8][4] = {}, m[2] = {-infinity(), -infinity()}, l[2] = {};  // m in units of log 2
    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, q, layout.q.token, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, layout.k.token, begin, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, layout.v.token, begin, time);
    for (int first_key = begin, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();  // this tile is complete, and the last one is no longer read
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, layout.k.token, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, layout.v.token, first_key + N, time);
        }
        float p[N / 8][4];
        matmul_abt<Operand, D, N>(p, q_tile + 16 * warp() * STRIDE, k_tiles + tile * TILE);
        float m_old[2] = {m[0], m[1]}, total[2] = {};
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int i = row + group() + e / 2 * 8, j = first_key + 8 * n + 2 * within() + e % 2;
                bool masked = j >= time || (causal && j > i) || j < first_key_of(starts, i, time);
                p[n][e] = masked ? -infinity() : p[n][e] * (scale * LOG2_E);
                m[e / 2] = fmaxf(m[e / 2], p[n][e]);
            }
        float reference[2];  // m; where no key was seen yet 0, and all exponentials are 0
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            m[half] = row_max(m[half]);
            reference[half] = m[half] == -infinity() ? 0 : m[half];
        }
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) total[e / 2] += p[n][e] = exp2f(p[n][e] - reference[e / 2]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float alpha = exp2f(m_old[half] - reference[half]);
            l[half] = l[half] * alpha + total[half];  // of this lane's columns
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[n][2 * half] *= alpha;
                o[n][2 * half + 1] *= alpha;
            }
        }
        KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) p[n][e] *= kept.factor(drop, group() + e / 2 * 8, 8 * n + 2 * within() + e % 2);
        add_matmul_ab<Operand, D, N>(o, p, v_tiles + tile * TILE);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        l[half] = row_sum(l[half]);
        if (within() == 0 && i < time) lse[head * time + i] = m[half] * LN_2 + logf(l[half]);
        l[half] = 1 / l[half];
    }
    store_rows<Operand, D>(y, layout.y.token, o, l, row, time);
}

// dq (B, H, T, D), delta (B, H, T); lse (B, H, T) is L. A block owns 16 WARPS queries.
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_backward_queries(const typename Operand::Number* q, const typename Operand::Number* k,
                           const typename Operand::Number* v, const typename Operand::Number* y,
                           const typename Operand::Number* dy, const float* lse, float* delta,
                           typename Operand::Number* dq, Layout layout, const int* starts, int heads, int kv_heads,
                           int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* dy_tile = q_tile + OWNED * STRIDE;
    Number* k_tiles = dy_tile + OWNED * STRIDE;
    Number* v_tiles = k_tiles + 2 * TILE;
    long long head = blockIdx.x;
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + 16 * warp();
    starts = starts_of(starts, head, heads, time);
    int begin = first_key_of(starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    q = matrix_of(q, layout.q, head, heads);
    k = matrix_of(k, layout.k, head / (heads / kv_heads), kv_heads);
    v = matrix_of(v, layout.v, head / (heads / kv_heads), kv_heads);
    y = matrix_of(y, layout.y, head, heads);
    dy = matrix_of(dy, layout.dy, head, heads);
    dq = matrix_of(dq, layout.dq, head, heads);

    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, q, layout.q.token, first_query, time);
    load_rows<Operand, D, OWNED>(copies, dy_tile, dy, layout.dy.token, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, layout.k.token, begin, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, layout.v.token, begin, time);
    copies.wait();
    __syncthreads();
    float dq_sum[D / 8][4] = {}, lse_i[2], delta_i[2], dq_factor[2] = {scale, scale};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int i = row + group() + 8 * half;
        lse_i[half] = i < time ? lse[head * time + i] * LOG2_E : 0;
        delta_i[half] = row_delta<Operand, D>(dy_tile + (i - first_query) * STRIDE, y + (long long)i * layout.y.token, i < time);
        if (within() == 0 && i < time) delta[head * time + i] = delta_i[half];  // for dK
    }
    for (int first_key = begin, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, layout.k.token, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, layout.v.token, first_key + N, time);
        }
        float p[N / 8][4], ds[N / 8][4];
        matmul_abt<Operand, D, N>(p, q_tile + 16 * warp() * STRIDE, k_tiles + tile * TILE);
        // forward: Y = P V
        matmul_abt<Operand, D, N>(ds, dy_tile + 16 * warp() * STRIDE, v_tiles + tile * TILE);
        KeptTile<N> kept(drop, head, time, row, first_key);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int i = row + group() + e / 2 * 8, column = 8 * n + 2 * within() + e % 2, j = first_key + column;
                bool masked = j >= time || (causal && j > i) || j < first_key_of(starts, i, time);
                float probability = masked ? 0 : exp2f(p[n][e] * (scale * LOG2_E) - lse_i[e / 2]);
                // forward: P = exp(S - L): P meets V with the factor of dropout
                float factor = kept.factor(drop, group() + e / 2 * 8, column);
                ds[n][e] = probability * (ds[n][e] * factor - delta_i[e / 2]);
            }
        // forward: S = Q K^T / sqrt(D)
        add_matmul_ab<Operand, D, N>(dq_sum, ds, k_tiles + tile * TILE);
    }
    store_rows<Operand, D>(dq, layout.dq.token, dq_sum, dq_factor, row, time);
}

// dk, dv (B, H_kv, T, D). A block owns 16 WARPS keys and goes over the queries of all heads of its
// group, in order.
template <class Operand, int D, int WARPS, int N>
__global__ void __launch_bounds__(32 * WARPS, 1)
    flash_backward_keys(const typename Operand::Number* q, const typename Operand::Number* k,
                        const typename Operand::Number* v, const typename Operand::Number* dy, const float* lse,
                        const float* delta, typename Operand::Number* dk, typename Operand::Number* dv, Layout layout,
                        const int* starts, int heads, int kv_heads, int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int OWNED = 16 * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* k_tile = (Number*)shared;
    Number* v_tile = k_tile + OWNED * STRIDE;
    Number* q_tiles = v_tile + OWNED * STRIDE;
    Number* dy_tiles = q_tiles + 2 * TILE;
    long long kv_head = blockIdx.x;  // b H_kv + h_kv
    int first_key = blockIdx.y * OWNED, row = first_key + 16 * warp(), members = heads / kv_heads;
    int start = causal ? first_key / N * N : 0, all = (time - start + N - 1) / N, tiles = 1;  // of queries, for each head
    starts = starts_of(starts, kv_head, kv_heads, time);
    if (!starts) tiles = all;
    while (tiles < all && starts[start + tiles * N] < first_key + OWNED) ++tiles;  // those with a query that sees a key

    float dk_sum[D / 8][4] = {}, dv_sum[D / 8][4] = {};
    AsyncCopies copies;
    k = matrix_of(k, layout.k, kv_head, kv_heads);
    v = matrix_of(v, layout.v, kv_head, kv_heads);
    q = matrix_of(q, layout.q, kv_head * members, heads);  // of the first head of the group
    dy = matrix_of(dy, layout.dy, kv_head * members, heads);
    load_rows<Operand, D, OWNED>(copies, k_tile, k, layout.k.token, first_key, time);
    load_rows<Operand, D, OWNED>(copies, v_tile, v, layout.v.token, first_key, time);
    load_rows<Operand, D, N>(copies, q_tiles, q, layout.q.token, start, time);
    load_rows<Operand, D, N>(copies, dy_tiles, dy, layout.dy.token, start, time);
    for (int step = 0; step < members * tiles; ++step) {
        long long head = kv_head * members + step / tiles;
        int first_query = start + step % tiles * N, tile = step % 2;
        copies.wait();
        __syncthreads();
        if (step + 1 < members * tiles) {
            int member = (step + 1) / tiles, next_query = start + (step + 1) % tiles * N;
            const Number *next_q = q + member * layout.q.head, *next_dy = dy + member * layout.dy.head;
            load_rows<Operand, D, N>(copies, q_tiles + (tile ^ 1) * TILE, next_q, layout.q.token, next_query, time);
            load_rows<Operand, D, N>(copies, dy_tiles + (tile ^ 1) * TILE, next_dy, layout.dy.token, next_query, time);
        }
        float p[N / 8][4], ds[N / 8][4];  // transposed: rows are keys, columns are queries
        matmul_abt<Operand, D, N>(p, k_tile + 16 * warp() * STRIDE, q_tiles + tile * TILE);
        matmul_abt<Operand, D, N>(ds, v_tile + 16 * warp() * STRIDE, dy_tiles + tile * TILE);
        KeptTransposedTile<N> kept(drop, head, time, first_query, row);
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                int column = 8 * n + 2 * within() + c, i = first_query + column;
                float lse_i = i < time ? lse[head * time + i] * LOG2_E : 0;
                float delta_i = i < time ? delta[head * time + i] : 0;
                int first_seen = first_key_of(starts, i, time);
#pragma unroll
                for (int e = c; e < 4; e += 2) {
                    int j = row + group() + e / 2 * 8;
                    bool masked = i >= time || (causal && j > i) || j < first_seen;
                    float probability = masked ? 0 : exp2f(p[n][e] * (scale * LOG2_E) - lse_i);
                    float factor = kept.factor(drop, column, group() + e / 2 * 8);
                    p[n][e] = probability * factor;
                    // forward: P = exp(S - L): P meets V with the factor of dropout
                    ds[n][e] = probability * (ds[n][e] * factor - delta_i);
                }
            }
        // forward: Y = P V
        add_matmul_ab<Operand, D, N>(dv_sum, p, dy_tiles + tile * TILE);
        // forward: S = Q K^T / sqrt(D)
        add_matmul_ab<Operand, D, N>(dk_sum, ds, q_tiles + tile * TILE);
    }
    float dk_factor[2] = {scale, scale}, dv_factor[2] = {1, 1};
    dk = matrix_of(dk, layout.dk, kv_head, kv_heads);
    dv = matrix_of(dv, layout.dv, kv_head, kv_heads);
    store_rows<Operand, D>(dk, layout.dk.token, dk_sum, dk_factor, row, time);
    store_rows<Operand, D>(dv, layout.dv.token, dv_sum, dv_factor, row, time);
}
