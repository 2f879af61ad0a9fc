// 18: y[0, 256] is
__global__ void scan(const float* x, float* y, int width) {
    __shared__ float part[256];
    float before = 0;
    int t = threadIdx.x;
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    for (int start = 0; start < width; start += 256) {
        int i = start + t;
        part[t] = i < width ? x[i] : 0;
        __syncthreads();
        for (int d = 1; d < 256; d *= 2) {
            float left = t >= d ? part[t - d] : 0;
            __syncthreads();
            part[t] += left;
            __syncthreads();
        }
        if (i < width) y[i] = part[t];
        before += part[255];
        __syncthreads();
    }
}
