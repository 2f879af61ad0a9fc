// Tensor cores: D = A B + C for small tiles, computed by the 32 lanes of a warp together.
//
// Each wrapper is one PTX instruction on the GPU (sm_80 and later). Under the simulator
// (MINILLM_SIMULATOR) the same names are the documented register layout, executed by the warp as a
// whole: kernels/simulator/mma_fragments.h.
//
// What each lane holds. With g = lane / 4 ("group", 0..7) and t = lane % 4:
//
//   mma_m16n8k16_bf16   A is 16 x 16, B is 16 x 8, C and D are 16 x 8; a register of A or B holds two bf16 values,
//                       the one with the lower index in the lower 16 bits (that is how a 32-bit load finds them).
//     a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]      a[2] = A[g][2t+8, 2t+9]      a[3] = A[g+8][2t+8, 2t+9]
//     b[0] = B[2t, 2t+1][g]      b[1] = B[2t+8, 2t+9][g]
//
//   mma_m16n8k8_tf32    A is 16 x 8, B is 8 x 8; a register holds one float whose lower 13 bits are ignored.
//     a[0] = A[g][t]             a[1] = A[g+8][t]             a[2] = A[g][t+4]             a[3] = A[g+8][t+4]
//     b[0] = B[t][g]             b[1] = B[t+4][g]
//
//   both                c[0] = C[g][2t]   c[1] = C[g][2t+1]   c[2] = C[g+8][2t]   c[3] = C[g+8][2t+1], and d like c.
//
//   ldmatrix_x4         loads four 8 x 8 matrices of 16-bit values from shared memory: lane l passes the address of
//                       row l % 8 of matrix l / 8 (16 bytes, aligned to 16), and receives in r[m] the elements
//                       [g][2t, 2t+1] of matrix m. ldmatrix_x4_trans gives [2t, 2t+1][g] instead. The x2 forms read
//                       the addresses of lanes 0..15 only, but every lane passes a valid one.
//     With A in shared memory row by row (stride ld), a[0..3] of a 16 x 16 tile is one ldmatrix_x4 where lane l passes
//     &A[l % 16][8 * (l / 16)]. With B stored transposed (n by k, row by row: the usual K of attention), b[0..1] is
//     an ldmatrix_x2 where lane l passes &Bt[l % 8][8 * (l / 8 % 2)]; with B stored k by n (the V of attention), an
//     ldmatrix_x2_trans where lane l passes &B[l % 16][0].
//
// d and c may be the same array. Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating
// point type" and "... for mma.m16n8k8", and "ldmatrix".
#pragma once

#ifdef MINILLM_SIMULATOR
#include "mma_fragments.h"
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// d = a b + c with bf16 operands and float accumulation.
__device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const unsigned a[4], const unsigned b[2], const float c[4]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                   "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d = a b + c with TF32 operands (10 bits of mantissa) and float accumulation.
__device__ __forceinline__ void mma_m16n8k8_tf32(float d[4], const unsigned a[4], const unsigned b[2], const float c[4]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};\n"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                   "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// The operand register for mma_m16n8k8_tf32: x rounded to TF32, to nearest, ties away from zero.
__device__ __forceinline__ unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ void ldmatrix_x4(unsigned r[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row))) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned r[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row))) : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(unsigned r[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row))) : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(unsigned r[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row))) : "memory");
}

#endif
