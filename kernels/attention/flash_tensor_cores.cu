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
#include "mask.cuh"
#include "mma.cuh"

const float LOG2_E = 1.44269504088896341f;

__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int group() { return threadIdx.x % 32 / 4; }
__device__ inline int within() { return threadIdx.x % 4; }

// What differs between the two kinds of operand. DEPTH: the inner size of one matrix instruction.
// Second operands are loaded for two instructions that give 8 columns each.
//   rows             a[4]: DEPTH columns of 16 rows in shared memory, as the first operand
//   from_sums        a[4]: the results of DEPTH columns, in c[DEPTH / 8][4], as the first operand
//   columns_of_rows  b[4]: DEPTH columns of 16 rows: the second operand of A B^T
//   columns          b[4]: 16 columns of DEPTH rows: the second operand of A B
struct Bf16 {
    typedef __nv_bfloat16 Number;
    static const int DEPTH = 16, PAD = PADDING / sizeof(Number);

    static __device__ void rows(unsigned (&a)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4(a, tile + lane % 16 * stride + lane / 16 * 8);
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4(b, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
    }
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4_trans(b, tile + lane % 16 * stride + lane / 16 * 8);
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

    static __device__ void rows(unsigned (&a)[4], const Number* tile, int stride) {
        const Number* corner = tile + group() * stride + within();
        a[0] = to_tf32(corner[0]);
        a[1] = to_tf32(corner[8 * stride]);
        a[2] = to_tf32(corner[4]);
        a[3] = to_tf32(corner[8 * stride + 4]);
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride) {
        const Number* corner = tile + group() * stride + within();
        b[0] = to_tf32(corner[0]);
        b[1] = to_tf32(corner[4]);
        b[2] = to_tf32(corner[8 * stride]);
        b[3] = to_tf32(corner[8 * stride + 4]);
    }
    // The inner index t of the instruction is row 2t and t + 4 is row 2t + 1, in from_sums too: the
    // order of a sum is free, and so the results need not change lanes to become an operand.
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride) {
        const Number* corner = tile + 2 * within() * stride + group();
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

// matrix[row ...][...] = factor[m][half] o[m][...]: of a warp's rows, 16 m + 8 half + g is this lane's.
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

// s = -inf where a query does not see a key: 16 queries from i on, N keys from j on.
template <int N>
__device__ inline void hide(float (&s)[N / 8][4], const Mask& mask, int i, int j) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (!mask.sees(i + group() + e / 2 * 8, j + 8 * n + 2 * within() + e % 2)) s[n][e] = -infinity();
}

// The same for a transposed tile: 16 keys from j on, N queries from i on.
template <int N>
__device__ inline void hide_transposed(float (&s)[N / 8][4], const Mask& mask, int i, int j) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (!mask.sees(i + 8 * n + 2 * within() + e % 2, j + group() + e / 2 * 8)) s[n][e] = -infinity();
}

// The step of the online softmax for a tile: p are scores q . k on entry, exponentials on return; m,
// in their units, l and o change from the keys before the tile to those up to its end. exponent =
// log2(e) / sqrt(D): exp(s / sqrt(D)) = 2^(exponent s), one multiply-add and one exponential a score.
template <int D, int N>
__device__ inline void add_to_softmax(float (&p)[N / 8][4], float (&o)[D / 8][4], float (&m)[2], float (&l)[2],
                                      float exponent) {
    float m_old[2] = {m[0], m[1]}, reference[2], total[2] = {};
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) m[e / 2] = fmaxf(m[e / 2], p[n][e]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        m[half] = row_max(m[half]);
        reference[half] = m[half] == -infinity() ? 0 : m[half] * exponent;  // no key seen yet: all exponentials are 0
    }
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) total[e / 2] += p[n][e] = exp2f(p[n][e] * exponent - reference[e / 2]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float alpha = exp2f(m_old[half] * exponent - reference[half]);
        l[half] = l[half] * alpha + total[half];  // of this lane's columns
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            o[n][2 * half] *= alpha;
            o[n][2 * half + 1] *= alpha;
        }
    }
}

// Of numbers that each query has, those of this lane's columns of a transposed tile; 0 beyond the end.
template <int N>
__device__ inline void read_columns(float (&numbers)[N / 8][2], const float* of_queries, int first, int time) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            int i = first + 8 * n + 2 * within() + c;
            numbers[n][c] = i < time ? of_queries[i] : 0;
        }
}

