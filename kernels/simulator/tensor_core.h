// The matrix instructions of PTX for a warp (mma.sync, ldmatrix, stmatrix, movmatrix) in all shapes
// with one layout (PTX ISA, "Matrix fragments for mma"). With g = lane / 4, t = lane % 4 and P
// elements in a register of 32 bits:
//
//   A[i], element e:  row g + 8 (i % 2), column P t + e + 4 P (i / 2); of 8 rows: column P t + e + 4 P i
//   B[i], element e:  row P t + e + 4 P i, column g
//   C[i]:             row g + 8 (i / 2), column 2 t + i % 2
//
// Sums are taken in double (of integers: exactly) and rounded once.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "matrix_load.h"

namespace minillm_sim {

struct Tf32 {
    unsigned bits;
    operator float() const { return __uint_as_float(bits & ~0x1fffu); }
};

struct MatrixProduct {
    void* d;
    const void *a, *b, *c;
};

// The type of what the elements of T are added up in.
template <class T> struct SumOf { using type = double; };
template <> struct SumOf<signed char> { using type = int; };
template <> struct SumOf<unsigned char> { using type = int; };

template <int kRows, int kDepth, class A, class B, class C>
void matrix_product(void** operands, unsigned) {
    constexpr int kPack = sizeof(A) < 4 ? 4 / sizeof(A) : 1, kParts = kRows == 16 ? 2 : 1;
    constexpr int kOfA = kRows * kDepth / 32, kOfB = kDepth * 8 / 32, kOfC = kRows * 8 / 32;
    using Sum = typename SumOf<A>::type;
    A a[kRows][kDepth];
    B b[kDepth][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& from = *static_cast<MatrixProduct*>(operands[lane]);
        int group = lane / 4, within = lane % 4;
        for (int n = 0; n < kOfA; ++n) {
            int i = n / kPack;
            a[group + 8 * (i % kParts)][kPack * within + n % kPack + 4 * kPack * (i / kParts)] = static_cast<const A*>(from.a)[n];
        }
        for (int n = 0; n < kOfB; ++n)
            b[kPack * within + n % kPack + 4 * kPack * (n / kPack)][group] = static_cast<const B*>(from.b)[n];
    }
    for (int lane = 0; lane < 32; ++lane) {
        const auto& at = *static_cast<MatrixProduct*>(operands[lane]);
        C result[kOfC];
        for (int i = 0; i < kOfC; ++i) {
            int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            Sum sum = static_cast<Sum>(static_cast<const C*>(at.c)[i]);
            for (int k = 0; k < kDepth; ++k) sum += static_cast<Sum>(a[row][k]) * static_cast<Sum>(b[k][column]);
            result[i] = static_cast<C>(sum);
        }
        __builtin_memcpy(at.d, result, sizeof result);
    }
}

template <int kCount, bool kTransposed>
void store_matrices(void** operands, unsigned) {
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < kCount; ++m) {
            unsigned pair = static_cast<MatrixLoad*>(operands[lane])->registers[m];
            for (int i = 0; i < 2; ++i) {
                int row = kTransposed ? 2 * (lane % 4) + i : lane / 4, column = kTransposed ? lane / 4 : 2 * (lane % 4) + i;
                auto* address = static_cast<char*>(const_cast<void*>(static_cast<MatrixLoad*>(operands[8 * m + row])->row));
                auto half = static_cast<unsigned short>(pair >> 16 * i);
                __builtin_memcpy(address + 2 * column, &half, 2);
            }
        }
}

inline void transpose_matrix(void** operands, unsigned) {
    unsigned short matrix[8][8];
    for (int lane = 0; lane < 32; ++lane) __builtin_memcpy(&matrix[lane / 4][2 * (lane % 4)], *static_cast<unsigned**>(operands[lane]), 4);
    for (int lane = 0; lane < 32; ++lane) {
        unsigned low = matrix[2 * (lane % 4)][lane / 4], high = matrix[2 * (lane % 4) + 1][lane / 4];
        **static_cast<unsigned**>(operands[lane]) = low | high << 16;
    }
}

}  // namespace minillm_sim

namespace minillm_ptx {

// An array of registers, by their bits.
template <class T, int kCount> struct Registers {
    T at[kCount];
};
template <class... R> __forceinline__ auto gathered(const R&... registers) {
    Registers<unsigned, sizeof...(R)> result{{minillm_bits<unsigned>(registers)...}};
    return result;
}
template <class... R> __forceinline__ auto gathered_wide(const R&... registers) {
    Registers<double, sizeof...(R)> result{{minillm_bits<double>(registers)...}};
    return result;
}

template <int kRows, int kDepth, class A, class B, class C, class D, class X, class Y, class Z>
__forceinline__ void multiply(D& d, const X& a, const Y& b, const Z& c, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    minillm_sim::MatrixProduct operand{&d, &a, &b, &c};
    minillm_sim_full_warp(&minillm_sim::matrix_product<kRows, kDepth, A, B, C>, &operand, file, line);
}
template <int kCount, bool kTransposed, class D>
__forceinline__ void load_matrices(D& d, const void* row, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (minillm_sim::running->lane < 8 * kCount) minillm_sim_access_here(row, 16, minillm_sim::kRead);
    minillm_sim::MatrixLoad operand{d.at, row};
    minillm_sim_full_warp(&minillm_sim::load_matrices<kCount, kTransposed>, &operand, file, line);
}
template <int kCount, bool kTransposed, class D>
__forceinline__ void store_matrices(void* row, D d, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (minillm_sim::running->lane < 8 * kCount) minillm_sim_access_here(row, 16, minillm_sim::kWrite);
    minillm_sim::MatrixLoad operand{d.at, row};
    minillm_sim_full_warp(&minillm_sim::store_matrices<kCount, kTransposed>, &operand, file, line);
}
__forceinline__ unsigned transposed(unsigned pair, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    unsigned* operand = &pair;
    minillm_sim_full_warp(&minillm_sim::transpose_matrix, &operand, file, line);
    return pair;
}

}  // namespace minillm_ptx
