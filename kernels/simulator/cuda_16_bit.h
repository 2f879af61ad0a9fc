// Arithmetic of the 16-bit floating point types, one set for both: each operation is carried out
// exactly enough and rounded once to the type, to nearest even, as the GPU does it.
// MINILLM_16_BIT(TYPE, PAIR) declares it; cuda_fp16.h and cuda_bf16.h use it.
#pragma once

namespace minillm_sim {

// To float so that a second rounding, to 16 bits, gives what one would have given ("round to odd").
inline float to_odd(double x) {
    float near = static_cast<float>(x);
    if (static_cast<double>(near) == x || near != near) return near;
    unsigned bits = minillm_bits<unsigned>(near);
    if (__builtin_fabs(static_cast<double>(near)) > __builtin_fabs(x)) --bits;  // towards zero
    return minillm_bits<float>(bits | 1u);
}
// x * y + z for operands of at most 11 bits: the product is exact, and what the sum loses makes it
// odd.
inline float fma_to_odd(float x, float y, float z) {
    double p = static_cast<double>(x) * y, s = p + z, part = s - p;
    double lost = (p - (s - part)) + (z - part);
    if (lost != 0 && lost == lost && s - s == 0) {
        auto bits = minillm_bits<unsigned long long>(s);
        if ((lost < 0) == (s > 0)) --bits;
        s = minillm_bits<double>(bits | 1ull);
    }
    return to_odd(s);
}

}  // namespace minillm_sim

#define MINILLM_16_BIT_OPERATOR(TYPE, PAIR, SIGN)                                                                          \
    inline TYPE operator SIGN(TYPE a, TYPE b) { return TYPE(float(a) SIGN float(b)); }                                     \
    inline float operator SIGN(TYPE a, float b) { return float(a) SIGN b; }                                                \
    inline float operator SIGN(float a, TYPE b) { return a SIGN float(b); }                                                \
    inline PAIR operator SIGN(PAIR a, PAIR b) { return PAIR(a.x SIGN b.x, a.y SIGN b.y); }                                 \
    inline TYPE& operator SIGN##=(TYPE& a, TYPE b) { return a = a SIGN b; }                                                \
    inline PAIR& operator SIGN##=(PAIR& a, PAIR b) { return a = a SIGN b; }
#define MINILLM_16_BIT_COMPARISON(TYPE, PAIR, SIGN, NAME)                                                                  \
    inline bool operator SIGN(TYPE a, TYPE b) { return float(a) SIGN float(b); }                                           \
    inline bool operator SIGN(TYPE a, float b) { return float(a) SIGN b; }                                                 \
    inline bool operator SIGN(float a, TYPE b) { return a SIGN float(b); }                                                 \
    inline bool __h##NAME(TYPE a, TYPE b) { return float(a) SIGN float(b); }                                               \
    inline PAIR __h##NAME##2(PAIR a, PAIR b) { return PAIR(TYPE(float(__h##NAME(a.x, b.x))), TYPE(float(__h##NAME(a.y, b.y)))); } \
    inline bool __hb##NAME##2(PAIR a, PAIR b) { return __h##NAME(a.x, b.x) && __h##NAME(a.y, b.y); }
#define MINILLM_16_BIT_FUNCTION(TYPE, PAIR, NAME, EXPRESSION)                   \
    inline TYPE h##NAME(TYPE h) {                                               \
        double x = float(h);                                                    \
        return TYPE(minillm_sim::to_odd(EXPRESSION));                           \
    }                                                                           \
    inline PAIR h2##NAME(PAIR v) { return PAIR(h##NAME(v.x), h##NAME(v.y)); }
// An intrinsic of two numbers, and of two pairs.
#define MINILLM_16_BIT_2(TYPE, PAIR, NAME, NAME2, EXPRESSION)                   \
    inline TYPE NAME(TYPE a, TYPE b) { return EXPRESSION; }                     \
    inline PAIR NAME2(PAIR a, PAIR b) { return PAIR(NAME(a.x, b.x), NAME(a.y, b.y)); }

