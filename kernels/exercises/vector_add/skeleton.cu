// z = x + y. Launched with 256 threads a block, and as many blocks as n elements need.
__global__ void vector_add(const float* x, const float* y, float* z, int n) {
    int i = threadIdx.x;  // TODO: the number of the thread in the whole launch
    z[i] = x[i] + y[i];   // TODO: only for elements that exist
}
