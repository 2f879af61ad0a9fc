// The tensor-core wrappers of kernels/mma.cuh for the simulator: the lanes' registers are gathered
// into matrices by the layout of the PTX ISA, multiplied, and scattered again. Sums are taken in
// double and rounded to float once (how the hardware rounds inside an instruction is not
// documented).
#pragma once

#include "matrix_load.h"

namespace minillm_sim {

struct Mma {
    float* d;
    const unsigned *a, *b;
    const float* c;
};

// kDepth: the inner dimension. get(registers, index) reads one of the lane's elements of A or B as
// a float.
template <int kDepth, class A, class B>
void mma(void** operands, A a_element, B b_element) {
    float a[16][kDepth], b[kDepth][8], c[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const Mma& fragment = *static_cast<Mma*>(operands[lane]);
        int group = lane / 4, within = lane % 4;
        a_element(a, fragment.a, group, within);
        b_element(b, fragment.b, group, within);
        for (int i = 0; i < 4; ++i) c[group + i / 2 * 8][2 * within + i % 2] = fragment.c[i];
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            double sum = c[row][column];
            for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
            static_cast<Mma*>(operands[lane])->d[i] = static_cast<float>(sum);
        }
}

inline float bf16_half(unsigned pair, int half) { return __uint_as_float(half ? pair & 0xffff0000u : pair << 16); }

inline void mma_bf16(void** operands, unsigned) {
    mma<16>(
        operands,
        [](float (*a)[16], const unsigned* r, int group, int within) {
            for (int i = 0; i < 8; ++i)
                a[group + i / 2 % 2 * 8][2 * within + i % 2 + i / 4 * 8] = bf16_half(r[i / 2], i % 2);
        },
        [](float (*b)[8], const unsigned* r, int group, int within) {
            for (int i = 0; i < 4; ++i) b[2 * within + i % 2 + i / 2 * 8][group] = bf16_half(r[i / 2], i % 2);
        });
}

inline void mma_tf32(void** operands, unsigned) {
    mma<8>(
        operands,
        [](float (*a)[8], const unsigned* r, int group, int within) {
            for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][within + i / 2 * 4] = __uint_as_float(r[i] & ~0x1fffu);
        },
        [](float (*b)[8], const unsigned* r, int group, int within) {
            for (int i = 0; i < 2; ++i) b[within + 4 * i][group] = __uint_as_float(r[i] & ~0x1fffu);
        });
}

// Every lane of the warp takes part in a tensor-core operation, and none may have left.
inline void full_warp(Collective operation, void* operand, const char* file, int line) {
    minillm_sim_full_warp(operation, operand, file, line);
}

template <int kCount, bool kTransposed>
__attribute__((noinline, no_sanitize("thread", "bounds"))) void load(unsigned* registers, const void* row, const char* file,
                                                                    int line) {
    int lane = running->lane;
    if (lane < 8 * kCount) minillm_sim_access(row, 16, kRead, __builtin_return_address(0));
    MatrixLoad operand{registers, row};
    full_warp(&load_matrices<kCount, kTransposed>, &operand, file, line);
}

}  // namespace minillm_sim

inline void mma_m16n8k16_bf16(float d[4], const unsigned a[4], const unsigned b[2], const float c[4], MINILLM_SITE) {
    minillm_sim::Mma operand{d, a, b, c};
    minillm_sim::full_warp(&minillm_sim::mma_bf16, &operand, file, line);
}
inline void mma_m16n8k8_tf32(float d[4], const unsigned a[4], const unsigned b[2], const float c[4], MINILLM_SITE) {
    minillm_sim::Mma operand{d, a, b, c};
    minillm_sim::full_warp(&minillm_sim::mma_tf32, &operand, file, line);
}
inline unsigned to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;  // infinite or not a number
    return (bits + 0x1000u) & ~0x1fffu;
}
inline void ldmatrix_x4(unsigned r[4], const void* shared_row, MINILLM_SITE) {
    minillm_sim::load<4, false>(r, shared_row, file, line);
}
inline void ldmatrix_x4_trans(unsigned r[4], const void* shared_row, MINILLM_SITE) {
    minillm_sim::load<4, true>(r, shared_row, file, line);
}
inline void ldmatrix_x2(unsigned r[2], const void* shared_row, MINILLM_SITE) {
    minillm_sim::load<2, false>(r, shared_row, file, line);
}
inline void ldmatrix_x2_trans(unsigned r[2], const void* shared_row, MINILLM_SITE) {
    minillm_sim::load<2, true>(r, shared_row, file, line);
}
