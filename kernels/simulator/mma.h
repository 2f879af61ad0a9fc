// Tensor cores by nvcuda::wmma. A fragment's elements are spread over the lanes of the warp; where
// each of them is, CUDA leaves open: here an accumulator of 16 columns lies as mma.sync has it, and
// element n of any other fragment lies with lane n % 32. Products and sums are taken in double (of
// integers: exactly) and rounded once. Loads and stores are counted and checked as 16 bytes, or a
// 32nd of the matrix, a lane.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
}  // namespace precision

}  // namespace wmma
}  // namespace nvcuda

namespace minillm_wmma {

namespace wmma = nvcuda::wmma;

template <class T> struct Stored { using type = T; };
template <> struct Stored<wmma::precision::tf32> { using type = float; };

template <class Use, int kM, int kN, int kK> struct Shape;
template <int kM, int kN, int kK> struct Shape<wmma::matrix_a, kM, kN, kK> { static constexpr int rows = kM, columns = kK; };
template <int kM, int kN, int kK> struct Shape<wmma::matrix_b, kM, kN, kK> { static constexpr int rows = kK, columns = kN; };
template <int kM, int kN, int kK> struct Shape<wmma::accumulator, kM, kN, kK> { static constexpr int rows = kM, columns = kN; };

template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;

// Whether the instruction exists.
template <int kM, int kN, int kK, class T> constexpr bool exists() {
    bool all = (kM == 16 && kN == 16) || (kM == 32 && kN == 8) || (kM == 8 && kN == 32);
    if (same<T, double>) return kM == 8 && kN == 8 && kK == 4;
    if (same<T, wmma::precision::tf32>) return kM == 16 && kN == 16 && kK == 8;
    return all && (kK == 16 || (kK == 8 && kM == 16 && kN == 16 && same<T, float>));
}
template <class Use, class T> constexpr bool has_type() {
    bool sum = same<T, __half> || same<T, float> || same<T, int> || same<T, double>;
    bool factor = same<T, __half> || same<T, __nv_bfloat16> || same<T, wmma::precision::tf32> || same<T, signed char> ||
                  same<T, unsigned char> || same<T, double>;
    return same<Use, wmma::accumulator> ? sum : factor;
}

// The place of element `index` of a lane, as row * columns + column.
template <class Use, int kRows, int kColumns> inline int place(int lane, int index) {
    if (same<Use, wmma::accumulator> && kRows == 16 && kColumns == 16)
        return (lane / 4 + index % 4 / 2 * 8) * kColumns + index / 4 * 8 + 2 * (lane % 4) + index % 2;
    return (index * 32 + lane) % (kRows * kColumns);
}

struct Transfer {
    void *fragment, *memory;
    unsigned stride;  // elements from one row, or column, to the next
    bool by_columns;
};

template <class Use, int kRows, int kColumns, class T, int kElements, bool kStore>
void transfer(void** operands, unsigned) {
    auto& first = *static_cast<Transfer*>(operands[0]);
    for (int lane = 0; lane < 32; ++lane) {
        auto& at = *static_cast<Transfer*>(operands[lane]);
        for (int i = 0; i < kElements; ++i) {
            int number = place<Use, kRows, kColumns>(lane, i), row = number / kColumns, column = number % kColumns;
            size_t offset = at.by_columns ? size_t(column) * first.stride + row : size_t(row) * first.stride + column;
            auto *element = static_cast<T*>(at.fragment) + i, *cell = static_cast<T*>(first.memory) + offset;
            kStore ? __builtin_memcpy(static_cast<void*>(cell), element, sizeof(T)) : __builtin_memcpy(static_cast<void*>(element), cell, sizeof(T));
        }
    }
}

// The same pointer and stride come from all lanes, else CUDA does not define what happens.
inline void compare(void** operands, unsigned) {
    auto& first = *static_cast<Transfer*>(operands[0]);
    for (int lane = 1; lane < 32; ++lane) {
        auto& other = *static_cast<Transfer*>(operands[lane]);
        if (other.memory != first.memory || other.stride != first.stride || other.by_columns != first.by_columns)
            first.fragment = nullptr;
    }
    for (int lane = 1; lane < 32; ++lane) static_cast<Transfer*>(operands[lane])->fragment = first.fragment;
}

template <class Use, int kRows, int kColumns, class T, int kElements, bool kStore>
__forceinline__ void move(void* fragment, const void* memory, unsigned stride, bool by_columns, const char* file, int line) {
    constexpr int kBytes = kRows * kColumns * int(sizeof(T)), kPart = kBytes / 32 < 16 ? kBytes / 32 : 16;
    if (reinterpret_cast<size_t>(memory) % 32)
        minillm_sim_trap("the address of a wmma matrix has to be a multiple of 32 bytes", file, line);
    if (stride * sizeof(T) % 16)
        minillm_sim_trap("the leading dimension of a wmma matrix has to be a multiple of 16 bytes", file, line);
    Transfer same_for_all{fragment, const_cast<void*>(memory), stride, by_columns};
    minillm_sim_full_warp(&compare, &same_for_all, file, line);
    if (!same_for_all.fragment)
        minillm_sim_trap("the lanes of a warp give different addresses or strides of a wmma matrix", file, line);
    int length = by_columns ? kRows : kColumns, parts = length * int(sizeof(T)) / kPart;
    for (int part = int(minillm_sim::running->lane); part < kBytes / kPart; part += 32) {
        const char* start = static_cast<const char*>(memory) + size_t(part / parts) * stride * sizeof(T) + part % parts * kPart;
        minillm_sim_access_here(start, kPart, kStore ? minillm_sim::kWrite : minillm_sim::kRead);
    }
    Transfer operand{fragment, const_cast<void*>(memory), stride, by_columns};
    minillm_sim_full_warp(&transfer<Use, kRows, kColumns, T, kElements, kStore>, &operand, file, line);
}

struct Product {
    void *d, *a, *b, *c;
};

template <class F> struct Sum { using type = double; };
template <> struct Sum<int> { using type = int; };

template <class A, class B, class C, class D>
void multiply(void** operands, unsigned) {
    constexpr int kM = A::kRows, kK = A::kColumns, kN = B::kColumns;
    using S = typename Sum<typename C::storage_element_type>::type;
    S a[kM * kK], b[kK * kN], sum[kM * kN];
    for (int lane = 0; lane < 32; ++lane) {
        auto& at = *static_cast<Product*>(operands[lane]);
        for (int i = 0; i < A::num_elements; ++i) a[A::place(lane, i)] = A::number(static_cast<A*>(at.a)->x[i]);
        for (int i = 0; i < B::num_elements; ++i) b[B::place(lane, i)] = B::number(static_cast<B*>(at.b)->x[i]);
        for (int i = 0; i < C::num_elements; ++i) sum[C::place(lane, i)] = C::number(static_cast<C*>(at.c)->x[i]);
    }
    for (int row = 0; row < kM; ++row)
        for (int k = 0; k < kK; ++k)
            for (int column = 0; column < kN; ++column) sum[row * kN + column] += a[row * kK + k] * b[k * kN + column];
    for (int lane = 0; lane < 32; ++lane) {
        auto& d = *static_cast<D*>(static_cast<Product*>(operands[lane])->d);
        for (int i = 0; i < D::num_elements; ++i)
            d.x[i] = static_cast<typename D::storage_element_type>(sum[D::place(lane, i)]);
    }
}

}  // namespace minillm_wmma

