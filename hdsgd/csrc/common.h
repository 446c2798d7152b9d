/* What every translation unit starts with: mathematics, fused multiply-add, and asin guarded against rounding. */
#include <math.h>
#include <stddef.h>

#ifdef HDSGD_VECTOR_MATH /* glibc's vector library has these under their usual names */
__attribute__((simd("notinbranch"), const)) double asin(double);
__attribute__((simd("notinbranch"), const)) double atan2(double, double);
__attribute__((simd("notinbranch"), const)) double erf(double);
__attribute__((simd("notinbranch"), const)) double exp(double);
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define FMA(a, b, c) fma((a), (b), (c))
#else /* a software fma would cost hundreds of instructions */
#define FMA(a, b, c) ((a)*(b) + (c))
#endif

static inline double asin1(double x)
{
    return asin(x > 1.0 ? 1.0 : (x < -1.0 ? -1.0 : x));
}