// q, y (B, H, T, D), k, v (B, H_kv, T, D), lse (B, H, T) is L
template <class Operand, int D, int WARPS, int GROUPS, int N, int BLOCKS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    flash_forward(const typename Operand::Number* q, const typename Operand::Number* k, const typename Operand::Number* v,
                  typename Operand::Number* y, float* lse, Layout layout, const int* starts, int heads, int kv_heads,
                  int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int ROWS = 16 * GROUPS, OWNED = ROWS * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* k_tiles = q_tile + OWNED * STRIDE;  // two
    Number* v_tiles = k_tiles + 2 * TILE;       // two
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);  // b H + h
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + ROWS * warp();
    Mask mask = {starts_of(starts, head, heads, time), time, causal};
    int begin = first_key_of(mask.starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    q = matrix_of(q, layout.q, head, heads);
    k = matrix_of(k, layout.k, kv_head, kv_heads);
    v = matrix_of(v, layout.v, kv_head, kv_heads);

    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, q, layout.q.token, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, layout.k.token, begin, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, layout.v.token, begin, time);
    copies.wait();
    __syncthreads();
    FirstOperand<Operand, D, GROUPS, KEPT> q_rows(q_tile + ROWS * warp() * STRIDE);
    float o[GROUPS][D / 8][4] = {}, m[GROUPS][2], l[GROUPS][2] = {};
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) m[g][0] = m[g][1] = -infinity();
    for (int first_key = begin, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();  // this tile is complete, and the last one is no longer read
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, layout.k.token, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, layout.v.token, first_key + N, time);
        }
        if (mask.hides_all(row, ROWS, first_key, N)) continue;
        float p[GROUPS][N / 8][4];
        matmul_abt<Operand, D, N>(p, q_rows, k_tiles + tile * TILE);
        bool masked = !mask.hides_none(row, ROWS, first_key, N);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            if (masked) hide<N>(p[g], mask, row + 16 * g, first_key);
            add_to_softmax<D, N>(p[g], o[g], m[g], l[g], scale * LOG2_E);
            KeptTile<N> kept(drop, head, time, row + 16 * g, first_key);
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) p[g][n][e] *= kept.factor(drop, group() + e / 2 * 8, 8 * n + 2 * within() + e % 2);
        }
        add_matmul_ab<Operand, D, N>(o, p, v_tiles + tile * TILE);
    }
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = row + 16 * g + 8 * half + group();
            float sum = row_sum(l[g][half]);
            if (within() == 0 && i < time) lse[head * time + i] = m[g][half] * scale + logf(sum);
            l[g][half] = 1 / sum;
        }
    store_rows<Operand, D>(matrix_of(y, layout.y, head, heads), layout.y.token, o, l, row, time);
}