namespace nvcuda {
namespace wmma {

template <class Use, int m, int n, int k, class T, class Layout = void>
class fragment {
    static_assert(minillm_wmma::exists<m, n, k, T>() && minillm_wmma::has_type<Use, T>(),
                  "no tensor core has this shape of a wmma fragment with this type: half, __nv_bfloat16, signed and unsigned char "
                  "have 16x16x16, 32x8x16 and 8x32x16, precision::tf32 has 16x16x8, double has 8x8x4");

  public:
    using element_type = T;
    using storage_element_type = typename minillm_wmma::Stored<T>::type;
    static constexpr int kRows = minillm_wmma::Shape<Use, m, n, k>::rows, kColumns = minillm_wmma::Shape<Use, m, n, k>::columns;
    static constexpr bool kByColumns = minillm_wmma::same<Layout, col_major>;
    // factors in half precision are kept more than once
    static constexpr int num_elements =
        minillm_wmma::same<T, __half> && !minillm_wmma::same<Use, accumulator> ? 16 : kRows * kColumns / 32;
    static constexpr int num_storage_elements = num_elements;
    storage_element_type x[num_elements];
#ifdef MINILLM_SIMULATOR_OBSERVED  // what was never filled is no number
    fragment() { __builtin_memset(static_cast<void*>(x), 0xff, sizeof x); }
#endif

