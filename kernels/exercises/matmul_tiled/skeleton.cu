#define TILE 64   // rows and columns of c that a block of 256 threads computes
#define DEPTH 16  // columns of a, and rows of b, in shared memory at a time

// c = a b, with a (m, k), b (k, n), c (m, n). blockIdx.x counts tiles of columns,
// blockIdx.y tiles of rows.
__global__ void matmul_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[TILE][DEPTH], b_tile[DEPTH][TILE];
    int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[4][4] = {};  // of the rows 4 ty ... 4 ty + 3 and the columns 4 tx ... 4 tx + 3 of the tile
    for (int d = 0; d < k; d += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += 256) {
            int row = i / DEPTH, column = i % DEPTH;
            bool inside = first_row + row < m && d + column < k;
            a_tile[row][column] = inside ? a[(first_row + row) * k + d + column] : 0;
            // TODO: the same for b_tile
        }
        // TODO: add a_tile b_tile to the sums. Which threads wrote the numbers that this one reads?
    }
    // TODO: write the 4 x 4 sums that lie inside of c
}
