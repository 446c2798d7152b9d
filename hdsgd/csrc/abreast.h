/* Replicas abreast: numbers that are vectors with one lane for each replica, and their random numbers.

   The counterpart of alone.h: chain.c is written once, in the type V and the functions v_*, and compiled with either.
   Each lane has its own xoshiro256++, and nothing crosses lanes: what a replica does depends neither on its lane nor on
   what is in the others.

   Two normals are made of 64 random bits by Box and Muller's method: 52 for the radius, of which the last 20 are also the
   first of the angle's 32, which changes their joint law by 2^-32. Polynomials of least error are good to 5e-11.

   Sources: Box & Muller, Ann. Math. Stat. 29 (1958) 610; Marsaglia & Tsang, ACM TOMS 26 (2000) 363. Goes after random.h. */

#if defined(__AVX512F__)
#include <immintrin.h>
enum { HDSGD_WIDTH = 8 }; /* replicas in a V */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512") /* loops over lanes in one piece, too */
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { HDSGD_WIDTH = 4 };
#else
enum { HDSGD_WIDTH = 2 };
#endif
enum { HDSGD_ROWS = 1 }; /* multiple of which columns are padded to */

typedef double V __attribute__((vector_size(8 * HDSGD_WIDTH)));
typedef uint64_t hdsgd_bits __attribute__((vector_size(8 * HDSGD_WIDTH)));
typedef int64_t hdsgd_mask __attribute__((vector_size(8 * HDSGD_WIDTH)));
typedef struct {
    hdsgd_bits s[4];
} hdsgd_stream;

#define INLINE static inline __attribute__((always_inline))

INLINE V v_all(double x) { return x - (V){0}; }

