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
// (mma.cuh), many times faster than with the float units. Its operands have fewer bits
// (operands.cuh); sums, softmax and L are float32. What keeps the tensor cores busy:
// - the result of S = Q K^T has the register layout that the first operand of P V needs, so P stays
//   in registers;
// - tiles are double buffered: while one is used the next is copied (async_copy.cuh);
// - shared memory is the limit: an operand that a warp reads from it feeds two instructions for 16
//   rows. With 32 rows a warp it feeds four (warp_tiles.cuh), and what fits into registers is kept
//   there;
// - single scores are masked in tiles that a border crosses, and a warp skips those that none of
//   its rows sees (mask.cuh).
//
// Cost, for a head: the operations of rung 4, of which only softmax and masks are left to the float
// units. Memory: forward reads K and V once for every 16 WARPS GROUPS queries. P and dS are rounded
// to the operand's type before they are multiplied: an error of about 4e-3 in bfloat16, 5e-4 in
// TF32. Gain over rung 4: not measured on a GPU yet.
//
// Work: a warp owns GROUPS times 16 rows (queries; keys for dK and dV), a block those of its WARPS.
// Tiles of N rows of the other two matrices are loaded one after the other. blockIdx.x counts heads
// over the batch, blockIdx.y the rows, those with most work first. A multiprocessor holds BLOCKS
// blocks, which limits their registers. Shared memory: the rows owned and two tiles of each of the
// other two matrices.

#include "dropout.cuh"
#include "layout.cuh"
#include "mask.cuh"
#include "warp_tiles.cuh"

const float LOG2_E = 1.44269504088896341f;

// delta_i = sum_d dy_id y_id of the rows dy and y, by the 4 lanes that have columns of it. inside:
// of the matrix; y is not read if it is not.
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

// The step of the online softmax for a tile: p are scores q . k on entry, exponentials on return;
// m, in their units, l and o change from the keys before the tile to those up to its end. exponent
// = log2(e) / sqrt(D): exp(s / sqrt(D)) = 2^(exponent s), one multiply-add and one exponential a
// score.
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

// Of numbers that each query has, those of this lane's columns of a transposed tile; 0 beyond the
// end.
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

// dk, dv (B, H_kv, T, D). A block owns 16 WARPS GROUPS keys and goes over the queries of all heads
// of its group of heads, in order.
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
        // forward: Y = P V: before dP is computed, which needs the registers
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
