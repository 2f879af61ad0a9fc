// The two kinds of operand of the tensor cores, as lanes of a warp hold them (mma.cuh): bfloat16
// numbers as they are, and float32 numbers rounded to TF32 when they are loaded.

#pragma once

#include <cuda_bf16.h>

#include "mma.cuh"

__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int group() { return threadIdx.x % 32 / 4; }
__device__ inline int within() { return threadIdx.x % 4; }

// What differs between the two kinds of operand. DEPTH: the inner size of one matrix instruction.
// Second operands are loaded for two instructions that give 8 columns each.
//   rows             a[4]: DEPTH columns of 16 rows in shared memory, as the first operand
//   from_sums        a[4]: the results of DEPTH columns, in c[DEPTH / 8][4], as the first operand
//   columns_of_rows  b[4]: DEPTH columns of 16 rows: the second operand of A B^T
//   columns          b[4]: 16 columns of DEPTH rows: the second operand of A B
struct Bf16 {
    typedef __nv_bfloat16 Number;
    static const int DEPTH = 16, PAD = PADDING / sizeof(Number);

    static __device__ void rows(unsigned (&a)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4(a, tile + lane % 16 * stride + lane / 16 * 8);
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4(b, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
    }
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride) {
        int lane = threadIdx.x % 32;
        ldmatrix_x4_trans(b, tile + lane % 16 * stride + lane / 16 * 8);
    }
    static __device__ unsigned pair(float low, float high) {
        return __bfloat16_as_ushort(__float2bfloat16_rn(low)) | (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
    }
    static __device__ void from_sums(unsigned (&a)[4], const float (*c)[4]) {
        a[0] = pair(c[0][0], c[0][1]);
        a[1] = pair(c[0][2], c[0][3]);
        a[2] = pair(c[1][0], c[1][1]);
        a[3] = pair(c[1][2], c[1][3]);
    }
    static __device__ void multiply(float (&c)[4], const unsigned* a, const unsigned* b) { mma_m16n8k16_bf16(c, a, b, c); }
    static __device__ void store(Number* to, float x, float y) { *(__nv_bfloat162*)to = __floats2bfloat162_rn(x, y); }
    static __device__ float2 load(const Number* from) { return __bfloat1622float2(*(const __nv_bfloat162*)from); }
};

struct Tf32 {
    typedef float Number;
    static const int DEPTH = 8, PAD = PADDING / sizeof(Number);

    static __device__ void rows(unsigned (&a)[4], const Number* tile, int stride) {
        const Number* corner = tile + group() * stride + within();
        a[0] = to_tf32(corner[0]);
        a[1] = to_tf32(corner[8 * stride]);
        a[2] = to_tf32(corner[4]);
        a[3] = to_tf32(corner[8 * stride + 4]);
    }
    static __device__ void columns_of_rows(unsigned (&b)[4], const Number* tile, int stride) {
        const Number* corner = tile + group() * stride + within();
        b[0] = to_tf32(corner[0]);
        b[1] = to_tf32(corner[4]);
        b[2] = to_tf32(corner[8 * stride]);
        b[3] = to_tf32(corner[8 * stride + 4]);
    }
    // The inner index t of the instruction is row 2t and t + 4 is row 2t + 1, in from_sums too: the
    // order of a sum is free, and so the results need not change lanes to become an operand.
    static __device__ void columns(unsigned (&b)[4], const Number* tile, int stride) {
        const Number* corner = tile + 2 * within() * stride + group();
        b[0] = to_tf32(corner[0]);
        b[1] = to_tf32(corner[stride]);
        b[2] = to_tf32(corner[8]);
        b[3] = to_tf32(corner[stride + 8]);
    }
    static __device__ void from_sums(unsigned (&a)[4], const float (*c)[4]) {
        a[0] = to_tf32(c[0][0]);
        a[1] = to_tf32(c[0][2]);
        a[2] = to_tf32(c[0][1]);
        a[3] = to_tf32(c[0][3]);
    }
    static __device__ void multiply(float (&c)[4], const unsigned* a, const unsigned* b) { mma_m16n8k8_tf32(c, a, b, c); }
    static __device__ void store(Number* to, float x, float y) { *(float2*)to = make_float2(x, y); }
    static __device__ float2 load(const Number* from) { return *(const float2*)from; }
};
