// 47: dk[0, 0] is
#define TILE 64  // threads of a block: its keys, and the queries in shared memory
#define D4 8     // float4 of a query, a key, a value
#define ZERO make_float4(0, 0, 0, 0)

__device__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
__device__ float4 sum_of(float s, float4 a, float t, float4 b) {  // s a + t b
    return make_float4(s * a.x + t * b.x, s * a.y + t * b.y, s * a.z + t * b.z, s * a.w + t * b.w);
}

// tile = TILE rows of a matrix, from row `first` on; zeros beyond the last.
__device__ void load_rows(float4 (*tile)[D4 + 1], const float* matrix, int first, int time) {
    for (int n = threadIdx.x; n < TILE * D4; n += TILE)
        tile[n / D4][n % D4] = first + n / D4 < time ? ((const float4*)matrix)[first * D4 + n] : ZERO;
}

__global__ void flash_backward(const float* q, const float* k, const float* v, const float* dy, const float* lse,
                               const float* delta, float* dk, float* dv, int time) {
    __shared__ float4 q_tile[TILE][D4 + 1], dy_tile[TILE][D4 + 1];
    __shared__ float lse_tile[TILE], delta_tile[TILE];
    int t = threadIdx.x, first_key = blockIdx.x * TILE, j = first_key + t;
    float4 kj[D4], vj[D4], dkj[D4] = {}, dvj[D4] = {};
    float scale = 1 / sqrtf(4 * D4);
    load_rows(q_tile, k, first_key, time);  // by way of shared memory, so that neighbours read neighbours
    load_rows(dy_tile, v, first_key, time);
    __syncthreads();
    for (int d = 0; d < D4; ++d) kj[d] = q_tile[t][d], vj[d] = dy_tile[t][d];
    for (int first = first_key; first < time; first += TILE) {  // no earlier query sees a key of this block
        __syncthreads();  // the tile before has been read
        load_rows(q_tile, q, first, time);
        load_rows(dy_tile, dy, first, time);
        if (first + t < time) lse_tile[t] = lse[first + t], delta_tile[t] = delta[first + t];
        __syncthreads();
        for (int n = 0; n < TILE && first + n < time; ++n) {
            float s = 0, dp = 0;
            for (int d = 0; d < D4; ++d) s += dot(q_tile[n][d], kj[d]) * scale;
            for (int d = 0; d < D4; ++d) dp += dot(dy_tile[n][d], vj[d]);
            float p = j <= first + n ? expf(s - lse_tile[n]) : 0, ds = p * (dp );
            for (int d = 0; d < D4; ++d) dvj[d] = sum_of(1, dvj[d], p, dy_tile[n][d]);
            for (int d = 0; d < D4; ++d) dkj[d] = sum_of(1, dkj[d], ds * scale, q_tile[n][d]);
        }
    }
    __syncthreads();
    for (int d = 0; d < D4; ++d) q_tile[t][d] = dkj[d], dy_tile[t][d] = dvj[d];
    __syncthreads();
    for (int n = t; n < TILE * D4 && first_key + n / D4 < time; n += TILE) {
        ((float4*)dk)[first_key * D4 + n] = q_tile[n / D4][n % D4];
        ((float4*)dv)[first_key * D4 + n] = dy_tile[n / D4][n % D4];
    }
}