// dq (B, H, T, D), delta (B, H, T); lse (B, H, T) is L. A block owns 16 WARPS GROUPS queries.
template <class Operand, int D, int WARPS, int GROUPS, int N, int BLOCKS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    flash_backward_queries(const typename Operand::Number* q, const typename Operand::Number* k,
                           const typename Operand::Number* v, const typename Operand::Number* y,
                           const typename Operand::Number* dy, const float* lse, float* delta,
                           typename Operand::Number* dq, Layout layout, const int* starts, int heads, int kv_heads,
                           int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int ROWS = 16 * GROUPS, OWNED = ROWS * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* q_tile = (Number*)shared;
    Number* dy_tile = q_tile + OWNED * STRIDE;
    Number* k_tiles = dy_tile + OWNED * STRIDE;
    Number* v_tiles = k_tiles + 2 * TILE;
    long long head = blockIdx.x, kv_head = head / (heads / kv_heads);
    int first_query = (gridDim.y - 1 - blockIdx.y) * OWNED, row = first_query + ROWS * warp();
    Mask mask = {starts_of(starts, head, heads, time), time, causal};
    int begin = first_key_of(mask.starts, first_query, time) / N * N, end = causal ? min(first_query + OWNED, time) : time;
    k = matrix_of(k, layout.k, kv_head, kv_heads);
    v = matrix_of(v, layout.v, kv_head, kv_heads);

    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, q_tile, matrix_of(q, layout.q, head, heads), layout.q.token, first_query, time);
    load_rows<Operand, D, OWNED>(copies, dy_tile, matrix_of(dy, layout.dy, head, heads), layout.dy.token, first_query, time);
    load_rows<Operand, D, N>(copies, k_tiles, k, layout.k.token, begin, time);
    load_rows<Operand, D, N>(copies, v_tiles, v, layout.v.token, begin, time);
    copies.wait();
    __syncthreads();
    FirstOperand<Operand, D, GROUPS, KEPT> q_rows(q_tile + ROWS * warp() * STRIDE), dy_rows(dy_tile + ROWS * warp() * STRIDE);
    float dq_sum[GROUPS][D / 8][4] = {}, lse_i[GROUPS][2], delta_i[GROUPS][2], dq_factor[GROUPS][2];
    y = matrix_of(y, layout.y, head, heads);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int i = row + 16 * g + 8 * half + group();
            const Number *dy_i = dy_tile + (i - first_query) * STRIDE, *y_i = y + (long long)i * layout.y.token;
            lse_i[g][half] = i < time ? lse[head * time + i] * LOG2_E : 0;
            delta_i[g][half] = row_delta<Operand, D>(dy_i, y_i, i < time);
            if (within() == 0 && i < time) delta[head * time + i] = delta_i[g][half];  // for dK
            dq_factor[g][half] = scale;
        }
    for (int first_key = begin, tile = 0; first_key < end; first_key += N, tile ^= 1) {
        copies.wait();
        __syncthreads();
        if (first_key + N < end) {
            load_rows<Operand, D, N>(copies, k_tiles + (tile ^ 1) * TILE, k, layout.k.token, first_key + N, time);
            load_rows<Operand, D, N>(copies, v_tiles + (tile ^ 1) * TILE, v, layout.v.token, first_key + N, time);
        }
        if (mask.hides_all(row, ROWS, first_key, N)) continue;
        float p[GROUPS][N / 8][4], ds[GROUPS][N / 8][4];
        matmul_abt<Operand, D, N>(p, q_rows, k_tiles + tile * TILE);
        // forward: Y = P V
        matmul_abt<Operand, D, N>(ds, dy_rows, v_tiles + tile * TILE);
        bool masked = !mask.hides_none(row, ROWS, first_key, N);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            if (masked) hide<N>(p[g], mask, row + 16 * g, first_key);
            KeptTile<N> kept(drop, head, time, row + 16 * g, first_key);
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    float probability = exp2f(p[g][n][e] * (scale * LOG2_E) - lse_i[g][e / 2]);
                    // forward: P = exp(S - L): P meets V with the factor of dropout
                    float factor = kept.factor(drop, group() + e / 2 * 8, 8 * n + 2 * within() + e % 2);
                    ds[g][n][e] = probability * (ds[g][n][e] * factor - delta_i[g][e / 2]);
                }
        }
        // forward: S = Q K^T / sqrt(D)
        add_matmul_ab<Operand, D, N>(dq_sum, ds, k_tiles + tile * TILE);
    }
    store_rows<Operand, D>(matrix_of(dq, layout.dq, head, heads), layout.dq.token, dq_sum, dq_factor, row, time);
}

