/* Vectors of random numbers for the explicit weights: xoshiro256++ in eight lanes, normals by Box and Muller's method.

   HDSGD_SINGLE chooses float, otherwise double. Loops are written to be vectorised; lanes are a property of the stream,
   not of the machine, so that the same words give the same integers everywhere. The normals end at 6.7 (float) and 8.6
   (double) standard deviations, which a normal exceeds with probability 2e-11 and 1e-17. Their two polynomials and the
   logarithm's, of least relative (cosine: absolute) error, are good to about 4e-8 and 1e-16.

   Sources: Blackman & Vigna, ACM TOMS 47 (2021) 36; Box & Muller, Ann. Math. Stat. 29 (1958) 610. */

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512") /* half as fast with the compiler's choice, 256 */
#endif

#ifdef HDSGD_SINGLE
typedef float hdsgd_real;
typedef uint32_t hdsgd_word;
#define HDSGD_SQRT sqrtf
#define HDSGD_FUSED fmaf
#define HDSGD_ONE 0x3f800000u       /* bits of 1 ... */
#define HDSGD_ROOT_HALF 0x3f3504f3u /* ... and of sqrt(1/2) */
#define HDSGD_UNIT 0x4b000000u      /* bits of 2^23, where integers are spaced by 1 */
#define HDSGD_BIAS (0x1p23f + 127.0f)
#define HDSGD_FRACTION 23
#else
typedef double hdsgd_real;
typedef uint64_t hdsgd_word;
#define HDSGD_SQRT sqrt
#define HDSGD_FUSED fma
#define HDSGD_ONE 0x3ff0000000000000u
#define HDSGD_ROOT_HALF 0x3fe6a09e667f3bcdu
#define HDSGD_UNIT 0x4330000000000000u
#define HDSGD_BIAS (0x1p52 + 1023.0)
#define HDSGD_FRACTION 52
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define HDSGD_FMA(a, b, c) HDSGD_FUSED((a), (b), (c))
#else
#define HDSGD_FMA(a, b, c) ((a) * (b) + (c))
#endif

enum {
    HDSGD_LANES = 8,
    HDSGD_CHUNK = 4096 / sizeof(hdsgd_real),   /* columns that are worked on at a time: a page of each row and input */
    HDSGD_MULTIPLE = 128 / sizeof(hdsgd_real), /* normals come in multiples of this: two vectors of lanes */
};

typedef struct {
    uint64_t s[4][HDSGD_LANES];
} hdsgd_lanes;

#if defined(__AVX512F__)
enum { HDSGD_ABREAST = 8 }; /* lanes in one register */
#elif defined(__AVX2__)
enum { HDSGD_ABREAST = 4 };
#else
enum { HDSGD_ABREAST = 2 };
#endif
typedef uint64_t hdsgd_vector __attribute__((vector_size(8 * HDSGD_ABREAST)));

static hdsgd_rng hdsgd_jump(hdsgd_rng g) /* 2^128 numbers ahead */
{
    static const uint64_t polynomial[4] = {0x180ec6d33cfd0aba, 0xd5a61266f0c9392c, 0xa9582618e03fc9aa,
                                           0x39abdc4529b1661c};
    hdsgd_rng out = {{0, 0, 0, 0}};
    for (int bit = 0; bit < 256; bit++) {
        if (polynomial[bit / 64] >> (bit % 64) & 1)
            for (int i = 0; i < 4; i++) out.s[i] ^= g.s[i];
        hdsgd_next(&g);
    }
    return out;
}

/* Lanes that never meet each other or the generator itself. */
static void hdsgd_lanes_from(hdsgd_lanes *lanes, hdsgd_rng g)
{
    for (int lane = 0; lane < HDSGD_LANES; lane++) {
        g = hdsgd_jump(g);
        for (int i = 0; i < 4; i++) lanes->s[i][lane] = g.s[i];
    }
}

static inline __attribute__((always_inline)) void hdsgd_copy_lanes(void *to, const void *from)
{
    memcpy(to, from, sizeof(hdsgd_vector));
}

#define HDSGD_TURN(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

static void hdsgd_words(hdsgd_lanes *lanes, hdsgd_word *out, int64_t n)
{
    char *to = (char *)out, *const end = (char *)(out + n);
    for (int lane = 0; lane < HDSGD_LANES; lane += HDSGD_ABREAST, to += sizeof(hdsgd_vector)) {
        hdsgd_vector s0, s1, s2, s3;
        hdsgd_copy_lanes(&s0, &lanes->s[0][lane]);
        hdsgd_copy_lanes(&s1, &lanes->s[1][lane]);
        hdsgd_copy_lanes(&s2, &lanes->s[2][lane]);
        hdsgd_copy_lanes(&s3, &lanes->s[3][lane]);
        for (char *at = to; at < end; at += sizeof lanes->s[0]) {
            const hdsgd_vector sum = s0 + s3, number = HDSGD_TURN(sum, 23) + s0, t = s1 << 17;
            s2 ^= s0;
            s3 ^= s1;
            s1 ^= s2;
            s0 ^= s3;
            s2 ^= t;
            s3 = HDSGD_TURN(s3, 45);
            hdsgd_copy_lanes(at, &number);
        }
        hdsgd_copy_lanes(&lanes->s[0][lane], &s0);
        hdsgd_copy_lanes(&lanes->s[1][lane], &s1);
        hdsgd_copy_lanes(&lanes->s[2][lane], &s2);
        hdsgd_copy_lanes(&lanes->s[3][lane], &s3);
    }
}

