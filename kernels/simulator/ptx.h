// What the instructions of inline PTX become (ptx.py writes the calls): registers are C++
// variables, and a value goes from one to the other by its bits.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "tensor_core.h"

namespace minillm_ptx {

// The value of a register as the instruction takes it: the same bits if the sizes agree, else
// converted as an integer.
template <class To, class From> struct Cast {
    static To of(const From& from) {
        if constexpr (sizeof(To) == sizeof(From)) {
            To to;
            __builtin_memcpy(static_cast<void*>(&to), &from, sizeof to);
            return to;
        } else {
            return static_cast<To>(from);
        }
    }
};
template <class To, class From> struct Cast<To, From*> {
    static To of(From* from) { return static_cast<To>(reinterpret_cast<size_t>(from)); }
};
template <class To, class From> __forceinline__ To as(const From& from) { return Cast<To, From>::of(from); }
template <class To, class From> __forceinline__ To as(From* from) { return Cast<To, From*>::of(from); }
template <class To, class From> __forceinline__ void put(To& to, const From& from) { to = as<To>(from); }

// A number of an operand that the constraint calls a register of type T.
template <class T, class V> __forceinline__ T in(const V& value) { return static_cast<T>(value); }
template <class T, class V> __forceinline__ T in(V* value) { return static_cast<T>(reinterpret_cast<size_t>(value)); }

// What an instruction has left in a register goes to the author's variable.
template <class T, class V> __forceinline__ void out(T& to, const V& value) {
    if constexpr (sizeof(T) == sizeof(V)) put(to, value);
    else to = static_cast<T>(value);
}

template <class A> __forceinline__ void* shared(A address) { return minillm_sim_shared_pointer(as<size_t>(address)); }
template <class A> __forceinline__ void* generic(A address) { return reinterpret_cast<void*>(as<size_t>(address)); }

template <int kParts, class T> struct Vector {
    T part[kParts];
} __attribute__((may_alias));
template <class T, class... R> __forceinline__ void load(const void* from, R&... to) {
    constexpr int n = sizeof...(R);
    using V __attribute__((aligned(sizeof(T) * n))) = Vector<n, T>;
    Vector<n, T> value = *static_cast<const V*>(from);
    int i = 0;
    (put(to, value.part[i++]), ...);
}
template <class T, class... R> __forceinline__ void store(void* to, const R&... from) {
    constexpr int n = sizeof...(R);
    using V __attribute__((aligned(sizeof(T) * n))) = Vector<n, T>;
    *static_cast<V*>(to) = Vector<n, T>{as<T>(from)...};
}

__forceinline__ unsigned warp() {
    return ((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) / 32;
}
__forceinline__ unsigned reversed(unsigned bits) { return __brev(bits); }
__forceinline__ unsigned long long reversed(unsigned long long bits) { return __brevll(bits); }
__forceinline__ int leading_zeros(unsigned bits) { return __clz(int(bits)); }
__forceinline__ int leading_zeros(unsigned long long bits) { return __clzll((long long)(bits)); }
// From a float that is a whole number: CUDA takes the nearest integer there is, and 0 for what is
// no number.
template <class T, class F> __forceinline__ T integer(F x) {
    constexpr bool kSigned = T(-1) < T(0);
    constexpr T kLeast = kSigned ? T(1ull << (sizeof(T) * 8 - 1)) : T(0), kMost = T(~kLeast);
    F end = F(2) * F(1ull << (sizeof(T) * 8 - 1 - kSigned));
    if (x != x) return 0;
    return x >= end ? kMost : x < (kSigned ? -end : F(0)) ? kLeast : T(x);
}
__forceinline__ float absolute(float x) { return fabsf(x); }
__forceinline__ double absolute(double x) { return fabs(x); }
template <class T> __forceinline__ T absolute(T x) { return x < T(0) ? T(-x) : x; }
// bfind: of a negative number the highest bit that is not its sign; -1 if there is none.
template <bool kShift, class T> __forceinline__ unsigned highest_bit(T value) {
    if (value < T(0)) value = ~value;
    if (!value) return ~0u;
    unsigned bit = 63 - __builtin_clzll(static_cast<unsigned long long>(value));
    return kShift ? unsigned(sizeof(T)) * 8 - 1 - bit : bit;
}
__forceinline__ unsigned permuted(unsigned a, unsigned b, unsigned selector) {  // prmt
    unsigned long long both = (static_cast<unsigned long long>(b) << 32) | a;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned chosen = selector >> (4 * i) & 15, byte = both >> (8 * (chosen & 7)) & 255;
        if (chosen & 8) byte = byte & 128 ? 255 : 0;  // its sign
        result |= byte << (8 * i);
    }
    return result;
}
__forceinline__ unsigned to_tf32(float x) {  // to nearest, ties away from zero
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}
__forceinline__ unsigned bits_by_table(unsigned a, unsigned b, unsigned c, unsigned table) {  // lop3
    unsigned result = 0;
    for (unsigned i = 0; i < 8; ++i)
        if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}
template <class T> __forceinline__ T extract(T value, unsigned start, unsigned length) {  // bfe
    start &= 255, length &= 255;
    constexpr unsigned kBits = sizeof(T) * 8;
    if (length == 0) return 0;
    unsigned last = start + length - 1 < kBits - 1 ? start + length - 1 : kBits - 1;
    T result = 0, sign = T(-1) < T(0) && (value >> last & 1) ? T(-1) : T(0);
    for (unsigned i = 0; i < kBits; ++i) {
        bool bit = i < length && start + i < kBits ? value >> (start + i) & 1 : sign & 1;
        if (bit) result |= T(1) << i;
    }
    return result;
}
template <class T> __forceinline__ T insert(T field, T into, unsigned start, unsigned length) {  // bfi
    for (unsigned i = 0; i < (length & 255) && i + (start & 255) < sizeof(T) * 8; ++i) {
        T bit = T(1) << (i + (start & 255));
        into = field >> i & 1 ? into | bit : into & ~bit;
    }
    return into;
}
template <class T> __forceinline__ T shifted_left(T value, unsigned by) { return by >= sizeof(T) * 8 ? 0 : value << by; }
template <class T> __forceinline__ T shifted_right(T value, unsigned by) {
    return by >= sizeof(T) * 8 ? (value < T(0) ? T(-1) : T(0)) : value >> by;
}
template <class T> __forceinline__ T high(T a, T b) {
    if constexpr (sizeof(T) == 8) return T(-1) < T(0) ? T(static_cast<__int128>(a) * b >> 64) : T((unsigned __int128)a * b >> 64);
    else if constexpr (T(-1) < T(0)) return T(static_cast<long long>(a) * b >> 32);
    else return T(static_cast<unsigned long long>(a) * b >> 32);
}

}  // namespace minillm_ptx