// dk, dv (B, H_kv, T, D). A block owns 16 WARPS GROUPS keys and goes over the queries of all heads of
// its group of heads, in order.
template <class Operand, int D, int WARPS, int GROUPS, int N, int BLOCKS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    flash_backward_keys(const typename Operand::Number* q, const typename Operand::Number* k,
                        const typename Operand::Number* v, const typename Operand::Number* dy, const float* lse,
                        const float* delta, typename Operand::Number* dk, typename Operand::Number* dv, Layout layout,
                        const int* starts, int heads, int kv_heads, int time, float scale, int causal, Dropout drop) {
    typedef typename Operand::Number Number;
    const int ROWS = 16 * GROUPS, OWNED = ROWS * WARPS, STRIDE = D + Operand::PAD, TILE = N * STRIDE;
    extern __shared__ float4 shared[];
    Number* k_tile = (Number*)shared;
    Number* v_tile = k_tile + OWNED * STRIDE;
    Number* q_tiles = v_tile + OWNED * STRIDE;
    Number* dy_tiles = q_tiles + 2 * TILE;
    long long kv_head = blockIdx.x;  // b H_kv + h_kv
    int first_key = blockIdx.y * OWNED, row = first_key + ROWS * warp(), members = heads / kv_heads;
    Mask mask = {starts_of(starts, kv_head, kv_heads, time), time, causal};
    int start = causal ? first_key / N * N : 0, stop = starts ? start + N : time;  // queries of each head that see a key
    while (stop < time && mask.starts[stop] < first_key + OWNED) stop += N;
    q = matrix_of(q, layout.q, kv_head * members, heads);  // of the first head of the group
    dy = matrix_of(dy, layout.dy, kv_head * members, heads);

    AsyncCopies copies;
    load_rows<Operand, D, OWNED>(copies, k_tile, matrix_of(k, layout.k, kv_head, kv_heads), layout.k.token, first_key, time);
    load_rows<Operand, D, OWNED>(copies, v_tile, matrix_of(v, layout.v, kv_head, kv_heads), layout.v.token, first_key, time);
    load_rows<Operand, D, N>(copies, q_tiles, q, layout.q.token, start, time);
    load_rows<Operand, D, N>(copies, dy_tiles, dy, layout.dy.token, start, time);
    copies.wait();
    __syncthreads();
    FirstOperand<Operand, D, GROUPS, KEPT> k_rows(k_tile + ROWS * warp() * STRIDE), v_rows(v_tile + ROWS * warp() * STRIDE);
    float dk_sum[GROUPS][D / 8][4] = {}, dv_sum[GROUPS][D / 8][4] = {};
    for (int member = 0, first_query = start, tile = 0; member < members; tile ^= 1) {
        int head = (int)kv_head * members + member, query = first_query;
        first_query += N;
        if (first_query >= stop) {  // of the next tile
            first_query = start;
            ++member;
            q += layout.q.head;
            dy += layout.dy.head;
        }
        copies.wait();
        __syncthreads();
        if (member < members) {
            load_rows<Operand, D, N>(copies, q_tiles + (tile ^ 1) * TILE, q, layout.q.token, first_query, time);
            load_rows<Operand, D, N>(copies, dy_tiles + (tile ^ 1) * TILE, dy, layout.dy.token, first_query, time);
        }
        if (mask.hides_all(query, N, row, ROWS)) continue;
        float lse_i[N / 8][2], delta_i[N / 8][2];  // read before the products, which take their time
        read_columns<N>(lse_i, lse + (long long)head * time, query, time);
        read_columns<N>(delta_i, delta + (long long)head * time, query, time);
        float p[GROUPS][N / 8][4], weight[GROUPS][N / 8][4];  // transposed: rows are keys, columns are queries
        matmul_abt<Operand, D, N>(p, k_rows, q_tiles + tile * TILE);
        bool masked = !mask.hides_none(query, N, row, ROWS);
        KeptTransposedTile<N> kept[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            if (masked) hide_transposed<N>(p[g], mask, query, row + 16 * g);
            kept[g] = KeptTransposedTile<N>(drop, head, time, query, row + 16 * g);
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    // forward: P = exp(S - L): P meets V with the factor of dropout
                    p[g][n][e] = exp2f(p[g][n][e] * (scale * LOG2_E) - lse_i[n][e % 2] * LOG2_E);
                    weight[g][n][e] = p[g][n][e] * kept[g].factor(drop, 8 * n + 2 * within() + e % 2, group() + e / 2 * 8);
                }
        }
        // forward: Y = P V. Before dP is computed: its registers come free.
        add_matmul_ab<Operand, D, N>(dv_sum, weight, dy_tiles + tile * TILE);
        float ds[GROUPS][N / 8][4];
        matmul_abt<Operand, D, N>(ds, v_rows, dy_tiles + tile * TILE);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g)
#pragma unroll
            for (int n = 0; n < N / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    float factor = kept[g].factor(drop, 8 * n + 2 * within() + e % 2, group() + e / 2 * 8);
                    ds[g][n][e] = p[g][n][e] * (ds[g][n][e] * factor - delta_i[n][e % 2]);
                }
        // forward: S = Q K^T / sqrt(D)
        add_matmul_ab<Operand, D, N>(dk_sum, ds, q_tiles + tile * TILE);
    }
    float dk_factor[GROUPS][2], dv_factor[GROUPS][2];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            dk_factor[g][half] = scale;
            dv_factor[g][half] = 1;
        }
    store_rows<Operand, D>(matrix_of(dk, layout.dk, kv_head, kv_heads), layout.dk.token, dk_sum, dk_factor, row, time);
    store_rows<Operand, D>(matrix_of(dv, layout.dv, kv_head, kv_heads), layout.dv.token, dv_sum, dv_factor, row, time);
}
