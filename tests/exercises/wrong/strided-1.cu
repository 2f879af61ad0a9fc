// 6: data race: two threads write
// the step is that of a block, as if it were the only one
__global__ void scale(float a, const float* x, float* y, int n) {
    int first = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = first; i < n; i += blockDim.x)
        y[i] = a * x[i];
}
