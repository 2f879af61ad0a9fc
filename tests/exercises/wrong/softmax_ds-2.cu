// 12: out-of-bounds read of argument 0 (p)
#define HELD 8  // numbers of a row that a lane keeps: 8 * 32 >= 250

__global__ void softmax_ds(const float* p, float* dp, int rows, int width) {
    int row = blockIdx.x * blockDim.x / 32 + threadIdx.x / 32, lane = threadIdx.x % 32;
    p += (long long)row * width;
    dp += (long long)row * width;
    float share[HELD] = {}, gradient[HELD] = {}, delta = 0;
    for (int i = 0; i < HELD; ++i) {
        int c = lane + 32 * i;
        if (c >= width) continue;
        share[i] = p[c];
        gradient[i] = dp[c];
        delta += share[i] * gradient[i];
    }
    for (int distance = 16; distance > 0; distance /= 2) delta += __shfl_xor_sync(0xffffffff, delta, distance);
    for (int i = 0; i < HELD; ++i) {
        int c = lane + 32 * i;
        if (c < width) dp[c] = share[i] * (gradient[i] - delta);
    }
}
