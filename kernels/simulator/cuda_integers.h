// Bits, conversions with a rounding mode, and arithmetic with one.
#pragma once

template <class To, class From>
__forceinline__ To minillm_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return minillm_bits<unsigned>(x); }
inline int __float_as_int(float x) { return minillm_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return minillm_bits<float>(x); }
inline float __int_as_float(int x) { return minillm_bits<float>(x); }
inline long long __double_as_longlong(double x) { return minillm_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return minillm_bits<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(minillm_bits<unsigned long long>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(minillm_bits<unsigned long long>(x)); }
inline double __hiloint2double(int high, int low) {
    return minillm_bits<double>(static_cast<unsigned long long>(static_cast<unsigned>(high)) << 32 | static_cast<unsigned>(low));
}

namespace minillm_sim {

enum Rounding { kNearest, kZero, kUp, kDown };

// To an integer as the GPU does it: what is too large becomes the largest, NaN becomes 0.
template <class To>
inline To whole(double x, Rounding rounding) {
    x = rounding == kNearest ? __builtin_rint(x) : rounding == kUp ? __builtin_ceil(x)
        : rounding == kDown ? __builtin_floor(x) : __builtin_trunc(x);
    constexpr bool is_signed = To(-1) < To(0);
    constexpr To largest = is_signed ? To(~0ull >> (65 - 8 * sizeof(To))) : To(~0ull);
    constexpr To least = is_signed ? To(-largest - 1) : To(0);
    if (x != x) return 0;
    if (x >= 2.0 * static_cast<double>(largest / 2 + 1)) return largest;
    return x <= static_cast<double>(least) ? least : static_cast<To>(x);
}

// `nearest` is exact + error rounded to nearest, with the sign of what was lost.
template <class T>
inline T directed(T nearest, int lost, Rounding rounding) {
    T infinity = __builtin_inf();
    bool down = rounding == kDown || (rounding == kZero && nearest > 0), up = rounding == kUp || (rounding == kZero && nearest < 0);
    if (nearest != nearest || nearest == infinity || nearest == -infinity) return nearest;
    if (lost < 0 && down) return sizeof(T) == 4 ? T(__builtin_nextafterf(nearest, -infinity)) : T(__builtin_nextafter(nearest, -infinity));
    if (lost > 0 && up) return sizeof(T) == 4 ? T(__builtin_nextafterf(nearest, infinity)) : T(__builtin_nextafter(nearest, infinity));
    return nearest;
}
template <class T>
inline int sign(T x) { return (x > 0) - (x < 0); }

}  // namespace minillm_sim

// NAME_rn, NAME_rz, NAME_ru, NAME_rd
#define MINILLM_ROUNDED(DEFINE, ...)          \
    DEFINE(rn, minillm_sim::kNearest, __VA_ARGS__) \
    DEFINE(rz, minillm_sim::kZero, __VA_ARGS__)    \
    DEFINE(ru, minillm_sim::kUp, __VA_ARGS__)      \
    DEFINE(rd, minillm_sim::kDown, __VA_ARGS__)
#define MINILLM_TO_WHOLE(SUFFIX, MODE, FROM, FROM_NAME, TO, TO_NAME) \
    inline TO __##FROM_NAME##2##TO_NAME##_##SUFFIX(FROM x) { return minillm_sim::whole<TO>(x, MODE); }
#define MINILLM_FROM_WHOLE(SUFFIX, MODE, FROM, FROM_NAME, TO, TO_NAME)                                       \
    inline TO __##FROM_NAME##2##TO_NAME##_##SUFFIX(FROM x) {                                                 \
        TO y = static_cast<TO>(x);                                                                           \
        return minillm_sim::directed(y, minillm_sim::sign(static_cast<__int128>(x) - static_cast<__int128>(y)), MODE); \
    }
#define MINILLM_WHOLES(TYPE, NAME)                                                \
    MINILLM_ROUNDED(MINILLM_TO_WHOLE, float, float, TYPE, NAME)                   \
    MINILLM_ROUNDED(MINILLM_TO_WHOLE, double, double, TYPE, NAME)                 \
    MINILLM_ROUNDED(MINILLM_FROM_WHOLE, TYPE, NAME, float, float)
MINILLM_WHOLES(int, int)
MINILLM_WHOLES(unsigned, uint)
MINILLM_WHOLES(long long, ll)
MINILLM_WHOLES(unsigned long long, ull)
MINILLM_ROUNDED(MINILLM_FROM_WHOLE, long long, ll, double, double)
MINILLM_ROUNDED(MINILLM_FROM_WHOLE, unsigned long long, ull, double, double)
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
#undef MINILLM_WHOLES
#undef MINILLM_TO_WHOLE
#undef MINILLM_FROM_WHOLE

