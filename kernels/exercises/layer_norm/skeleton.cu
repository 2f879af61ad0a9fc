// Layer norm of each row of x. Launched with a block of 128 threads a row.
__global__ void layer_norm(const float* x, const float* weight, const float* bias, float* y,
                           float* mean, float* inverse, int width, float eps) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += x[i];
    float m = sum / width;  // TODO: the sum of all threads
    float r = 1;            // TODO: the variance
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        y[i] = (x[i] - m) * r * weight[i] + bias[i];
    // TODO: keep the mean and the inverse standard deviation
}
