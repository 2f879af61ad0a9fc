// bfloat16 with the names of NVIDIA's <cuda_bf16.h>: the upper half of a float, rounded to nearest
// even, bit for bit.
#pragma once

#include "cuda_16_bit.h"

struct __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(rounded(x)) {}
    __nv_bfloat16(double x) : bits(rounded(minillm_sim::to_odd(x))) {}
    __nv_bfloat16(int x) : __nv_bfloat16(static_cast<double>(x)) {}
    __nv_bfloat16(unsigned x) : __nv_bfloat16(static_cast<double>(x)) {}
    operator float() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }

    static unsigned short rounded(float x) {
        unsigned word = __float_as_uint(x);
        if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // every NaN becomes this one
        return static_cast<unsigned short>((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
    }
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;

    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) : x(low), y(high) {}
#ifdef MINILLM_SIMULATOR_OBSERVED
    __nv_bfloat162(const __nv_bfloat162& other) { minillm_copy(this, &other); }
    __nv_bfloat162& operator=(const __nv_bfloat162& other) {
        minillm_copy(this, &other);
        return *this;
    }
#endif
};
MINILLM_16_BIT(__nv_bfloat16, __nv_bfloat162)
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return __nv_bfloat162(low, high); }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __nv_bfloat162(v.x, v.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __nv_bfloat162(x, x); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return __nv_bfloat162(low, high); }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return __nv_bfloat162(low, high); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return make_float2(v.x, v.y); }
inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __int2bfloat16_rn(int x) { return __nv_bfloat16(x); }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return __nv_bfloat162(x, x); }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 x;
    x.bits = bits;
    return x;
}
