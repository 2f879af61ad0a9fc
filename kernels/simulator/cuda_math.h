// The device functions of CUDA's mathematics. Fast ones (__expf, ...) are exact here: the
// approximations of the GPU's special function unit are not modelled. <math.h> and <cmath> may come
// behind this file: what the C library has is declared as it declares it, and the overloads for
// float are templates, to which those of C++ are preferred.
#pragma once

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
#ifndef NAN
#define NAN __builtin_nanf("")
#endif

#define M_E 2.7182818284590452354
#define M_LOG2E 1.4426950408889634074
#define M_LOG10E 0.43429448190325182765
#define M_LN2 0.69314718055994530942
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.78539816339744830962
#define M_1_PI 0.31830988618379067154
#define M_2_PI 0.63661977236758134308
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.70710678118654752440

namespace minillm_sim {
template <class T> struct Floating {};
template <> struct Floating<float> { using single = int; using type = int; };
template <> struct Floating<double> { using type = int; };
template <class T> struct Signed {};
template <> struct Signed<long> { using type = int; };
template <> struct Signed<long long> { using type = int; };
}  // namespace minillm_sim
#define MINILLM_SINGLE(T) class T, typename minillm_sim::Floating<T>::single = 0
#define MINILLM_FLOATING(T) class T, typename minillm_sim::Floating<T>::type = 0

