// What the programs here share, of the host and of the device, in one header.
#pragma once
#include <cublas_v2.h>
#include <stdio.h>

#define CHECK(call) check((call), __FILE__, __LINE__)

inline void check(cudaError_t error, const char* file, int line) {
    if (error != cudaSuccess) printf("%s:%d: %s\n", file, line, cudaGetErrorString(error));
}

struct Timer {
    cudaEvent_t start, stop;
};

inline void report_time(const char* name) {
    cudaDeviceSynchronize();
    printf("%s\n", name);
}

__host__ __device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    unsigned address;
    asm volatile("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(pointer));
    return address;
}

#define COPY_16(to, from) \
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], %2;\n" ::"r"(to), "l"(from), "n"(16))
#define COMMIT() asm volatile("cp.async.commit_group;\n" ::)
#define WAIT_FOR(n) asm volatile("cp.async.wait_group %0;\n" ::"n"(n))
#define LDMATRIX_X4(r0, r1, r2, r3, address)                                          \
    asm volatile("ldmatrix.sync.aligned.x4.m8n8.shared.b16 {%0, %1, %2, %3}, [%4];\n" \
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)                             \
                 : "r"(address))
