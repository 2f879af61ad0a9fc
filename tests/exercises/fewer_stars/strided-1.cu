// 1
__global__ void scale(float a, const float* x, float* y, int n) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    int part = (n + threads - 1) / threads;
    for (int i = thread * part; i < (thread + 1) * part && i < n; ++i) y[i] = a * x[i];
}