#if defined(__AVX512F__)
INLINE V v_fma(V a, V b, V c) { return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
INLINE V v_inverse_root(V a) /* 1/sqrt(a), and 0 for 0: r, good to 14 bits, times (1 - e)^(-1/2), e = 1 - a r^2 */
{
    const __mmask8 nonzero = _mm512_cmp_pd_mask((__m512d)a, _mm512_setzero_pd(), _CMP_NEQ_UQ);
    const V r = (V)_mm512_maskz_rsqrt14_pd(nonzero, (__m512d)a), e = v_fma(-a * r, r, v_all(1.0));
    return v_fma(r * e, v_fma(e, v_fma(e, v_all(0.3125), v_all(0.375)), v_all(0.5)), r);
}
INLINE V v_root(V a) /* sqrt(a) for a > 0 to 5e-13: in less than half the time */
{
    const V r = (V)_mm512_rsqrt14_pd((__m512d)a), root = a * r, e = v_fma(-root, r, v_all(1.0));
    return v_fma(root * e, v_fma(e, v_all(0.375), v_all(0.5)), root);
}
INLINE int v_any_above(V a, V b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ) != 0; }
#else
#if defined(__AVX2__) && defined(__FMA__)
INLINE V v_fma(V a, V b, V c) { return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
INLINE V v_root(V a) { return (V)_mm256_sqrt_pd((__m256d)a); }
#else
INLINE V v_fma(V a, V b, V c) { return (V){FMA(a[0], b[0], c[0]), FMA(a[1], b[1], c[1])}; }
INLINE V v_root(V a) { return (V){sqrt(a[0]), sqrt(a[1])}; }
#endif
INLINE V v_inverse_root(V a) { return (V)((hdsgd_mask)(1.0 / v_root(a)) & (a != 0.0)); }
INLINE int v_any_above(V a, V b)
{
    const hdsgd_mask fine = a <= b;
    int any = 0;
    for (int w = 0; w < HDSGD_WIDTH; w++) any |= !fine[w];
    return any;
}
#endif

INLINE V v_if_positive(V x, V yes, V no)
{
    const hdsgd_mask mask = x > 0.0;
    return (V)((mask & (hdsgd_mask)yes) | (~mask & (hdsgd_mask)no));
}

INLINE V v_abs(V x) { return (V)((hdsgd_mask)x & INT64_MAX); }

#define HDSGD_BY_LANES(name, function)                                                                                 \
    INLINE V name(V x)                                                                                                 \
    {                                                                                                                  \
        double in[HDSGD_WIDTH] __attribute__((aligned(64))), out[HDSGD_WIDTH] __attribute__((aligned(64)));            \
        memcpy(in, &x, sizeof x);                                                                                      \
        _Pragma("omp simd") for (int w = 0; w < HDSGD_WIDTH; w++) out[w] = function(in[w]);                            \
        memcpy(&x, out, sizeof x);                                                                                     \
        return x;                                                                                                      \
    }
HDSGD_BY_LANES(v_student, hdsgd_student)
HDSGD_BY_LANES(v_student_prime, hdsgd_student_prime)
HDSGD_BY_LANES(v_teacher, hdsgd_teacher)

HDSGD_XOSHIRO(hdsgd_words, hdsgd_bits, hdsgd_stream) /* hdsgd_next in each lane */

#define HDSGD_ONE 0x3ff0000000000000       /* bits of 1 ... */
#define HDSGD_ROOT_HALF 0x3fe6a09e667f3bcd /* ... and of sqrt(1/2) */

static hdsgd_rng hdsgd_get_rng(const hdsgd_stream *stream, int w)
{
    return (hdsgd_rng){{stream->s[0][w], stream->s[1][w], stream->s[2][w], stream->s[3][w]}};
}

static void hdsgd_set_rng(hdsgd_stream *stream, int w, hdsgd_rng rng)
{
    for (int i = 0; i < 4; i++) stream->s[i][w] = rng.s[i];
}

INLINE V hdsgd_minus_log(V u) /* twice -log u for 0 < u < 1, from u = 2^e (1 + f) with 1 + f near 1 */
{
    static const double c[] = {-0.50000000004456335, 0.33333333619653827,  -0.24999997692993609,  0.19999941130866822,
                               -0.16666823826926574, 0.14289164800185855,  -0.1249823881958088,   0.11028403306854524,
                               -0.099361413765132703, 0.099238798029241015, -0.097714493563827623, 0.053931296078182256};
    const hdsgd_bits shifted = (hdsgd_bits)u + (HDSGD_ONE - HDSGD_ROOT_HALF), fraction = shifted & 0x000fffffffffffff;
    const V e = (V)((shifted >> 52) | 0x4330000000000000) - (0x1p52 + 1023.0), f = (V)(fraction + HDSGD_ROOT_HALF) - 1.0;
    const V f2 = f * f, f4 = f2 * f2;
    V pair[6];
    for (int i = 0; i < 6; i++) pair[i] = v_fma(v_all(c[2 * i + 1]), f, v_all(c[2 * i]));
    const V high = v_fma(pair[5], f2, pair[4]), middle = v_fma(pair[3], f2, pair[2]), low = v_fma(pair[1], f2, pair[0]);
    const V log = v_fma(f2, v_fma(v_fma(high, f4, middle), f4, low), f);
    return v_fma(e, v_all(-2.0 * 0.69314718055994531), -2.0 * log);
}

INLINE hdsgd_bits hdsgd_two_normals(hdsgd_stream *stream, V *x, V *y) /* returns what they were made of */
{
    static const double sine[] = {3.141592653536132,    -5.1677127645930003,  2.5501633179384271,
                                  -0.59925218653158296, 0.082050350201472472, -0.0070283038552030963};
    static const double cosine[] = {0.99999999999924793, -4.9348022002498499,   4.0587121075374375,
                                    -1.3352623152615699, 0.23532543658771121,  -0.02577631642731586,
                                    0.0018399894372694043};
    const hdsgd_bits bits = hdsgd_words(stream);
    const V u = (V)((bits >> 12) | HDSGD_ONE) - (1.0 - 0x1p-53);                     /* in (0, 1) */
    const V half_turn = (V)(((bits << 20) & 0x000fffffffffffff) | HDSGD_ONE) - 1.5; /* in [-1/2, 1/2) */
    const V radius = (V)((hdsgd_bits)v_root(hdsgd_minus_log(u)) ^ (bits << 63)), square = half_turn * half_turn;
    V s = v_all(sine[5]), c = v_all(cosine[6]);
    for (int i = 4; i >= 0; i--) s = v_fma(s, square, v_all(sine[i]));
    for (int i = 5; i >= 0; i--) c = v_fma(c, square, v_all(cosine[i]));
    *x = radius * c;
    *y = radius * (half_turn * s);
    return bits;
}

static __attribute__((noinline)) void hdsgd_chi2_lanes(hdsgd_stream *stream, const hdsgd_chi2_law *law, const V *x,
                                                       const V *uniform, const V *bound, V *out)
{
    for (int w = 0; w < HDSGD_WIDTH; w++) {
        if (law->nu > 1 && (*uniform)[w] <= (*bound)[w]) continue;
        hdsgd_rng rng = hdsgd_get_rng(stream, w);
        const double rest = hdsgd_uniform(&rng);
        const hdsgd_draw slow = hdsgd_chi2_slow(rng, *law, (*x)[w], (*uniform)[w] + 0x1p-12 * (rest - 1.0));
        (*out)[w] = slow.x;
        hdsgd_set_rng(stream, w, slow.rng);
    }
}

/* n standard normals and, unless NULL, a chi-square.

   The chi-square is accepted at once if w = c x > -0.6 and U <= 1 - (c x^2)^2 / 4, which is below the limit of the
   rejection. The first 12 bits of U are among the last of the angle's, which they change by 2^-19; more are drawn where
   they do not decide. */
INLINE void v_draw(hdsgd_stream *stream, V *z, int64_t n, const hdsgd_chi2_law *law, V *square)
{
    V x, none;
    hdsgd_bits bits = {0};
    for (int64_t i = 0; i + 2 <= n; i += 2) bits = hdsgd_two_normals(stream, z + i, z + i + 1);
    if (n % 2)
        bits = hdsgd_two_normals(stream, z + n - 1, &x);
    else if (square != NULL)
        bits = hdsgd_two_normals(stream, &x, &none);
    if (square == NULL) return;
    const V uniform = (V)(((bits << 39) & 0x000fff0000000000) | HDSGD_ONE) - (1.0 - 0x1p-12); /* the largest U may be */
    const V w = law->c * x, cube = 1.0 + w, flat = w * x;
    V bound = v_fma(flat, -0.25 * flat, v_all(1.0));
    if (law->c > 0.05) bound = v_if_positive(w + 0.6, bound, v_all(-1.0)); /* no normal made here is beyond 9 */
    *square = law->d * (cube * cube * (cube + cube));
    if (__builtin_expect(law->nu <= 1 || v_any_above(uniform, bound), 0)) {
        hdsgd_stream slow = *stream; /* so that the address of the generator does not escape */
        V result = *square;
        hdsgd_chi2_lanes(&slow, law, &x, &uniform, &bound, &result);
        *stream = slow, *square = result;
    }
}
