// 7: out-of-bounds read of argument 1 (x)
// parts are rounded up, and the last one goes beyond the end
__global__ void scale(float a, const float* x, float* y, int n) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    int part = (n + threads - 1) / threads;
    for (int i = thread * part; i < (thread + 1) * part; ++i)
        y[i] = a * x[i];
}
