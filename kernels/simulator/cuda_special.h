// Special functions that CUDA has and the C library has not. In double; float results are rounded
// from them.
#pragma once

namespace minillm_sim {

constexpr double kPi = 3.14159265358979323846;

inline double sine_of_pi(double x) {
    double r = fmod(x, 2.0);  // exact
    if (r == 0.0 || __builtin_fabs(r) == 1.0) return __builtin_copysign(0.0, x);
    if (__builtin_fabs(r) == 0.5 || __builtin_fabs(r) == 1.5) return r == 0.5 || r == -1.5 ? 1.0 : -1.0;
    return sin(kPi * r);
}
inline double cosine_of_pi(double x) {
    double r = __builtin_fabs(fmod(x, 2.0));
    if (r == 0.5 || r == 1.5) return 0.0;
    return r == 1.0 ? -1.0 : cos(kPi * r);
}

// y with erf(y) = x: an approximation (Winitzki), then Newton's steps.
inline double inverse_erf(double x) {
    if (!(x > -1.0 && x < 1.0)) return x == 1.0 ? __builtin_inf() : x == -1.0 ? -__builtin_inf() : __builtin_nan("");
    double a = 0.147, l = log1p(-x * x), b = 2 / (kPi * a) + l / 2;
    double y = __builtin_copysign(__builtin_sqrt(__builtin_sqrt(b * b - l / a) - b), x);
    for (int i = 0; i < 4; ++i) y -= (erf(y) - x) / (2 / __builtin_sqrt(kPi) * exp(-y * y));
    return y;
}
// y with erfc(y) = x: small x have digits that 1 - x has lost.
inline double inverse_erfc(double x) {
    if (!(x > 0.0 && x < 2.0)) return x == 0.0 ? __builtin_inf() : x == 2.0 ? -__builtin_inf() : __builtin_nan("");
    if (x > 0.25) return inverse_erf(1 - x);
    double l = -log(x), y = __builtin_sqrt(l);
    for (int i = 0; i < 60; ++i) {  // Newton's step on log(erfc(y)), which is nearly a parabola
        double value = erfc(y), step = (log(value) + l) * value / (2 / __builtin_sqrt(kPi) * exp(-y * y));
        y += step;
        if (__builtin_fabs(step) < 1e-15 * y) break;
    }
    return y;
}
// exp(x * x) * erfc(x)
inline double scaled_erfc(double x) {
    if (x < 25.0) return exp(x * x) * erfc(x);
    double t = 1 / (x * x);  // Abramowitz and Stegun, 7.1.23
    return (1 - t / 2 * (1 - 1.5 * t * (1 - 2.5 * t))) / (x * __builtin_sqrt(kPi));
}
// The modified Bessel function of the first kind, by its power series: all terms have one sign.
inline double bessel_i(int order, double x) {
    double half = x / 2, term = order ? half : 1.0, sum = term;
    for (int k = 1; k < 2000; ++k) {
        term *= half * half / (double(k) * (k + order));
        sum += term;
        if (!(__builtin_fabs(term) > 1e-17 * __builtin_fabs(sum))) break;
    }
    return sum;
}

}  // namespace minillm_sim