// NAME(double), NAMEf(float) of the C library, and NAME(float).
#define MINILLM_MATH_1(NAME, RESULT)                        \
    extern "C" RESULT(double) NAME(double) noexcept;        \
    extern "C" RESULT(float) NAME##f(float) noexcept;       \
    template <MINILLM_SINGLE(T)>                            \
    inline RESULT(T) NAME(T x) { return NAME##f(x); }
#define MINILLM_MATH_2(NAME)                                \
    extern "C" double NAME(double, double) noexcept;        \
    extern "C" float NAME##f(float, float) noexcept;        \
    template <MINILLM_SINGLE(T)>                            \
    inline T NAME(T x, T y) { return NAME##f(x, y); }
// NAME(T, TYPE) for both types T.
#define MINILLM_MATH_WITH(NAME, TYPE)                       \
    extern "C" double NAME(double, TYPE) noexcept;          \
    extern "C" float NAME##f(float, TYPE) noexcept;         \
    template <MINILLM_SINGLE(T)>                            \
    inline T NAME(T x, TYPE y) { return NAME##f(x, y); }
#define MINILLM_ITSELF(T) T
#define MINILLM_INT(T) int
#define MINILLM_LONG(T) long
#define MINILLM_LONG_LONG(T) long long

MINILLM_MATH_1(exp, MINILLM_ITSELF)
MINILLM_MATH_1(exp2, MINILLM_ITSELF)
MINILLM_MATH_1(exp10, MINILLM_ITSELF)
MINILLM_MATH_1(expm1, MINILLM_ITSELF)
MINILLM_MATH_1(log, MINILLM_ITSELF)
MINILLM_MATH_1(log2, MINILLM_ITSELF)
MINILLM_MATH_1(log10, MINILLM_ITSELF)
MINILLM_MATH_1(log1p, MINILLM_ITSELF)
MINILLM_MATH_1(logb, MINILLM_ITSELF)
MINILLM_MATH_1(sqrt, MINILLM_ITSELF)
MINILLM_MATH_1(cbrt, MINILLM_ITSELF)
MINILLM_MATH_1(sin, MINILLM_ITSELF)
MINILLM_MATH_1(cos, MINILLM_ITSELF)
MINILLM_MATH_1(tan, MINILLM_ITSELF)
MINILLM_MATH_1(sinh, MINILLM_ITSELF)
MINILLM_MATH_1(cosh, MINILLM_ITSELF)
MINILLM_MATH_1(tanh, MINILLM_ITSELF)
MINILLM_MATH_1(asin, MINILLM_ITSELF)
MINILLM_MATH_1(acos, MINILLM_ITSELF)
MINILLM_MATH_1(atan, MINILLM_ITSELF)
MINILLM_MATH_1(asinh, MINILLM_ITSELF)
MINILLM_MATH_1(acosh, MINILLM_ITSELF)
MINILLM_MATH_1(atanh, MINILLM_ITSELF)
MINILLM_MATH_1(erf, MINILLM_ITSELF)
MINILLM_MATH_1(erfc, MINILLM_ITSELF)
MINILLM_MATH_1(lgamma, MINILLM_ITSELF)
MINILLM_MATH_1(tgamma, MINILLM_ITSELF)
MINILLM_MATH_1(floor, MINILLM_ITSELF)
MINILLM_MATH_1(ceil, MINILLM_ITSELF)
MINILLM_MATH_1(round, MINILLM_ITSELF)
MINILLM_MATH_1(rint, MINILLM_ITSELF)
MINILLM_MATH_1(nearbyint, MINILLM_ITSELF)
MINILLM_MATH_1(trunc, MINILLM_ITSELF)
MINILLM_MATH_1(fabs, MINILLM_ITSELF)
MINILLM_MATH_1(j0, MINILLM_ITSELF)
MINILLM_MATH_1(j1, MINILLM_ITSELF)
MINILLM_MATH_1(y0, MINILLM_ITSELF)
MINILLM_MATH_1(y1, MINILLM_ITSELF)
MINILLM_MATH_1(ilogb, MINILLM_INT)
MINILLM_MATH_1(lrint, MINILLM_LONG)
MINILLM_MATH_1(lround, MINILLM_LONG)
MINILLM_MATH_1(llrint, MINILLM_LONG_LONG)
MINILLM_MATH_1(llround, MINILLM_LONG_LONG)
MINILLM_MATH_2(pow)
MINILLM_MATH_2(fmod)
MINILLM_MATH_2(remainder)
MINILLM_MATH_2(atan2)
MINILLM_MATH_2(hypot)
MINILLM_MATH_2(fdim)
MINILLM_MATH_2(fmax)
MINILLM_MATH_2(fmin)
MINILLM_MATH_2(copysign)
MINILLM_MATH_2(nextafter)
MINILLM_MATH_WITH(ldexp, int)
MINILLM_MATH_WITH(scalbn, int)
MINILLM_MATH_WITH(scalbln, long)
MINILLM_MATH_WITH(frexp, int*)
extern "C" double modf(double, double*) noexcept;
extern "C" float modff(float, float*) noexcept;
template <MINILLM_SINGLE(T)>
inline T modf(T x, T* whole) { return modff(x, whole); }
extern "C" double remquo(double, double, int*) noexcept;
extern "C" float remquof(float, float, int*) noexcept;
template <MINILLM_SINGLE(T)>
inline T remquo(T x, T y, int* quotient) { return remquof(x, y, quotient); }
extern "C" double nan(const char*) noexcept;
extern "C" float nanf(const char*) noexcept;
extern "C" double jn(int, double) noexcept;
extern "C" float jnf(int, float) noexcept;
extern "C" double yn(int, double) noexcept;
extern "C" float ynf(int, float) noexcept;
extern "C" void sincos(double, double*, double*) noexcept;
extern "C" void sincosf(float, float*, float*) noexcept;
template <MINILLM_SINGLE(T)>
inline void sincos(T x, T* sine, T* cosine) { sincosf(x, sine, cosine); }
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
template <MINILLM_SINGLE(T)>
inline T fma(T x, T y, T z) { return fmaf(x, y, z); }
extern "C" int abs(int) noexcept;
extern "C" long labs(long) noexcept;
extern "C" long long llabs(long long) noexcept;
template <MINILLM_FLOATING(T)>
inline T abs(T x) { return __builtin_copysign(x, T(1)); }
template <class T, typename minillm_sim::Signed<T>::type = 0>
inline T abs(T x) { return x < 0 ? -x : x; }

template <MINILLM_FLOATING(T)>
inline bool isnan(T x) { return __builtin_isnan(x); }
template <MINILLM_FLOATING(T)>
inline bool isinf(T x) { return __builtin_isinf(x); }
template <MINILLM_FLOATING(T)>
inline bool isfinite(T x) { return __builtin_isfinite(x); }
template <MINILLM_FLOATING(T)>
inline bool signbit(T x) { return __builtin_signbit(x); }

// What CUDA has beyond the C library. As functions of C, which a newer C library may declare again.
#define MINILLM_BEYOND_1(NAME, EXPRESSION)                                      \
    extern "C" inline double NAME(double x) noexcept { return EXPRESSION; }     \
    extern "C" inline float NAME##f(float single) noexcept {                    \
        double x = single;                                                      \
        return static_cast<float>(EXPRESSION);                                  \
    }                                                                           \
    template <MINILLM_SINGLE(T)>                                                \
    inline T NAME(T x) { return NAME##f(x); }
#include "cuda_special.h"
MINILLM_BEYOND_1(rsqrt, 1.0 / __builtin_sqrt(x))
MINILLM_BEYOND_1(rcbrt, 1.0 / cbrt(x))
MINILLM_BEYOND_1(sinpi, minillm_sim::sine_of_pi(x))
MINILLM_BEYOND_1(cospi, minillm_sim::cosine_of_pi(x))
MINILLM_BEYOND_1(normcdf, 0.5 * erfc(-x * 0.70710678118654752440))
MINILLM_BEYOND_1(erfinv, minillm_sim::inverse_erf(x))
MINILLM_BEYOND_1(erfcinv, minillm_sim::inverse_erfc(x))
MINILLM_BEYOND_1(normcdfinv, -1.41421356237309504880 * minillm_sim::inverse_erfc(2 * x))
MINILLM_BEYOND_1(erfcx, minillm_sim::scaled_erfc(x))
MINILLM_BEYOND_1(cyl_bessel_i0, minillm_sim::bessel_i(0, x))
MINILLM_BEYOND_1(cyl_bessel_i1, minillm_sim::bessel_i(1, x))
#undef MINILLM_BEYOND_1
extern "C" inline void sincospi(double x, double* sine, double* cosine) noexcept { *sine = sinpi(x), *cosine = cospi(x); }
extern "C" inline void sincospif(float x, float* sine, float* cosine) noexcept { *sine = sinpif(x), *cosine = cospif(x); }
extern "C" inline float fdividef(float x, float y) noexcept { return x / y; }
inline double norm3d(double a, double b, double c) { return __builtin_sqrt(a * a + b * b + c * c); }
inline float norm3df(float a, float b, float c) { return static_cast<float>(norm3d(a, b, c)); }
inline double norm4d(double a, double b, double c, double d) { return __builtin_sqrt(a * a + b * b + c * c + d * d); }
inline float norm4df(float a, float b, float c, float d) { return static_cast<float>(norm4d(a, b, c, d)); }
inline double rnorm3d(double a, double b, double c) { return 1.0 / norm3d(a, b, c); }
inline float rnorm3df(float a, float b, float c) { return static_cast<float>(rnorm3d(a, b, c)); }
inline double rnorm4d(double a, double b, double c, double d) { return 1.0 / norm4d(a, b, c, d); }
inline float rnorm4df(float a, float b, float c, float d) { return static_cast<float>(rnorm4d(a, b, c, d)); }
inline double rhypot(double x, double y) { return 1.0 / hypot(x, y); }
inline float rhypotf(float x, float y) { return static_cast<float>(rhypot(x, y)); }

// <math.h> of GNU declares some of these names, too.
extern "C" inline float __expf(float x) noexcept { return expf(x); }
extern "C" inline float __exp10f(float x) noexcept { return exp10f(x); }
extern "C" inline float __logf(float x) noexcept { return logf(x); }
extern "C" inline float __log2f(float x) noexcept { return log2f(x); }
extern "C" inline float __log10f(float x) noexcept { return log10f(x); }
extern "C" inline float __sinf(float x) noexcept { return sinf(x); }
extern "C" inline float __cosf(float x) noexcept { return cosf(x); }
extern "C" inline float __tanf(float x) noexcept { return tanf(x); }
extern "C" inline float __tanhf(float x) noexcept { return tanhf(x); }
extern "C" inline void __sincosf(float x, float* sine, float* cosine) noexcept { sincosf(x, sine, cosine); }
extern "C" inline float __powf(float x, float y) noexcept { return powf(x, y); }
extern "C" inline float __fdividef(float x, float y) noexcept { return x / y; }
extern "C" inline float __saturatef(float x) noexcept { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
extern "C" inline float __frsqrt_rn(float x) noexcept { return rsqrtf(x); }

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
inline double min(float a, double b) { return __builtin_fmin(a, b); }
inline double min(double a, float b) { return __builtin_fmin(a, b); }
inline double max(float a, double b) { return __builtin_fmax(a, b); }
inline double max(double a, float b) { return __builtin_fmax(a, b); }
inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }
inline long long llmin(long long a, long long b) { return b < a ? b : a; }
inline long long llmax(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
