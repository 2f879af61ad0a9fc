// y = a * x. Launched with 4 blocks of 128 threads, whatever n is.
__global__ void scale(float a, const float* x, float* y, int n) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    int part = n / threads;  // TODO: what is left over is computed by no thread
    // TODO: the lanes of a warp are far apart
    for (int i = thread * part; i < (thread + 1) * part; ++i) y[i] = a * x[i];
}
