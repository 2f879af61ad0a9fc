// 6: no thread has written it
// what is left over of n / threads is computed by no thread
__global__ void scale(float a, const float* x, float* y, int n) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    int part = n / threads;
    for (int i = thread * part; i < (thread + 1) * part; ++i) y[i] = a * x[i];
}