static inline hdsgd_real hdsgd_from_bits(hdsgd_word bits)
{
    hdsgd_real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline hdsgd_word hdsgd_to_bits(hdsgd_real x)
{
    hdsgd_word bits;
    memcpy(&bits, &x, sizeof x);
    return bits;
}

/* In (0, 1], from all bits but the last. */
static inline hdsgd_real hdsgd_fraction(hdsgd_word bits)
{
#ifdef HDSGD_SINGLE
    return HDSGD_FMA((float)(int32_t)(bits >> 1), 0x1p-31f, 0x1p-32f);
#else
    return hdsgd_from_bits((bits >> 12) | HDSGD_ONE) - (1.0 - 0x1p-53);
#endif
}

/* In [-1/2, 1/2]. */
static inline hdsgd_real hdsgd_half_turn(hdsgd_word bits)
{
#ifdef HDSGD_SINGLE
    return (float)(int32_t)bits * 0x1p-32f;
#else
    return hdsgd_from_bits((bits >> 12) | HDSGD_ONE) - 1.5;
#endif
}

#define HDSGD_POLYNOMIAL(c, x) hdsgd_polynomial((c), (int)(sizeof(c) / sizeof *(c)), (x))
static inline __attribute__((always_inline)) hdsgd_real hdsgd_polynomial(const hdsgd_real *c, int n, hdsgd_real x)
{
    hdsgd_real sum = c[n - 1];
#pragma GCC unroll 32
    for (int i = n - 2; i >= 0; i--) sum = HDSGD_FMA(sum, x, c[i]);
    return sum;
}

#ifdef HDSGD_SINGLE
static const float hdsgd_log_terms[] = {0.3333383794f, -0.2500173126f, 0.1996606795f, -0.1656624443f,
                                        0.1487113327f, -0.1434465903f, 0.08927098775f};
static const float hdsgd_sin_terms[] = {3.141592637f, -5.167709685f, 2.550069727f, -0.5982421279f, 0.07756038791f};
static const float hdsgd_cos_terms[] = {0.9999999998f, -4.934802137f, 4.058709164f,
                                        -1.335212057f, 0.234937559f,  -0.02439671661f};
#else
static const double hdsgd_log_terms[] = {
    0.333333333333332735,  -0.249999999999889863, 0.200000000000208632,  -0.166666666696403518, 0.142857142853779432,
    -0.124999997067722682, 0.111111108555863513,  -0.100000144492461008, 0.0909093279431089572, -0.0833293715082030374,
    0.076913753641981289,  -0.0714898031826687207, 0.0668607729531863813, -0.0620201624978543005, 0.0566197361775797867,
    -0.0564404093645491733, 0.0650095453627268991, -0.0607069028436121047, 0.0269484050266778197};
static const double hdsgd_sin_terms[] = {
    3.14159265358979324,     -5.16771278004996953,    2.55016403987729394,      -0.599264529318738216,
    0.0821458865698926095,   -0.00737043047876246099, 0.000466299688773173555, -0.0000219031854208053768,
    7.6947273283067905e-7};
static const double hdsgd_cos_terms[] = {
    1.0,                     -4.9348022005446793,     4.05871212641676755,      -1.33526276885455501,
    0.235330630357996016,    -0.0258068913766044693,  0.00192957418735932419,  -0.000104637417126421428,
    4.30072483167514364e-6,  -1.34352715197801075e-7};
#endif

/* n standard normals, n a multiple of HDSGD_MULTIPLE and at most HDSGD_CHUNK: the signed radius sqrt(-2 log u), whose
   sign is the last bit of u's word, times cosine and sine of an angle in the right half plane. */
static void hdsgd_normals(hdsgd_lanes *lanes, hdsgd_real *restrict x, int64_t n)
{
    hdsgd_word words[HDSGD_CHUNK] __attribute__((aligned(64)));
    hdsgd_words(lanes, words, n);
    const int64_t half = n / 2;
    const hdsgd_word *restrict radius = words, *restrict angle = words + half;
    hdsgd_real *restrict y = x + half;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        /* u = 2^e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); log(1 + f) = f - f^2/2 + f^3 polynomial(f) */
        const hdsgd_word shifted = hdsgd_to_bits(hdsgd_fraction(radius[i])) + (HDSGD_ONE - HDSGD_ROOT_HALF);
        const hdsgd_word fraction = shifted & (((hdsgd_word)1 << HDSGD_FRACTION) - 1);
        const hdsgd_real e = hdsgd_from_bits((shifted >> HDSGD_FRACTION) | HDSGD_UNIT) - HDSGD_BIAS;
        const hdsgd_real f = hdsgd_from_bits(fraction + HDSGD_ROOT_HALF) - 1;
        const hdsgd_real third = HDSGD_FMA(f, HDSGD_POLYNOMIAL(hdsgd_log_terms, f), (hdsgd_real)-0.5);
        const hdsgd_real log = HDSGD_FMA(e, (hdsgd_real)0.69314718055994531, HDSGD_FMA(f * f, third, f));
        const hdsgd_word sign = radius[i] << (8 * sizeof(hdsgd_word) - 1);
        const hdsgd_real r = hdsgd_from_bits(hdsgd_to_bits(HDSGD_SQRT(-2 * log)) ^ sign);
        const hdsgd_real a = hdsgd_half_turn(angle[i]), a2 = a * a;
        x[i] = r * HDSGD_POLYNOMIAL(hdsgd_cos_terms, a2);
        y[i] = r * (a * HDSGD_POLYNOMIAL(hdsgd_sin_terms, a2));
    }
}