    static int place(int lane, int index) { return minillm_wmma::place<Use, kRows, kColumns>(lane, index); }
    static auto number(storage_element_type value) {
        if constexpr (minillm_wmma::same<T, precision::tf32>)  // the lower 13 bits are ignored
            return static_cast<double>(__uint_as_float(__float_as_uint(value) & ~0x1fffu));
        else if constexpr (sizeof(T) == 1 || minillm_wmma::same<T, int>)
            return static_cast<int>(value);
        else
            return static_cast<double>(value);
    }
};

template <class Use, int m, int n, int k, class T, class Layout>
__forceinline__ void fill_fragment(fragment<Use, m, n, k, T, Layout>& to,
                                   const minillm_sim::Same<typename minillm_wmma::Stored<T>::type>& value) {
    for (auto& element : to.x) element = value;
}

template <class Use, int m, int n, int k, class T, class Layout>
__forceinline__ void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& to,
                                      const minillm_sim::Same<typename minillm_wmma::Stored<T>::type>* from, unsigned stride,
                                      MINILLM_SITE) {
    using F = fragment<Use, m, n, k, T, Layout>;
    minillm_wmma::move<Use, F::kRows, F::kColumns, typename F::storage_element_type, F::num_elements, false>(
        to.x, from, stride, F::kByColumns, file, line);
}
template <int m, int n, int k, class T>
__forceinline__ void load_matrix_sync(fragment<accumulator, m, n, k, T>& to, const minillm_sim::Same<T>* from, unsigned stride,
                                      layout_t layout, MINILLM_SITE) {
    using F = fragment<accumulator, m, n, k, T>;
    minillm_wmma::move<accumulator, F::kRows, F::kColumns, T, F::num_elements, false>(to.x, from, stride,
                                                                                      layout == mem_col_major, file, line);
}
template <int m, int n, int k, class T>
__forceinline__ void store_matrix_sync(minillm_sim::Same<T>* to, const fragment<accumulator, m, n, k, T>& from, unsigned stride,
                                       layout_t layout, MINILLM_SITE) {
    using F = fragment<accumulator, m, n, k, T>;
    minillm_wmma::move<accumulator, F::kRows, F::kColumns, T, F::num_elements, true>(
        const_cast<T*>(from.x), to, stride, layout == mem_col_major, file, line);
}

template <int m, int n, int k, class T, class U, class LayoutA, class LayoutB, class C, class D>
__forceinline__ void mma_sync(fragment<accumulator, m, n, k, D>& d, const fragment<matrix_a, m, n, k, T, LayoutA>& a,
                              const fragment<matrix_b, m, n, k, U, LayoutB>& b, const fragment<accumulator, m, n, k, C>& c,
                              bool = false, MINILLM_SITE) {
    static_assert(minillm_wmma::same<T, U>, "both factors of a wmma product have one type");
    using A = fragment<matrix_a, m, n, k, T, LayoutA>;
    using B = fragment<matrix_b, m, n, k, U, LayoutB>;
    minillm_wmma::Product operand{&d, const_cast<A*>(&a), const_cast<B*>(&b), const_cast<fragment<accumulator, m, n, k, C>*>(&c)};
    minillm_sim_full_warp(&minillm_wmma::multiply<A, B, fragment<accumulator, m, n, k, C>, fragment<accumulator, m, n, k, D>>,
                          &operand, file, line);
}

// A float rounded to TF32, to nearest, ties away from zero.
__forceinline__ float __float_to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
}

}  // namespace wmma
}  // namespace nvcuda
