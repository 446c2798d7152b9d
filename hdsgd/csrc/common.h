/* What every translation unit starts with: mathematics, fused multiply-add, and asin guarded against rounding. */
#include <math.h>
#include <stddef.h>

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__) /* by default GCC uses half of the registers' width */
#pragma GCC target("prefer-vector-width=512")
#endif

#ifdef HDSGD_VECTOR_MATH /* glibc's vector library has these under their usual names */
__attribute__((simd("notinbranch"), const)) double atan2(double, double);
__attribute__((simd("notinbranch"), const)) double erf(double);
__attribute__((simd("notinbranch"), const)) double exp(double);
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define FMA(a, b, c) fma((a), (b), (c))
#else /* a software fma would cost hundreds of instructions */
#define FMA(a, b, c) ((a)*(b) + (c))
#endif

/* (asin(x) - x)/x^3 at z = x^2 <= 1/4: the minimax polynomial, whose error is 2^-59 of asin; two chains to halve the wait */
static inline double asin_series(double z)
{
    const double w = z*z;
    const double even = FMA(w, FMA(w, FMA(w, FMA(w, FMA(w, FMA(w, 0.03267655101203055, 0.021763085800154118), 0.010786480331634712),
                                          0.013980960293938466), 0.02237221565432631), 0.04464285717511558), 0.16666666666666763);
    const double odd = FMA(w, FMA(w, FMA(w, FMA(w, FMA(w, -0.021076729538094616, 0.00368321872345427), 0.011397785050241504),
                                         0.017351600193209284), 0.030381942683845174), 0.07499999999970268);
    return FMA(z, odd, even);
}

/* asin for |x| <= 1/2; the caller looks afterwards whether `largest`, the largest |x| so far, was in range */
static inline double asin_near(double x, double *largest)
{
    const double size = fabs(x), z = x*x;
    *largest = size > *largest ? size : *largest;
    return FMA(x*z, asin_series(z), x);
}

/* asin; arguments rounded beyond +-1 count as +-1.  No branches and no table: compilers vectorise it. */
static inline double asin1(double x)
{
    const double size = fabs(x) > 1.0 ? 1.0 : fabs(x), half = 0.5 - 0.5*size;
    const double z = size > 0.5 ? half : size*size, s = size > 0.5 ? sqrt(half) : size;
    const double r = FMA(s*z, asin_series(z), s);
    return copysign(size > 0.5 ? FMA(-2.0, r, 1.5707963267948966) + 6.123233995736766e-17 : r, x);
}
