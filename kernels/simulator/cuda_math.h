// The device functions of CUDA's mathematics and bit manipulation. Fast ones (__expf, ...) are exact here: the
// approximations of the GPU's special function unit are not modelled.
#pragma once

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
#ifndef NAN
#define NAN __builtin_nanf("")
#endif

// name(float) and name(double), as <math.h> has them for C, and the overload that C++ adds.
#define MINILLM_MATH_1(NAME)                                            \
    extern "C" double NAME(double) noexcept;                            \
    extern "C" float NAME##f(float) noexcept;                           \
    inline float NAME(float x) { return NAME##f(x); }
#define MINILLM_MATH_2(NAME)                                            \
    extern "C" double NAME(double, double) noexcept;                    \
    extern "C" float NAME##f(float, float) noexcept;                    \
    inline float NAME(float x, float y) { return NAME##f(x, y); }

MINILLM_MATH_1(exp)
MINILLM_MATH_1(exp2)
MINILLM_MATH_1(expm1)
MINILLM_MATH_1(log)
MINILLM_MATH_1(log2)
MINILLM_MATH_1(log10)
MINILLM_MATH_1(log1p)
MINILLM_MATH_1(sqrt)
MINILLM_MATH_1(cbrt)
MINILLM_MATH_1(sin)
MINILLM_MATH_1(cos)
MINILLM_MATH_1(tan)
MINILLM_MATH_1(sinh)
MINILLM_MATH_1(cosh)
MINILLM_MATH_1(tanh)
MINILLM_MATH_1(asin)
MINILLM_MATH_1(acos)
MINILLM_MATH_1(atan)
MINILLM_MATH_1(erf)
MINILLM_MATH_1(erfc)
MINILLM_MATH_1(floor)
MINILLM_MATH_1(ceil)
MINILLM_MATH_1(round)
MINILLM_MATH_1(rint)
MINILLM_MATH_1(trunc)
MINILLM_MATH_1(fabs)
MINILLM_MATH_2(pow)
MINILLM_MATH_2(fmod)
MINILLM_MATH_2(atan2)
MINILLM_MATH_2(fmax)
MINILLM_MATH_2(fmin)
MINILLM_MATH_2(copysign)
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" int abs(int) noexcept;
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline long long abs(long long x) { return x < 0 ? -x : x; }

inline float rsqrtf(float x) { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(x))); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
inline void sincosf(float x, float* sine, float* cosine) { *sine = sinf(x), *cosine = cosf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }

#define MINILLM_MIN_MAX(TYPE)                               \
    inline TYPE min(TYPE a, TYPE b) { return b < a ? b : a; } \
    inline TYPE max(TYPE a, TYPE b) { return a < b ? b : a; }
MINILLM_MIN_MAX(int)
MINILLM_MIN_MAX(unsigned)
MINILLM_MIN_MAX(long)
MINILLM_MIN_MAX(unsigned long)
MINILLM_MIN_MAX(long long)
MINILLM_MIN_MAX(unsigned long long)
#undef MINILLM_MIN_MAX
inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }

template <class To, class From>
__forceinline__ To minillm_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return minillm_bits<unsigned>(x); }
inline int __float_as_int(float x) { return minillm_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return minillm_bits<float>(x); }
inline float __int_as_float(int x) { return minillm_bits<float>(x); }
inline long long __double_as_longlong(double x) { return minillm_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return minillm_bits<double>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(__builtin_rintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>((static_cast<long long>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
    return reversed;
}
inline size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<size_t>(address); }
