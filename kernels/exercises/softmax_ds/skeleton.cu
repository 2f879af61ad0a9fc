// ds = p (dp - sum of p dp over the row), written over dp. A warp has a row of at most 256 numbers;
// a block has 4 warps.
__global__ void softmax_ds(const float* p, float* dp, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;  // the whole warp: its lanes have the same row
    p += row * width;
    dp += row * width;
    float delta = 0;  // the sum over the row
    for (int c = lane; c < width; c += 32) delta += p[c] * dp[c];
    // TODO: delta has only this lane's columns so far
    for (int c = lane; c < width; c += 32) dp[c] = p[c] * (dp[c] - delta);
}