// In float the exact result or its rest fits a double; in double the rest is found by an FMA or by
// Knuth's sum.
#define MINILLM_FLOAT_ARITHMETIC(SUFFIX, MODE, ...)                                                                     \
    inline float __double2float_##SUFFIX(double x) {                                                                    \
        float y = static_cast<float>(x);                                                                                \
        return minillm_sim::directed(y, minillm_sim::sign(x - y), MODE);                                                \
    }                                                                                                                   \
    inline double __dadd_##SUFFIX(double x, double y) {                                                                 \
        double s = x + y, part = s - x;                                                                                 \
        return minillm_sim::directed(s, minillm_sim::sign((x - (s - part)) + (y - part)), MODE);                        \
    }                                                                                                                   \
    inline double __dsub_##SUFFIX(double x, double y) { return __dadd_##SUFFIX(x, -y); }                                \
    inline double __dmul_##SUFFIX(double x, double y) {                                                                 \
        double p = x * y;                                                                                               \
        return minillm_sim::directed(p, minillm_sim::sign(__builtin_fma(x, y, -p)), MODE);                              \
    }                                                                                                                   \
    inline double __ddiv_##SUFFIX(double x, double y) {                                                                 \
        double q = x / y;                                                                                               \
        return minillm_sim::directed(q, minillm_sim::sign(__builtin_fma(-q, y, x)) * (y < 0 ? -1 : 1), MODE);           \
    }                                                                                                                   \
    inline double __dsqrt_##SUFFIX(double x) {                                                                          \
        double r = __builtin_sqrt(x);                                                                                   \
        return minillm_sim::directed(r, minillm_sim::sign(__builtin_fma(-r, r, x)), MODE);                              \
    }                                                                                                                   \
    inline double __drcp_##SUFFIX(double x) { return __ddiv_##SUFFIX(1.0, x); }                                         \
    inline float __fadd_##SUFFIX(float x, float y) {                                                                    \
        float s = x + y, part = s - x;                                                                                  \
        return minillm_sim::directed(s, minillm_sim::sign((x - (s - part)) + (y - part)), MODE);                        \
    }                                                                                                                   \
    inline float __fsub_##SUFFIX(float x, float y) { return __fadd_##SUFFIX(x, -y); }                                   \
    inline float __fmul_##SUFFIX(float x, float y) {                                                                    \
        float p = x * y;                                                                                                \
        return minillm_sim::directed(p, minillm_sim::sign(static_cast<double>(x) * y - p), MODE);                       \
    }                                                                                                                   \
    inline float __fdiv_##SUFFIX(float x, float y) {                                                                    \
        float q = x / y;                                                                                                \
        return minillm_sim::directed(q, minillm_sim::sign(x - static_cast<double>(q) * y) * (y < 0 ? -1 : 1), MODE);    \
    }                                                                                                                   \
    inline float __fsqrt_##SUFFIX(float x) {                                                                            \
        float r = __builtin_sqrtf(x);                                                                                   \
        return minillm_sim::directed(r, minillm_sim::sign(x - static_cast<double>(r) * r), MODE);                       \
    }                                                                                                                   \
    inline float __frcp_##SUFFIX(float x) { return __fdiv_##SUFFIX(1.0f, x); }
MINILLM_ROUNDED(MINILLM_FLOAT_ARITHMETIC, )
#undef MINILLM_FLOAT_ARITHMETIC
#undef MINILLM_ROUNDED
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>((static_cast<long long>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline long long __mul64hi(long long a, long long b) { return static_cast<long long>((static_cast<__int128>(a) * b) >> 64); }
inline int __mul24(int a, int b) {  // the lower 24 bits of each, with their sign
    return static_cast<int>(static_cast<unsigned>(static_cast<int>(static_cast<unsigned>(a) << 8) >> 8) *
                            static_cast<unsigned>(static_cast<int>(static_cast<unsigned>(b) << 8) >> 8));
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
inline unsigned __sad(int a, int b, unsigned sum) { return sum + (a < b ? unsigned(b) - unsigned(a) : unsigned(a) - unsigned(b)); }
inline unsigned __usad(unsigned a, unsigned b, unsigned sum) { return sum + (a < b ? b - a : a - b); }
inline int __hadd(int a, int b) { return static_cast<int>((static_cast<long long>(a) + b) >> 1); }
inline int __rhadd(int a, int b) { return static_cast<int>((static_cast<long long>(a) + b + 1) >> 1); }
inline unsigned __uhadd(unsigned a, unsigned b) { return static_cast<unsigned>((0ull + a + b) >> 1); }
inline unsigned __urhadd(unsigned a, unsigned b) { return static_cast<unsigned>((1ull + a + b) >> 1); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
    return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 | __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned chosen = 0;
    for (int i = 0; i < 4; ++i) chosen |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return chosen;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31));
}
// The same, by 32 bits at most.
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) sum += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
    return sum;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int i = 0; i < 4; ++i) sum += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    return sum;
}