#define MINILLM_16_BIT(TYPE, PAIR)                                                                                         \
    MINILLM_16_BIT_OPERATOR(TYPE, PAIR, +)                                                                                 \
    MINILLM_16_BIT_OPERATOR(TYPE, PAIR, -)                                                                                 \
    MINILLM_16_BIT_OPERATOR(TYPE, PAIR, *)                                                                                 \
    MINILLM_16_BIT_OPERATOR(TYPE, PAIR, /)                                                                                 \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, ==, eq)                                                                          \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, !=, ne)                                                                          \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, <, lt)                                                                           \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, <=, le)                                                                          \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, >, gt)                                                                           \
    MINILLM_16_BIT_COMPARISON(TYPE, PAIR, >=, ge)                                                                          \
    inline TYPE operator-(TYPE a) { return TYPE(-float(a)); }                                                              \
    inline TYPE operator+(TYPE a) { return a; }                                                                            \
    inline PAIR operator-(PAIR a) { return PAIR(-a.x, -a.y); }                                                             \
    MINILLM_16_BIT_2(TYPE, PAIR, __hadd, __hadd2, a + b)                                                                   \
    MINILLM_16_BIT_2(TYPE, PAIR, __hsub, __hsub2, a - b)                                                                   \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmul, __hmul2, a * b)                                                                   \
    MINILLM_16_BIT_2(TYPE, PAIR, __hadd_rn, __hadd2_rn, a + b)                                                             \
    MINILLM_16_BIT_2(TYPE, PAIR, __hsub_rn, __hsub2_rn, a - b)                                                             \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmul_rn, __hmul2_rn, a * b)                                                             \
    MINILLM_16_BIT_2(TYPE, PAIR, __hadd_sat, __hadd2_sat, TYPE(__saturatef(float(a + b))))                                 \
    MINILLM_16_BIT_2(TYPE, PAIR, __hsub_sat, __hsub2_sat, TYPE(__saturatef(float(a - b))))                                 \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmul_sat, __hmul2_sat, TYPE(__saturatef(float(a * b))))                                 \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmax, __hmax2, TYPE(__builtin_fmaxf(float(a), float(b))))                               \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmin, __hmin2, TYPE(__builtin_fminf(float(a), float(b))))                               \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmax_nan, __hmax2_nan, float(a) != float(a) ? a : float(b) != float(b) ? b : __hmax(a, b)) \
    MINILLM_16_BIT_2(TYPE, PAIR, __hmin_nan, __hmin2_nan, float(a) != float(a) ? a : float(b) != float(b) ? b : __hmin(a, b)) \
    inline TYPE __hdiv(TYPE a, TYPE b) { return a / b; }                                                                   \
    inline PAIR __h2div(PAIR a, PAIR b) { return PAIR(a.x / b.x, a.y / b.y); }                                             \
    inline TYPE __hfma(TYPE a, TYPE b, TYPE c) { return TYPE(minillm_sim::fma_to_odd(float(a), float(b), float(c))); }     \
    inline PAIR __hfma2(PAIR a, PAIR b, PAIR c) { return PAIR(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }             \
    inline TYPE __hfma_sat(TYPE a, TYPE b, TYPE c) { return TYPE(__saturatef(float(__hfma(a, b, c)))); }                   \
    inline TYPE __hfma_relu(TYPE a, TYPE b, TYPE c) { return __hmax(__hfma(a, b, c), TYPE(0.0f)); }                        \
    inline PAIR __hfma2_relu(PAIR a, PAIR b, PAIR c) { return PAIR(__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)); } \
    inline TYPE __hneg(TYPE a) { return -a; }                                                                              \
    inline PAIR __hneg2(PAIR a) { return -a; }                                                                             \
    inline TYPE __habs(TYPE a) { return TYPE(__builtin_fabsf(float(a))); }                                                 \
    inline PAIR __habs2(PAIR a) { return PAIR(__habs(a.x), __habs(a.y)); }                                                 \
    inline bool __hisnan(TYPE a) { return float(a) != float(a); }                                                          \
    inline int __hisinf(TYPE a) { return __builtin_isinf_sign(float(a)); }                                                 \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, exp, exp(x))                                                                       \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, exp2, exp2(x))                                                                     \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, exp10, exp10(x))                                                                   \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, log, log(x))                                                                       \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, log2, log2(x))                                                                     \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, log10, log10(x))                                                                   \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, sin, sin(x))                                                                       \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, cos, cos(x))                                                                       \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, tanh, tanh(x))                                                                     \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, sqrt, __builtin_sqrt(x))                                                           \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, rsqrt, 1 / __builtin_sqrt(x))                                                      \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, rcp, 1 / x)                                                                        \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, floor, __builtin_floor(x))                                                         \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, ceil, __builtin_ceil(x))                                                           \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, rint, __builtin_rint(x))                                                           \
    MINILLM_16_BIT_FUNCTION(TYPE, PAIR, trunc, __builtin_trunc(x))                                                         \
    inline float __low2float(PAIR v) { return float(v.x); }                                                                \
    inline float __high2float(PAIR v) { return float(v.y); }                                                               \
    inline PAIR __lowhigh2highlow(PAIR v) { return PAIR(v.y, v.x); }                                                       \
    MINILLM_ATOMIC(atomicAdd, TYPE, old + value)                                                                           \
    MINILLM_ATOMIC(atomicAdd, PAIR, old + value)
