// 2
#define TILE 64   // rows and columns of c that a block computes
#define DEPTH 16  // columns of a, rows of b in a tile

__global__ void matmul_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[DEPTH][TILE + 4], b_tile[DEPTH][TILE];  // a's is transposed: its columns lie side by side
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int tx = lane % 16, ty = lane / 16 + 2 * warp;
    int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    float sum[4][4] = {};
    for (int d = 0; d < k; d += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += 256) {
            int row = i / DEPTH, column = i % DEPTH;
            bool inside = first_row + row < m && d + column < k;
            a_tile[column][row] = inside ? a[(first_row + row) * k + d + column] : 0;
            row = i / TILE, column = i % TILE;
            inside = d + row < k && first_column + column < n;
            b_tile[row][column] = inside ? b[(d + row) * n + first_column + column] : 0;
        }
        __syncthreads();
        for (int j = 0; j < DEPTH; ++j) {
            float4 x = *(float4*)&a_tile[j][4 * ty];
            float2 y = *(float2*)&b_tile[j][2 * tx], z = *(float2*)&b_tile[j][2 * tx + 32];
            float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, z.x, z.y};
            for (int r = 0; r < 4; ++r)
                for (int s = 0; s < 4; ++s) sum[r][s] += xs[r] * ys[s];
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; ++r) {
        int row = first_row + 4 * ty + r, column = first_column + 2 * tx;
        if (row < m && column < n) *(float2*)&c[row * n + column] = make_float2(sum[r][0], sum[r][1]);
        if (row < m && column + 32 < n) *(float2*)&c[row * n + column + 32] = make_float2(sum[r][2], sum[r][3]);
    }
}
