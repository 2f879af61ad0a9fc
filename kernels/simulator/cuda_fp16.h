// float16 with the names of NVIDIA's <cuda_fp16.h>: rounded to nearest even, bit for bit.
#pragma once

#include "cuda_16_bit.h"

struct __half_raw {
    unsigned short x;
};
struct __half {
    unsigned short __x;

    __half() = default;
    __half(float x) : __x(rounded(x)) {}
    __half(double x) : __x(rounded(minillm_sim::to_odd(x))) {}
    __half(int x) : __half(static_cast<double>(x)) {}
    __half(unsigned x) : __half(static_cast<double>(x)) {}
    __half(short x) : __half(static_cast<double>(x)) {}
    __half(unsigned short x) : __half(static_cast<double>(x)) {}
    __half(long long x) : __half(static_cast<double>(x)) {}
    __half(unsigned long long x) : __half(static_cast<double>(x)) {}
    __half(__half_raw raw) : __x(raw.x) {}
    operator float() const { return widened(__x); }
    operator __half_raw() const { return {__x}; }

    static unsigned short rounded(float x) {
        unsigned word = __float_as_uint(x), sign = word >> 16 & 0x8000u, size = word & 0x7fffffffu;
        if (size > 0x7f800000u) return 0x7fff;                 // every NaN becomes this one
        if (size >= 0x477ff000u) return sign | 0x7c00u;        // 65520 and more: infinite
        if (size < 0x38800000u) {                              // below 2**-14: multiples of 2**-24
            float units = __builtin_rintf(__uint_as_float(size) * 16777216.0f);
            return static_cast<unsigned short>(sign | static_cast<unsigned>(units));
        }
        return static_cast<unsigned short>(sign | (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13);
    }
    static float widened(unsigned short half) {
        unsigned sign = (half & 0x8000u) << 16, size = half & 0x7fffu;
        if (size >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (size & 0x3ffu) << 13);
        if (size >= 0x400u) return __uint_as_float(sign | ((size << 13) + 0x38000000u));
        float tiny = static_cast<float>(size) / 16777216.0f;
        return sign ? -tiny : tiny;
    }
};
struct alignas(4) __half2 {
    __half x, y;

    __half2() = default;
    __half2(__half low, __half high) : x(low), y(high) {}
#ifdef MINILLM_SIMULATOR_OBSERVED
    __half2(const __half2& other) { minillm_copy(this, &other); }
    __half2& operator=(const __half2& other) {
        minillm_copy(this, &other);
        return *this;
    }
#endif
};
MINILLM_16_BIT(__half, __half2)
using half = __half;
using half2 = __half2;
using __nv_half = __half;
using __nv_half2 = __half2;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
namespace minillm_sim {
inline __half neighbour(float x, Rounding rounding) {  // on the side of x that the mode asks for
    __half near(x);
    float found = near;
    bool up = rounding == kUp || (rounding == kZero && x < 0), down = rounding == kDown || (rounding == kZero && x > 0);
    if (!(found > x && down) && !(found < x && up)) return near;
    int step = (found > x) == (near.__x < 0x8000) ? -1 : 1;  // bits grow away from zero
    if (near.__x == 0 || near.__x == 0x8000) return __half(__half_raw{static_cast<unsigned short>(found < x ? 1 : 0x8001)});
    return __half(__half_raw{static_cast<unsigned short>(near.__x + step)});
}
}  // namespace minillm_sim
inline __half __float2half_rz(float x) { return minillm_sim::neighbour(x, minillm_sim::kZero); }
inline __half __float2half_ru(float x) { return minillm_sim::neighbour(x, minillm_sim::kUp); }
inline __half __float2half_rd(float x) { return minillm_sim::neighbour(x, minillm_sim::kDown); }
inline __half __double2half(double x) { return __half(x); }
inline float __half2float(__half x) { return x; }
inline __half2 __float2half2_rn(float x) { return __half2(x, x); }
inline __half2 __floats2half2_rn(float low, float high) { return __half2(low, high); }
inline __half2 __float22half2_rn(float2 v) { return __half2(v.x, v.y); }
inline float2 __half22float2(__half2 v) { return make_float2(v.x, v.y); }
inline __half2 __half2half2(__half x) { return __half2(x, x); }
inline __half2 __halves2half2(__half low, __half high) { return __half2(low, high); }
inline __half2 make_half2(__half low, __half high) { return __half2(low, high); }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline __half2 __low2half2(__half2 v) { return __half2(v.x, v.x); }
inline __half2 __high2half2(__half2 v) { return __half2(v.y, v.y); }
inline __half2 __lows2half2(__half2 a, __half2 b) { return __half2(a.x, b.x); }
inline __half2 __highs2half2(__half2 a, __half2 b) { return __half2(a.y, b.y); }
inline unsigned short __half_as_ushort(__half x) { return x.__x; }
inline short __half_as_short(__half x) { return static_cast<short>(x.__x); }
inline __half __ushort_as_half(unsigned short bits) { return __half(__half_raw{bits}); }
inline __half __short_as_half(short bits) { return __ushort_as_half(static_cast<unsigned short>(bits)); }
#define MINILLM_HALF_WHOLE(TYPE, NAME)                                                                       \
    inline __half __##NAME##2half_rn(TYPE x) { return __half(static_cast<double>(x)); }                      \
    inline TYPE __half2##NAME##_rn(__half x) { return minillm_sim::whole<TYPE>(float(x), minillm_sim::kNearest); } \
    inline TYPE __half2##NAME##_rz(__half x) { return minillm_sim::whole<TYPE>(float(x), minillm_sim::kZero); }    \
    inline TYPE __half2##NAME##_ru(__half x) { return minillm_sim::whole<TYPE>(float(x), minillm_sim::kUp); }      \
    inline TYPE __half2##NAME##_rd(__half x) { return minillm_sim::whole<TYPE>(float(x), minillm_sim::kDown); }
MINILLM_HALF_WHOLE(int, int)
MINILLM_HALF_WHOLE(unsigned, uint)
MINILLM_HALF_WHOLE(short, short)
MINILLM_HALF_WHOLE(unsigned short, ushort)
MINILLM_HALF_WHOLE(long long, ll)
MINILLM_HALF_WHOLE(unsigned long long, ull)
#undef MINILLM_HALF_WHOLE
