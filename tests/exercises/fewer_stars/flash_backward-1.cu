// 2
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

// dk and dv of y = softmax(q k^T / sqrt(32)) v, where query i sees the keys j <= i. A thread has key j.
__global__ void flash_backward(const float* q, const float* k, const float* v, const float* dy, const float* lse,
                               const float* delta, float* dk, float* dv, int time) {
    __shared__ float4 q_tile[TILE][D4 + 1], dy_tile[TILE][D4 + 1];
    __shared__ float lse_tile[TILE], delta_tile[TILE];
    int j = blockIdx.x * TILE + threadIdx.x;
    float4 kj[D4], vj[D4], dkj[D4] = {}, dvj[D4] = {};
    for (int d = 0; d < D4 && j < time; ++d) kj[d] = ((const float4*)k)[j * D4 + d], vj[d] = ((const float4*)v)[j * D4 + d];
    for (int first = blockIdx.x * TILE; first < time; first += TILE) {
        __syncthreads();
        load_rows(q_tile, q, first, time);
        load_rows(dy_tile, dy, first, time);
        int i = first + threadIdx.x;
        if (i < time) lse_tile[threadIdx.x] = lse[i], delta_tile[threadIdx.x] = delta[i];
        __syncthreads();
        for (int n = 0; n < TILE && first + n < time; ++n) {
            float s = 0, dp = 0;
            for (int d = 0; d < D4; ++d) s += dot(q_tile[n][d], kj[d]) / sqrtf(32), dp += dot(dy_tile[n][d], vj[d]);
            float p = j <= first + n ? expf(s - lse_tile[n]) : 0, ds = p * (dp - delta_tile[n]) / sqrtf(32);
            for (int d = 0; d < D4; ++d) dvj[d] = sum_of(1, dvj[d], p, dy_tile[n][d]), dkj[d] = sum_of(1, dkj[d], ds, q_tile[n][d]);
        }
    }
    for (int d = 0; d < D4 && j < time; ++d) ((float4*)dk)[j * D4 + d] = dkj[d], ((float4*)dv)[j * D4 + d] = dvj[d];
}
